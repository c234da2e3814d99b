"""The books of the observatory's door: which command became which run of Airflow and which campaign."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from backbone.errors import PermanentError


class CommandConflict(PermanentError):
    """A command id was used for something else before."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command as it was understood."""

    command: str
    """The commander's own id, or the run id where it gave none."""
    run: str
    """DAG id and run id, with a slash between."""
    campaign: str
    actor: str
    payload: Mapping[str, Any]
    """The validated conf."""


def record(home: str, command: Command) -> Command:
    """Write a command down once; the same command again changes nothing, another one under its id is CommandConflict.

    A second campaign of the same run (a release's mini and full) keeps the first's entry.
    """
    from workflow.ledger.store import Ledger
    from workflow.ledger.tables import command_run
    from workflow.settings import Settings

    ledger = Ledger.open(Settings.load(home).ledger_url)
    try:
        with ledger.begin() as connection:
            row = {**asdict(command), "payload": dict(command.payload), "at": time.time()}
            ledger.insert_new(connection, command_run, [row])
        known = find(ledger, command.command)
    finally:
        ledger.close()
    if known is None or known.run != command.run or dict(known.payload) != dict(command.payload):
        other = known.run if known else "?"
        raise CommandConflict(f"command {command.command} was already given, as run {other}: use a new id, or the same conf")
    return known


def find(ledger: Any, command: str) -> Command | None:
    """What a command became; None if it was never given."""
    import sqlalchemy as sa

    from workflow.ledger.tables import command_run

    rows = ledger.all(sa.select(command_run).where(command_run.c.command == command))
    return Command(**{k: getattr(rows[0], k) for k in Command.__dataclass_fields__}) if rows else None


def summary(home: str, command: str) -> dict[str, Any]:
    """How a command is going: its run, its campaign's state step by step, and what became of the calibrations it made.

    LookupError where the command was never given.
    """
    books = _books(home)
    known = find(books.ledger, command)
    if known is None:
        raise LookupError(f"no command {command!r} was given")
    status = books.campaigns.status(known.campaign).as_json()
    certifications = books.campaigns.certifications
    made = [one for one in certifications.every() if one.campaign == known.campaign]
    products = [asdict(product) for one in made for product in certifications.products(one.collection)]
    alarms = [alarm for alarm in books.quality.alarms() if alarm.source == known.campaign]
    return {
        **asdict(known),
        "state": status["state"],
        "reason": status["reason"],
        "steps": status["steps"],
        "certifications": [asdict(one) for one in made],
        "products": products,
        "alarms": [{"id": a.id, "severity": a.severity, "words": a.words, "subject": dict(a.subject)} for a in alarms],
    }


@dataclass(frozen=True)
class _Books:
    ledger: Any
    campaigns: Any
    quality: Any


@lru_cache(maxsize=4)
def _books(home: str) -> _Books:
    """Opened once for a process: the web server is asked again and again while a command is under way."""
    from backbone.qc import Quality
    from workflow.campaigns import Campaigns
    from workflow.ledger.store import Ledger
    from workflow.settings import Settings

    settings = Settings.load(home)
    return _Books(Ledger.open(settings.ledger_url), Campaigns(settings), Quality.open(home))
