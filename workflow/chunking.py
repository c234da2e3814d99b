"""Puts quanta together into jobs: pure decisions, no ledger and no pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Waiting(NamedTuple):
    """A quantum that is not done and in no job. A tuple: of these there are many."""

    id: str
    expected_s: float
    memory_mb: int


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """What one job is given, parents before children."""

    quanta: tuple[str, ...]
    memory_mb: int
    expected_s: float


def target(asked_s: float, shortest_s: float, total_s: float, slots: int) -> float:
    """Wall time of a job: as asked, but less where the slots would not all have work; never so short that starting dominates."""
    return min(asked_s, max(shortest_s, total_s / max(slots, 1)))


def chunks(waiting: Sequence[Waiting], parents: Mapping[str, Sequence[str]], *, target_s: float, max_quanta: int) -> list[Chunk]:
    """Chunks of what can run now, in the given order, which must have parents before children.

    `parents` are those parents of each quantum that are not accepted. Quanta that depend on each other go into one chunk, where
    that stays within `target_s` and `max_quanta`; what depends on more than that waits until its parents are accepted.
    """
    clusters = _Clusters(target_s, max_quanta)
    for quantum in waiting:
        clusters.add(quantum, parents.get(quantum.id, ()))
    by_memory: dict[int, list[list[Waiting]]] = {}
    for cluster in clusters.all():
        by_memory.setdefault(max(q.memory_mb for q in cluster), []).append(cluster)
    return [chunk for memory, some in by_memory.items() for chunk in _packed(some, memory, target_s, max_quanta)]


class _Clusters:
    """Quanta that must share a job, grown in order."""

    def __init__(self, target_s: float, max_quanta: int) -> None:
        self._target_s, self._max_quanta = target_s, max_quanta
        self._members: dict[str, list[Waiting]] = {}
        self._of: dict[str, str] = {}

    def add(self, quantum: Waiting, parents: Sequence[str]) -> None:
        """Alone if it has no parents here; with them if they are all here and fit; else not at all."""
        if not parents:
            self._members[quantum.id], self._of[quantum.id] = [quantum], quantum.id
            return
        if any(parent not in self._of for parent in parents):
            return
        roots = sorted({self._of[parent] for parent in parents})
        together = [member for root in roots for member in self._members[root]] + [quantum]
        if not self._fits(together):
            return
        root = roots[0]
        for other in roots[1:]:
            del self._members[other]
            self._of.update((m.id, root) for m in together)
        if len(roots) == 1:
            self._members[root].append(quantum)
        else:
            self._members[root] = together
        self._of[quantum.id] = root

    def _fits(self, members: Sequence[Waiting]) -> bool:
        return len(members) <= self._max_quanta and sum(m.expected_s for m in members) <= self._target_s

    def all(self) -> Iterable[list[Waiting]]:
        """Every cluster."""
        return self._members.values()


def _packed(clusters: Iterable[list[Waiting]], memory_mb: int, target_s: float, max_quanta: int) -> list[Chunk]:
    packed: list[Chunk] = []
    ids: list[str] = []
    total_s = 0.0
    for cluster in clusters:
        wall_s = sum(m.expected_s for m in cluster)
        if ids and (total_s + wall_s > target_s or len(ids) + len(cluster) > max_quanta):
            packed.append(Chunk(quanta=tuple(ids), memory_mb=memory_mb, expected_s=total_s))
            ids, total_s = [], 0.0
        ids += [m.id for m in cluster]
        total_s += wall_s
    if ids:
        packed.append(Chunk(quanta=tuple(ids), memory_mb=memory_mb, expected_s=total_s))
    return packed
