"""A change of policies: what it would do (files, bytes, deletions), and doing it; only what differs is touched.

Policies are compared as they fall on cohorts: a changed text that asks for the same changes nothing. What a change would do is
counted, and what it asks of each cohort worked out, while registrations go on; they wait only while that is written down. What
follows for files that are there already is walked through in batches (backbone/policy_walk.py).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone import policy_walk
from backbone import tables as t
from backbone.catalog import Catalog
from backbone.cohorts import lock_policies, policies_in_force, shared_of, want_rows
from backbone.history import note
from backbone.policy import Policy
from backbone.policy_plan import Plan, plan_for
from backbone.policy_walk import NO_RULE, OVER, WANTED, Walked

_EVER = 1e300
_COMPARED = ("priority", "within_s", "after_s", "keep_s", "fetch", "policies")


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointEffect:
    """What changes at one endpoint: copies to be made, copies that become due for deletion after the grace period."""

    endpoint: str
    copies: int
    copy_bytes: int
    deletions: int
    deletion_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """What a change of policies does. `cohorts`: how many kinds of files are asked something else of."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    cohorts: int
    endpoints: tuple[EndpointEffect, ...]


# What would change, beside the table of what does: nobody else sees it.
_PROPOSAL = t.change.to_metadata(sa.MetaData(), name="bb_proposal")
_TEMPORARY = "CREATE TEMP TABLE IF NOT EXISTS bb_proposal AS SELECT * FROM bb_change WHERE false"

_COPIES = f"""
SELECT d.endpoint, count(*) AS files, sum(f.size) AS bytes FROM bb_proposal {WANTED}
WHERE d.fetch
 AND NOT EXISTS (SELECT 1 FROM bb_replica r WHERE r.file = f.id AND r.endpoint = d.endpoint AND r.state = 'AVAILABLE')
 AND NOT EXISTS (SELECT 1 FROM bb_transfer x WHERE x.file = f.id AND x.target = d.endpoint)
GROUP BY d.endpoint
"""
_DELETIONS = f"""
SELECT d.endpoint, count(*) AS files, sum(f.size) AS bytes FROM bb_proposal {OVER}
JOIN bb_replica r ON r.file = f.id AND r.endpoint = d.endpoint AND r.state = 'AVAILABLE' AND r.due IS NULL
WHERE NOT (d.gone AND r.origin) AND {NO_RULE}
GROUP BY d.endpoint
"""
_FORGET = """
DELETE FROM bb_want WHERE EXISTS (SELECT 1 FROM bb_change d WHERE d.cohort = bb_want.cohort AND d.endpoint = bb_want.endpoint)
"""


@dataclass
class _Plans:
    """What differs: wants that are not as before, plans of the cohorts of which something differs, and what follows for files.
    `seen`: the cohorts that were looked at.
    """

    wants: list[dict[str, Any]] = field(default_factory=list)
    plans: dict[int, Plan] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)


def effect(catalog: Catalog, policies: Iterable[Policy], *, now: float) -> Effect:
    """What `apply` of these policies, in place of those in force, would do now; nothing is changed."""
    chosen = tuple(policies)
    with catalog.read() as connection:
        old, plans = policies_in_force(connection), _Plans()
        _compare(catalog, connection, chosen, plans, now=now, grace_s=0.0)
        return _effect(catalog, connection, plans, old, chosen)


def apply(
    catalog: Catalog,
    policies: Iterable[Policy],
    *,
    actor: str,
    now: Callable[[], float],
    grace_s: float,
    batch: int,
    say: Callable[[Walked], None] | None = None,
) -> Effect:
    """Put these policies in force in place of all others. They hold at once for what is registered from then on; when this
    returns, for all files, `batch` of them in a transaction. If it breaks off in between, movers go on. Returns what it does.
    """
    chosen = tuple(policies)
    while True:
        policy_walk.finish(catalog, now=now, batch=batch)  # what an earlier change left: changes are told from what holds for all
        with catalog.read() as connection:
            at, old, stamp, plans = now(), policies_in_force(connection), _stamp(connection), _Plans()
            _compare(catalog, connection, chosen, plans, now=at, grace_s=grace_s)
            report = _effect(catalog, connection, plans, old, chosen)
        with catalog.begin() as connection:
            lock_policies(catalog, connection)
            if _stamp(connection) == stamp and not policy_walk.is_open(connection):
                _compare(catalog, connection, chosen, plans, now=at, grace_s=grace_s)  # kinds of files that are new since
                _write(catalog, connection, chosen, plans, at)
                named = {"added": report.added, "changed": report.changed, "removed": report.removed}
                why = "; ".join(f"{what}: {', '.join(names)}" for what, names in named.items() if names)
                note(connection, at=at, actor=actor, what="policies", why=why or "as before")
                break
    policy_walk.finish(catalog, now=now, batch=batch, say=say)
    return report


def _stamp(connection: Connection) -> list[tuple[Any, ...]]:
    """Differs where another change of policies came between."""
    return [tuple(row) for row in connection.execute(sa.select(t.policy.c.name, t.policy.c.applied).order_by(t.policy.c.name))]


def _write(catalog: Catalog, connection: Connection, policies: tuple[Policy, ...], plans: _Plans, now: float) -> None:
    """Everything but what follows for files, whose walk is begun."""
    connection.execute(t.policy.delete())
    rows = [{"name": p.name, "definition": p.model_dump(mode="json"), "applied": now} for p in policies]
    catalog.insert_many(connection, t.policy, rows)
    _set_cohorts(connection, plans.plans)
    catalog.insert_many(connection, t.change, plans.changes)
    connection.execute(sa.text(_FORGET))
    catalog.insert_many(connection, t.want, plans.wants)
    policy_walk.begin(catalog, connection, {change["cohort"] for change in plans.changes})


def _set_cohorts(connection: Connection, plans: dict[int, Plan]) -> None:
    if plans:
        names = next(iter(plans.values())).of_cohort()
        statement = (
            t.cohort.update().where(t.cohort.c.id == sa.bindparam("number")).values({n: sa.bindparam(f"new_{n}") for n in names})
        )
        rows = [{"number": number, **{f"new_{n}": v for n, v in plan.of_cohort().items()}} for number, plan in plans.items()]
        connection.execute(statement, rows)


def _compare(
    catalog: Catalog, connection: Connection, policies: tuple[Policy, ...], plans: _Plans, *, now: float, grace_s: float
) -> None:
    """Add to `plans` what differs for cohorts that were not looked at yet."""
    cohorts = _unseen(connection, plans.seen)
    stored: dict[int, dict[int, sa.Row[Any]]] = {}
    for row in _wants_of(catalog, connection, [cohort.id for cohort in cohorts]):
        stored.setdefault(row.cohort, {})[row.endpoint] = row
    for cohort in cohorts:
        plan = plan_for(policies, shared_of(cohort), catalog.endpoints)
        new = {row["endpoint"]: row for row in want_rows(cohort.id, plan, catalog.endpoints)}
        old = stored.get(cohort.id, {})
        other = [number for number in sorted(new.keys() | old.keys()) if not _same(old.get(number), new.get(number))]
        if other or any(getattr(cohort, name) != value for name, value in plan.of_cohort().items()):
            plans.plans[cohort.id] = plan
        plans.wants += [new[number] for number in other if number in new]
        due = now + (grace_s if plan.grace_s is None else plan.grace_s)
        plans.changes += [_change(cohort.id, number, new.get(number), now, due) for number in other]
        plans.seen.add(cohort.id)


def _unseen(connection: Connection, seen: Container[int]) -> list[sa.Row[Any]]:
    """All cohorts; or those that are not `seen`, found without reading all again."""
    if not seen:
        return list(connection.execute(sa.select(t.cohort)))
    new = [number for number in connection.execute(sa.select(t.cohort.c.id)).scalars() if number not in seen]
    return list(connection.execute(sa.select(t.cohort).where(t.cohort.c.id.in_(new)))) if new else []


def _wants_of(catalog: Catalog, connection: Connection, cohorts: list[int]) -> Iterable[sa.Row[Any]]:
    return connection.execute(sa.select(t.want).where(catalog.among(t.want.c.cohort, cohorts))) if cohorts else ()


def _same(old: sa.Row[Any] | None, new: dict[str, Any] | None) -> bool:
    if old is None or new is None:
        return old is None and new is None
    return all(getattr(old, name) == new[name] for name in _COMPARED)


def _change(cohort: int, endpoint: int, new: dict[str, Any] | None, now: float, due: float) -> dict[str, Any]:
    if new is None:
        why = "no policy asks for it any more"
        nothing = {
            "priority": 0,
            "within_s": 0.0,
            "after_s": 0.0,
            "keep_s": None,
            "fetch": False,
            "gone": True,
            "first": now,
            "last": now,
        }
        return {"cohort": cohort, "endpoint": endpoint, **nothing, "until": _EVER, "due": due, "why": why}
    until = None if new["keep_s"] is None else now - new["keep_s"]
    said = {name: new[name] for name in ("cohort", "endpoint", "priority", "within_s", "after_s", "keep_s", "fetch")}
    span = {"first": -_EVER if until is None else until, "last": now - new["after_s"], "until": until}
    return {**said, "gone": False, **span, "due": due, "why": f"kept its time: {', '.join(new['policies'])}"}


def _effect(catalog: Catalog, connection: Connection, plans: _Plans, old: tuple[Policy, ...], new: tuple[Policy, ...]) -> Effect:
    connection.exec_driver_sql(_TEMPORARY)
    connection.exec_driver_sql("DELETE FROM bb_proposal")
    catalog.insert_many(connection, _PROPOSAL, plans.changes)
    copies = {row.endpoint: row for row in connection.execute(sa.text(_COPIES))}
    deletions = {row.endpoint: row for row in connection.execute(sa.text(_DELETIONS))}
    numbers = sorted({change["endpoint"] for change in plans.changes})
    before, after = {p.name: p for p in old}, {p.name: p for p in new}
    return Effect(
        added=tuple(sorted(after.keys() - before.keys())),
        changed=tuple(sorted(name for name in after.keys() & before.keys() if after[name] != before[name])),
        removed=tuple(sorted(before.keys() - after.keys())),
        cohorts=len({change["cohort"] for change in plans.changes}),
        endpoints=tuple(
            EndpointEffect(
                endpoint=catalog.names[number],
                copies=copies[number].files if number in copies else 0,
                copy_bytes=int(copies[number].bytes) if number in copies else 0,
                deletions=deletions[number].files if number in deletions else 0,
                deletion_bytes=int(deletions[number].bytes) if number in deletions else 0,
            )
            for number in numbers
        ),
    )
