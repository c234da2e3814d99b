"""The workers of a night in the pool: ordered, found again, given up, ordered anew."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from backbone.messages.prompt import KnownField, Store, WorkerOrder
from workflow.errors import PoolUnavailable
from workflow.ledger import Ledger
from workflow.ledger.nights import worker
from workflow.night import books
from workflow.night.settings import PromptSettings
from workflow.night.states import NightState, WorkerState
from workflow.pools.pool import Pool, PoolJob, PoolState, Resources
from workflow.settings import Settings

_LOG = logging.getLogger(__name__)
_FORGET = (PoolState.EXITED, PoolState.GONE)
_CALM_S = 120.0  # a worker that lived so long was no failed start
_HARDER_S = 5.0


@dataclass(frozen=True)
class Verdict:
    """A living worker that is to be given up, and why."""

    worker: books.Row
    reason: str


class Crew:
    """One worker for each detector, in the pool's slots that are reserved for prompt."""

    def __init__(self, settings: Settings, ledger: Ledger, pool: Pool) -> None:
        self._settings, self._prompt, self._ledger, self._pool = settings, settings.prompt, ledger, pool

    def states(self, living: list[books.Row]) -> dict[str, PoolJob]:
        """What the pool says of them; UNKNOWN is no verdict."""
        return dict(self._pool.poll([row.key for row in living])) if living else {}

    def verdicts(self, living: list[books.Row], states: dict[str, PoolJob], now: float, deaf_since: float) -> list[Verdict]:
        """Who is gone, or silent. While this supervisor itself heard nothing (until `deaf_since`) nobody is called silent."""
        found = []
        for row in living:
            reason = verdict(row, states[row.key], self._prompt, now, deaf_since)
            if reason:
                found.append(Verdict(row, reason))
        return found

    def give_up(self, connection: Connection, held: books.Row, verdict: Verdict, now: float) -> None:
        """In the ledger; what may still run of it is ended afterwards (`put_down`)."""
        row = verdict.worker
        values = {"state": WorkerState.LOST.value, "ended": now, "reason": verdict.reason}
        connection.execute(worker.update().where(worker.c.key == row.key).values(values))
        words = f"worker of detector {row.detector} lost: {verdict.reason}"
        books.tell(connection, held.name, now, "lost", words, detector=row.detector)

    def put_down(self, keys: list[str]) -> None:
        """End jobs that are no longer wanted; a pool that does not answer is asked again by the round after."""
        for key in keys:
            try:
                self._pool.kill(key, hard=True)
            except PoolUnavailable as error:
                _LOG.warning("worker %s may still run: %s", key, error)

    def missing(self, connection: Connection, held: books.Row, now: float) -> list[dict[str, Any]]:
        """Workers to order: for detectors that have none, after a wait that grows with losses one after another."""
        if NightState(held.state) not in (NightState.OPENING, NightState.OPEN):
            return []
        every = books.workers(connection, held.name, living=False)
        rows = []
        for detector in held.detectors:
            mine = [row for row in every if row.detector == detector]
            if any(row.ended is None for row in mine) or now < self._due(mine):
                continue
            ordinal = len(mine) + 1
            rows.append(
                {
                    "key": f"{held.name}-d{detector:03}-{ordinal}",
                    "night": held.name,
                    "detector": detector,
                    "ordinal": ordinal,
                    "state": WorkerState.ORDERED.value,
                    "ordered": now,
                }
            )
        self._ledger.insert_many(connection, worker, rows)
        return rows

    def _due(self, mine: list[books.Row]) -> float:
        short = 0
        for row in reversed(mine):
            if row.ended - (row.armed or row.ended) > _CALM_S:
                break
            short += 1
        if not short:
            return 0.0
        wait_s: float = min(self._prompt.again_s * 2 ** min(short - 1, 16), self._prompt.again_max_s)
        return float(mine[-1].ended) + wait_s

    def submit(self, held: books.Row, living: list[books.Row], states: dict[str, PoolJob]) -> None:
        """Bring to the pool what is ordered and not there: idempotent by key."""
        resources = Resources(memory_mb=self._prompt.memory_mb, group="prompt", priority=0)
        for row in living:
            known = states.get(row.key)
            if row.state != WorkerState.ORDERED or (known is not None and known.state is not PoolState.GONE):
                continue
            folder = self._settings.run_dir / "orders"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{row.key}.json"
            path.write_text(self.order(held, row).model_dump_json())
            try:
                self._pool.submit(row.key, path, resources)
            except PoolUnavailable as error:
                _LOG.warning("worker %s is not in the pool yet: %s", row.key, error)

    def order(self, held: books.Row, row: books.Row) -> WorkerOrder:
        """What the worker is told."""
        settings, prompt = self._settings, self._prompt
        return WorkerOrder(
            night=held.name,
            worker=row.key,
            instrument=held.instrument,
            detector=row.detector,
            day_obs=held.day_obs,
            skymap=held.skymap,
            home=str(settings.home),
            repo=settings.repo_uri,
            store=store_of(settings),
            messages=settings.messages,
            science=held.science,
            fields=tuple(KnownField.model_validate(one) for one in held.fields),
            deadline_s=prompt.deadline_s,
            beat_s=prompt.beat_s,
            in_flight=prompt.in_flight,
        )


def verdict(row: books.Row, job: PoolJob, prompt: PromptSettings, now: float, deaf_since: float) -> str:
    """Why a living worker is to be given up; empty if it is not. What the pool does not know is no reason."""
    if job.state is PoolState.EXITED:
        return f"its process ended with {job.exit_code} {job.reason}".strip()
    if job.state is PoolState.HELD:
        return f"the pool holds it: {job.reason}"
    if row.state == WorkerState.ORDERED:
        if job.state is PoolState.GONE and now - row.ordered > _HARDER_S:
            return f"the pool has no such job: {job.reason}"
        since = now - max(row.ordered, deaf_since)
        return f"not armed after {since:.0f} s" if since > prompt.arm_s else ""
    if job.state is PoolState.GONE:
        return f"its process is gone: {job.reason}"
    silence = now - max(row.beat, deaf_since)
    return f"silent for {silence:.1f} s" if silence > prompt.silent_s else ""


def store_of(settings: Settings) -> Store:
    """The prompt endpoint: the settings' own, else that of the site."""
    prompt = settings.prompt
    name = prompt.endpoint or settings.site(site_of(settings)).endpoint_name
    found = settings.endpoint_settings(name)
    credentials = getattr(found, "credentials", None)
    return Store(
        name=name,
        uri=settings.located(found.uri),
        url=found.url,
        credentials=str(settings.home / credentials) if credentials else None,
    )


def site_of(settings: Settings) -> str:
    """Whose pool has the reserved slots."""
    names = [site.name for site in settings.sites]
    return settings.prompt.site or ("ncsa" if "ncsa" in names else names[0])
