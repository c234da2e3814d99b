"""Why a file is where it is: which policy or rule asks for which copy, what is still missing, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone import tables as t
from backbone.access import public_at
from backbone.catalog import Catalog
from backbone.files import AVAILABLE

_NOT_WALKED = "a change of policies is being worked off, and has not come to this file yet"
_NOT_YET, _OVER, _LET_BE, _MISSING = "NOT_YET", "OVER", "NOT_FETCHED", "MISSING"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One copy that is, was or will be asked for, or that is simply there (`by` is empty). Times in seconds since 1970; `state`:
    a replica's or a transfer's, or NOT_YET, OVER, NOT_FETCHED, MISSING. `lacking` is empty where nothing is missing.
    """

    endpoint: str
    by: tuple[str, ...]
    begins: float | None
    until: float | None
    priority: int | None
    state: str
    lacking: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Everything the backbone means to do with a file."""

    key: str
    dataset_type: str
    collection: str
    created: float
    owner: str
    access: str
    public_at: float | None
    dropped: float | None
    asks: tuple[Ask, ...]

    @property
    def missing(self) -> tuple[Ask, ...]:
        """What is asked for and not there."""
        return tuple(ask for ask in self.asks if ask.lacking)


def explain(catalog: Catalog, key: str, *, now: float) -> Explanation:
    """What is asked for a file, by whom, and what is missing; UnknownFile if there is none."""
    with catalog.read() as connection:
        number = catalog.file_ids(connection, [key])[key]
        joined = sa.select(t.file, t.cohort).join(t.cohort, t.cohort.c.id == t.file.c.cohort).where(t.file.c.id == number)
        file = connection.execute(joined).mappings().one()
        replicas = _by_endpoint(connection, t.replica, t.replica.c.endpoint, number)
        transfers = _by_endpoint(connection, t.transfer, t.transfer.c.target, number)
        wants = {row.endpoint: row for row in connection.execute(sa.select(t.want).where(t.want.c.cohort == file["cohort"]))}
        rules = connection.execute(
            sa.select(t.rule).join(t.rule_file, t.rule_file.c.rule == t.rule.c.id).where(t.rule_file.c.file == number)
        ).all()
        walked = _is_walked(connection, file["cohort"], (file["created"], number))
    asks = [_policy(catalog, row, file["created"], replicas, transfers, now) for row in wants.values()]
    asks += [
        _ask(catalog, rule.target, (f"rule {rule.name}",), rule.created, None, rule.priority, replicas, transfers)
        for rule in rules
    ]
    named = {*wants, *(rule.target for rule in rules)}
    rest = sorted((replicas.keys() | transfers.keys()) - named)
    asks += [_unasked(catalog, endpoint, replicas, transfers) for endpoint in rest]
    if not walked:
        asks = [replace(ask, lacking=_NOT_WALKED) if ask.state == _MISSING else ask for ask in asks]
    return Explanation(
        key=key,
        dataset_type=file["dataset_type"],
        collection=file["collection"],
        created=file["created"],
        owner=file["owner"],
        access=file["access"],
        public_at=public_at(file["created"], file["public_from"], file["public_after_s"], file["public_latest_s"]),
        dropped=file["dropped"],
        asks=tuple(sorted(asks, key=lambda ask: (ask.endpoint, ask.by))),
    )


def _is_walked(connection: Connection, cohort: int, file: tuple[float, int]) -> bool:
    """Whether the last change of policies has come to this file: (created, number)."""
    walk = connection.execute(sa.select(t.walk).where(t.walk.c.cohort == cohort)).one_or_none()
    return walk is None or file[1] > walk.last or file <= (walk.created, walk.file)


def _by_endpoint(connection: Connection, table: sa.Table, column: sa.Column[int], file: int) -> dict[int, Any]:
    rows = connection.execute(sa.select(table).where(table.c.file == file)).all()
    return {getattr(row, column.name): row for row in rows}


def _policy(catalog: Catalog, want: Any, created: float, replicas: dict[int, Any], transfers: dict[int, Any], now: float) -> Ask:
    begins, until = created + want.after_s, None if want.keep_s is None else created + want.keep_s
    by = tuple(f"policy {name}" for name in want.policies)
    ask = _ask(catalog, want.endpoint, by, begins, until, want.priority, replicas, transfers)
    if until is not None and until <= now:
        return _as(ask, ask.state if want.endpoint in replicas else _OVER)
    if begins > now:
        return _as(ask, ask.state if want.endpoint in replicas else _NOT_YET)
    if not want.fetch and want.endpoint not in replicas and want.endpoint not in transfers:
        return _as(ask, _LET_BE)
    return ask


def _as(ask: Ask, state: str) -> Ask:
    return Ask(
        endpoint=ask.endpoint,
        by=ask.by,
        begins=ask.begins,
        until=ask.until,
        priority=ask.priority,
        state=state,
        lacking="",
    )


def _ask(
    catalog: Catalog,
    endpoint: int,
    by: tuple[str, ...],
    begins: float | None,
    until: float | None,
    priority: int | None,
    replicas: dict[int, Any],
    transfers: dict[int, Any],
) -> Ask:
    replica, transfer = replicas.get(endpoint), transfers.get(endpoint)
    state = _MISSING
    lacking = "nothing is under way; `pachon backbone repair` asks for it again"
    if replica is not None and replica.state == AVAILABLE:
        state, lacking = AVAILABLE, ""
    elif transfer is not None:
        source = f" from {catalog.names[transfer.source]}" if transfer.source is not None else ""
        tried = f", tried {transfer.attempts} times" if transfer.attempts else ""
        state = transfer.state
        lacking = f"{transfer.state.lower()}{source}{tried}{f': {transfer.reason}' if transfer.reason else ''}"
    elif replica is not None:
        state, lacking = replica.state, replica.reason or replica.state.lower()
    return Ask(
        endpoint=catalog.names[endpoint],
        by=by,
        begins=begins,
        until=until,
        priority=priority,
        state=state,
        lacking=lacking,
    )


def _unasked(catalog: Catalog, endpoint: int, replicas: dict[int, Any], transfers: dict[int, Any]) -> Ask:
    ask = _ask(catalog, endpoint, (), None, None, None, replicas, transfers)
    replica = replicas.get(endpoint)
    if replica is None or replica.due is None:
        return ask
    return Ask(endpoint=ask.endpoint, by=(), begins=None, until=replica.due, priority=None, state=ask.state, lacking=ask.lacking)
