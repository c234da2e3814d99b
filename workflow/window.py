"""What dispatch looks at: the next quanta of a group that can run, and what hangs on them; never all that wait.

Everything here is read through the index over what is not done, a window at a time: the cost of a round does not grow with the
number of quanta of a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from workflow.campaign import Work
from workflow.chunking import Waiting
from workflow.ledger.tables import UNFINISHED, edge, group, quantum
from workflow.states import QuantumState
from workflow.stats import LabelStats

_HEADROOM = 1.3  # of memory over the largest peak seen
_MOST = 40_000  # quanta: of what is in memory at once
_PAGE = 256  # groups
_COLUMNS = (quantum.c.id, quantum.c.label, quantum.c.memory_mb, quantum.c.ordinal)


def size(max_quanta: int, free: int) -> int:
    """Quanta to look at for `free` jobs: what fills all of them."""
    return min(_MOST, max_quanta * free)


def open_groups(work: Work, step_row: Any) -> Iterator[Any]:
    """Groups of a step that have quanta ready to run, by name, in pages that grow as more are asked for."""
    last, page = "", 1
    while rows := work.context.ledger.all(_next_groups(work.name, step_row.name, last, page)):
        yield from rows
        last, page = rows[-1].name, min(2 * page, _PAGE)


def _next_groups(campaign: str, step: str, last: str, page: int) -> Any:
    """The generations with ready quanta of the next `page` names after `last`: the index is jumped through from name to name."""
    ready = (quantum.c.campaign == campaign, quantum.c.step == step, quantum.c.state == QuantumState.READY, UNFINISHED)
    first = sa.select(quantum.c.group_).where(*ready).order_by(quantum.c.group_).limit(1)
    names = sa.select(first.where(quantum.c.group_ > last).scalar_subquery().label("name")).cte("names", recursive=True)
    after = first.where(quantum.c.group_ > names.c.name).scalar_subquery()
    names = names.union_all(sa.select(after).where(names.c.name.is_not(None)))
    some = sa.select(names.c.name).where(names.c.name.is_not(None)).limit(page)  # no more of them are looked for
    its = (quantum.c.group_ == group.c.name, quantum.c.generation == group.c.generation)
    one = sa.select(quantum.c.id).where(*ready, *its).order_by(quantum.c.ordinal).limit(1)  # a join might read all that are ready
    mine = (group.c.campaign == campaign, group.c.step == step, group.c.name.in_(some))
    return sa.select(group).where(*mine, one.scalar_subquery().is_not(None)).order_by(group.c.name, group.c.generation)


def window(
    work: Work, group_row: Any, learned: dict[str, LabelStats], limit: int
) -> tuple[list[Waiting], dict[str, list[str]], bool]:
    """Up to `limit` quanta that can run, and their descendants that wait for nothing else; parents that are not accepted, by
    child; whether there is more.
    """
    of_group = (
        quantum.c.campaign == work.name,
        quantum.c.step == group_row.step,
        quantum.c.group_ == group_row.name,
        quantum.c.generation == group_row.generation,
        UNFINISHED,
    )
    ready = sa.select(*_COLUMNS).where(*of_group, quantum.c.state == QuantumState.READY)
    rows = work.context.ledger.all(ready.order_by(quantum.c.ordinal).limit(limit))
    found = {row.id: row for row in rows}
    parents = _open_parents(work, found)  # of those that were given back together with what they need
    newest: Sequence[Any] = rows
    while newest and len(found) < _MOST:
        newest = _children(work, of_group, newest, found, parents)
        found.update((row.id, row) for row in newest)
    in_order = sorted(found.values(), key=lambda row: row.ordinal)
    needs = _Needs(work, group_row.step, learned)
    return [needs.waiting(row) for row in in_order], parents, len(rows) == limit


def _children(
    work: Work, of_group: Sequence[Any], rows: Sequence[Any], found: dict[str, Any], parents: dict[str, list[str]]
) -> list[Any]:
    """Children of `rows` all of whose open parents are in `found`; their open parents go into `parents`."""
    ledger = work.context.ledger
    of_these = sa.select(edge.c.child).where(ledger.among(edge.c.parent, [row.id for row in rows]))
    waiting = sa.select(*_COLUMNS).where(quantum.c.id.in_(of_these), *of_group, quantum.c.state == QuantumState.UNREADY)
    children = {row.id: row for row in ledger.all(waiting) if row.id not in found}
    if not children:
        return []
    open_parents = _open_parents(work, children)
    # A parent may itself be one of these children: what it needs decides for what needs it, hence the order of the plan.
    taken: dict[str, Any] = {}
    for row in sorted(children.values(), key=lambda row: row.ordinal):
        needed = open_parents.get(row.id, [])
        if all(one in found or one in taken for one in needed):
            taken[row.id], parents[row.id] = row, needed
    return list(taken.values())


def _open_parents(work: Work, children: Iterable[str]) -> dict[str, list[str]]:
    """Parents that are not accepted, by child."""
    ledger, parent = work.context.ledger, quantum.alias("parent")
    query = (
        sa.select(edge.c.child, edge.c.parent)
        .join(parent, parent.c.id == edge.c.parent)
        .where(ledger.among(edge.c.child, children), parent.c.state != QuantumState.SUCCEEDED)
    )
    found: dict[str, list[str]] = {}
    for row in ledger.all(query):
        found.setdefault(row.child, []).append(row.parent)
    return found


class _Needs:
    """What a quantum of each label takes, worked out once for each."""

    def __init__(self, work: Work, step: str, learned: dict[str, LabelStats]) -> None:
        self._engine, self._step, self._learned = work.context.engine, work.step(step), learned
        self._of: dict[str, tuple[float, int]] = {}

    def waiting(self, row: Any) -> Waiting:
        """As chunks are made of it."""
        if row.label not in self._of:
            self._of[row.label] = self._needs(self._learned.get(row.label, LabelStats()))
        expected_s, memory_mb = self._of[row.label]
        if row.memory_mb is not None:
            memory_mb = max(memory_mb, row.memory_mb)
        return Waiting(row.id, expected_s, min(self._engine.memory_max_mb, memory_mb))

    def _needs(self, known: LabelStats) -> tuple[float, int]:
        least = max(self._step.memory_mb or self._engine.memory_mb, int(known.peak_mb * _HEADROOM), known.memory_mb or 0)
        # The first jobs of a label that was never timed are scouts: of few quanta, however long jobs are meant to be.
        scout_s = max(self._engine.first_quantum_s, self._step.chunk.target_s / self._engine.scout_quanta)
        return known.wall_s if known.samples else scout_s, least
