"""Cohorts: files that differ in key, content and date alone. A new one gets its wants from the policies in force, once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone import tables as t
from backbone.catalog import Catalog
from backbone.files import SHARED
from backbone.policy import Policy
from backbone.policy_plan import Plan, plan_for

_POLICY_LOCK = 7_224_663  # registrations share it, a change of policies takes it alone: no file falls between old and new


def share_policies(catalog: Catalog, connection: Connection) -> None:
    """Until the transaction ends no policy changes."""
    if catalog.is_postgresql:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock_shared(_POLICY_LOCK)))


def lock_policies(catalog: Catalog, connection: Connection) -> None:
    """Until the transaction ends nothing is registered."""
    if catalog.is_postgresql:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_POLICY_LOCK)))


def policies_in_force(connection: Connection) -> tuple[Policy, ...]:
    """Those applied last, by name."""
    rows = connection.execute(sa.select(t.policy.c.definition).order_by(t.policy.c.name))
    return tuple(Policy.model_validate(row.definition) for row in rows)


class Cohorts:
    """Numbers of cohorts, remembered by this process (they never change)."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: dict[tuple[str, ...], int] = {}

    def numbers(self, connection: Connection, wanted: Iterable[tuple[str, ...]]) -> Mapping[tuple[str, ...], int]:
        """A number for each of these (values of SHARED), made where it is new; inside a transaction that shares the policies."""
        asked = set(wanted)
        new = asked - self._known.keys()
        if not new:
            return self._known
        found = self._find(connection, new)
        missing = sorted(new - found.keys())
        if missing:
            self._make(connection, missing)
            found |= self._find(connection, missing)
        # Numbers made in a transaction that is rolled back would be remembered wrongly: only those seen before it are kept.
        self._known |= {key: found[key] for key in new - set(missing)}
        return {**self._known, **found}

    def _find(self, connection: Connection, wanted: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
        columns = [t.cohort.c[name] for name in SHARED]
        types = {shared[0] for shared in wanted}
        collections = {shared[1] for shared in wanted}
        rows = connection.execute(
            sa.select(t.cohort.c.id, *columns).where(
                self._catalog.among(t.cohort.c.dataset_type, types), self._catalog.among(t.cohort.c.collection, collections)
            )
        )
        chosen = set(wanted)
        return {tuple(row[1:]): row.id for row in rows if tuple(row[1:]) in chosen}

    def _make(self, connection: Connection, shared: list[tuple[str, ...]]) -> None:
        policies = policies_in_force(connection)
        for values in shared:
            named = dict(zip(SHARED, values, strict=True))
            plan = plan_for(policies, named, self._catalog.endpoints)
            if self._catalog.insert_first(connection, t.cohort, {**named, **plan.of_cohort()}):
                number = self._find(connection, [values])[values]
                rows = want_rows(number, plan, self._catalog.endpoints)
                self._catalog.insert_many(connection, t.want, rows)


def want_rows(cohort: int, plan: Plan, endpoints: Mapping[str, int]) -> list[dict[str, Any]]:
    """Rows of the table of wants for a cohort without files: nothing of its ages is worked off yet."""
    never = -1e300
    return [
        {
            "cohort": cohort,
            "endpoint": endpoints[name],
            "priority": want.priority,
            "within_s": want.within_s,
            "after_s": want.after_s,
            "keep_s": want.keep_s,
            "fetch": want.fetch,
            "policies": list(want.policies),
            "copied_to": never,
            "copy_at": None,
            "expired_to": never,
            "expire_at": None,
        }
        for name, want in plan.wants.items()
    ]


def shared_of(row: Any) -> dict[str, str]:
    """The values of SHARED of a row of cohorts."""
    return {name: getattr(row, name) for name in SHARED}


def tags_of(text: str) -> tuple[str, ...]:
    """Tags as a file has them."""
    return tuple(json.loads(text))
