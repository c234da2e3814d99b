"""The backbone's public face: what the engine, the operators, the CLI and the demo use (docs/interfaces.md)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from backbone import ages, explain, policy_change, replicas, room, rules
from backbone.access import Principal, check_readable, publish
from backbone.catalog import Catalog
from backbone.cohorts import Cohorts, policies_in_force
from backbone.endpoint import Endpoint, ObjectInfo
from backbone.errors import ConflictError, ObjectAbsent, PachonError, PermanentError
from backbone.fetch import fetch_checked
from backbone.files import BAD, LOST, NewFile, Replica, RuleProgress
from backbone.identity import Checks, check_identity, identify
from backbone.manifest import write_manifest
from backbone.models import nearest
from backbone.opened import open_endpoints
from backbone.policy import Policy, checked_policies, load_policies
from backbone.policy_walk import Walked, work_off
from backbone.put import described, put_registered
from backbone.register import register_batch
from backbone.settings import BackboneSettings
from backbone.sweep import Sweep, SweepReport

_log = logging.getLogger(__name__)
_CHECK_S = 30.0


class Backbone:
    """A backbone that is open. `now` gives seconds since 1970 (UTC)."""

    def __init__(
        self,
        settings: BackboneSettings,
        home: Path,
        *,
        catalog: Catalog,
        endpoints: Mapping[str, Endpoint],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings, self.home, self.catalog, self.now = settings, home, catalog, now
        self._endpoints = endpoints
        catalog.set_up(settings)
        self._cohorts = Cohorts(catalog)
        self._checks, self._check_at = Checks(catalog), 0.0
        for name in sorted(catalog.unidentified & set(endpoints)):
            try:
                identify(catalog, endpoints[name])
            except PachonError as error:  # whoever must know asks again
                _log.warning("%s", error)

    @classmethod
    def open(cls, settings: BackboneSettings, home: Path | str, *, now: Callable[[], float] = time.time) -> Self:
        """Open catalog and endpoints; TransientError if the database does not answer."""
        folder = Path(home).absolute()
        catalog = Catalog.open(settings.catalog_url(folder))
        backbone = cls(settings, folder, catalog=catalog, endpoints=open_endpoints(settings, folder), now=now)
        if settings.policies and not backbone.policies_in_force():
            backbone.apply_policies(backbone.policies_as_written(), actor="settings")
        return backbone

    def close(self) -> None:
        """Let go of the catalog's connections."""
        self.catalog.close()

    def endpoint(self, name: str) -> Endpoint:
        """The endpoint of this name; PermanentError names the nearest known one."""
        if name not in self._endpoints:
            raise PermanentError(f"the backbone has no endpoint {name!r}; {nearest(name, list(self._endpoints))}")
        return self._endpoints[name]

    def _writable(self, name: str) -> Endpoint:
        """The endpoint, unless it is not the place that the catalog knows (WrongPlace): asked every half minute at most."""
        endpoint, now = self.endpoint(name), time.monotonic()
        if now >= self._check_at:
            self._checks.begin()
            self._check_at = now + _CHECK_S
        if (refusal := self._checks.refusal(endpoint)) is not None:
            self._check_at = 0.0
            raise refusal
        return endpoint

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """All endpoints by name."""
        return self._endpoints

    def register(self, at: str, files: Iterable[NewFile], actor: str, *, manifest: bool = True) -> int:
        """Register whole objects that are at endpoint `at` already: file, replica, history, and what policies ask for. Returns
        how many were new. Idempotent by key: the same SHA-256 again adds at most a place, another is a ConflictError. One
        transaction for each `settings.batch` files. Without `manifest` the objects must say what they are (put with `about`).
        """
        number, endpoint = self.catalog.endpoint_id(at), self._writable(at)
        chosen = [file.checked() for file in files]
        new = 0
        for batch in _batches(chosen, self.settings.batch):
            if manifest:
                write_manifest(endpoint, batch, now=self.now())
            with self.catalog.begin() as connection:
                new += register_batch(self.catalog, connection, self._cohorts, number, batch, actor=actor, now=self.now())
        return new

    def put(self, at: str, key: str, content: bytes | Path, about: NewFile | Mapping[str, Any], actor: str) -> ObjectInfo:
        """Store an object and register it: all or nothing to every reader, whoever dies. `about`: a NewFile of this content, or
        its fields but key, size and sha256. The same again is a success; ConflictError if the key has other content.
        """
        file = described(key, content, about)
        return put_registered(self.catalog, self._cohorts, self._writable(at), file, content, actor=actor, now=self.now())

    def require(self, name: str, keys: Iterable[str], at: str, *, by: float, priority: int = 70, actor: str) -> None:
        """A rule of its own: these files at `at`, by then (seconds since 1970). Idempotent by name."""
        target = self.catalog.endpoint_id(at)
        rules.require(self.catalog, name, keys, target, by=by, priority=priority, actor=actor, now=self.now())

    def progress(self, names: Iterable[str]) -> dict[str, RuleProgress]:
        """How far rules are; one batched query for any number."""
        return rules.progress(self.catalog, names, now=self.now())

    def release(self, name: str, actor: str) -> bool:
        """The rule is over; replicas that nothing else asks for may expire. Whether it was in force."""
        return rules.release(self.catalog, name, actor=actor, now=self.now(), grace_s=self.settings.grace_s)

    def present(self, keys: Iterable[str], at: str) -> set[str]:
        """Which of the keys are whole at `at`."""
        return replicas.present(self.catalog, keys, self.catalog.endpoint_id(at))

    def known(self, keys: Iterable[str], at: str) -> set[str]:
        """Of which of the keys there is a replica at `at`, whole, damaged or lost: whose registration has been."""
        return replicas.known(self.catalog, keys, self.catalog.endpoint_id(at))

    def locate(self, keys: Iterable[str], who: Principal | None = None) -> dict[str, list[Replica]]:
        """Where files are or will be, whole copies first; unknown keys are left out. AccessRefused where `who` may not read."""
        asked = list(keys)
        if who is not None:
            check_readable(self.catalog, asked, who, now=self.now())
        return replicas.locate(self.catalog, asked, now=self.now())

    def fetch(self, key: str, path: Path, *, who: Principal | None = None, near: str | None = None) -> ObjectInfo:
        """Copy a file to a local path from a whole replica, that of `near` if there is one; its bytes are checked. A replica that
        is found bad or missing is said so, and the next one is taken. ObjectAbsent says where the file is to be, and when.
        """
        if not path.parent.is_dir():
            raise PermanentError(f"{path.parent} is no folder: {key} cannot be copied to {path}")
        found = self.locate([key], who).get(key, [])

        def damaged(replica: Replica, state: str, why: str) -> PachonError | None:
            try:
                check_identity(self.catalog, self.endpoint(replica.endpoint))
            except PachonError as error:
                return error
            self.mark([key], replica.endpoint, state, actor="fetch", why=why)
            return None

        info = fetch_checked(found, path, self.endpoint, damaged, near)
        if info is not None:
            return info
        left = self.locate([key]).get(key, [])
        coming = [f"at {r.endpoint}: {r.state} {r.reason}".strip() for r in left]
        raise ObjectAbsent(f"{key} is nowhere whole now; {'; '.join(coming) or 'it is not registered'}")

    def policies_as_written(self, paths: Iterable[Path] | None = None) -> tuple[Policy, ...]:
        """The policies of the settings' files (or of these), checked; not yet in force."""
        chosen = self.settings.policies if paths is None else paths
        return load_policies([self.home / path for path in chosen], self.settings.endpoints)

    def policies_in_force(self) -> tuple[Policy, ...]:
        """The policies applied last. Those of the settings come into force by themselves when the catalog has none at all."""
        with self.catalog.read() as connection:
            return policies_in_force(connection)

    def effect(self, policies: Iterable[Policy]) -> policy_change.Effect:
        """What putting these policies in force would do: files, bytes, deletions."""
        chosen = checked_policies(policies, self.settings.endpoints)
        return policy_change.effect(self.catalog, chosen, now=self.now())

    def apply_policies(
        self, policies: Iterable[Policy], actor: str, *, say: Callable[[Walked], None] | None = None
    ) -> policy_change.Effect:
        """Put these policies in force in place of all others: at once for new files, when this returns for all. Registrations go
        on meanwhile; should this die, movers end it. `say` hears how many files have been gone through.
        """
        chosen = checked_policies(policies, self.settings.endpoints)
        grace_s, batch = self.settings.grace_s, self.settings.batch
        return policy_change.apply(self.catalog, chosen, actor=actor, now=self.now, grace_s=grace_s, batch=batch, say=say)

    def work_off_changes(self) -> int:
        """Go on with a change of policies that broke off; returns how many files were gone through. The mover calls it."""
        return work_off(self.catalog, now=self.now(), limit=self.settings.batch) or 0

    def explain(self, key: str) -> explain.Explanation:
        """Which policy or rule asks for which copy of a file, and what is still missing."""
        return explain.explain(self.catalog, key, now=self.now())

    def work_off_ages(self) -> tuple[int, int]:
        """What has come of age: (copies asked for, copies due for deletion). The mover and the expiry DAG call it."""
        return ages.work_off(self.catalog, now=self.now(), grace_s=self.settings.grace_s)

    def make_room(self) -> int:
        """Where places hold more than they have room for: how many copies nobody asks for need not wait to be deleted."""
        limits = {name: place.room_gb for name, place in self.settings.endpoints.items() if place.room_gb is not None}
        ids = self.catalog.endpoints
        return sum(room.make_room(self.catalog, ids[name], limit * 1e9, now=self.now()) for name, limit in limits.items())

    def sweep(
        self, at: str, *, prefix: str = "", ignore: Callable[[str], bool] | None = None, actor: str = "sweep"
    ) -> SweepReport:
        """Settle what does not fit at `at`: puts that broke off, objects without a row, rows without an object."""
        sweep = Sweep(self.catalog, self._cohorts, self.endpoint(at), prefix=prefix, ignore=ignore, actor=actor)
        return sweep.run(now=self.now(), grace_s=self.settings.intent_grace_s)

    def publish(self, keys: Iterable[str], actor: str) -> int:
        """Make files public, not before the minimum age of their policies. Returns how many were not published before."""
        return publish(self.catalog, keys, actor=actor, now=self.now())

    def mark(self, keys: Sequence[str], at: str, state: str, *, actor: str, why: str) -> int:
        """Say that replicas are BAD or LOST: they are made again from good ones. Returns how many were AVAILABLE."""
        if state not in (BAD, LOST):
            raise ConflictError(f"a replica is marked {BAD} or {LOST}, not {state}")
        number = self.catalog.endpoint_id(at)
        with self.catalog.begin() as connection:
            return replicas.mark(self.catalog, connection, keys, number, state, actor=actor, why=why, now=self.now())


def _batches(files: list[NewFile], size: int) -> list[list[NewFile]]:
    return [files[start : start + size] for start in range(0, len(files), size)]
