"""One round: put, replicate, damage behind its back, read back, scrub, repair; then every object is accounted for.

Whatever answers "not known" is asked again; an answer that is wrong ends the soak. Objects are made of a seed, so nothing but
their number is remembered of them.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import sqlalchemy as sa

from backbone import tables as t
from backbone.backbone import Backbone
from backbone.endpoint import Bulk, NewObject, ObjectInfo
from backbone.errors import ObjectAbsent, PachonError, PermanentError, TransientError
from backbone.files import AVAILABLE, BAD, LOST, NewFile
from backbone.scrub import Scrub
from backbone.transfers import retry

_log = logging.getLogger(__name__)
T = TypeVar("T")
BATCH = 250
LIMIT_S = 600.0  # of anything that must come true
POLL_S = 0.2
KINDS = ("corrupted", "truncated", "deleted")


class SoakFailed(PermanentError):
    """The backbone did not keep a promise; the message has the object."""


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """Counts of one round: `objects` acknowledged, `lost` of them that no replica gave back as they were put."""

    objects: int
    lost: int
    damaged: int
    repaired: int
    size_bytes: int
    put_s: float
    replicate_s: float
    read_s: float
    scrub_s: float
    repair_s: float


class Round:
    """`count` objects from number `first` on, of a seed; at a backbone whose policy wants them at every place."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        seed: int,
        first: int,
        count: int,
        damage: float,
        check: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = _log.info,
    ) -> None:
        self._backbone, self._seed, self._check, self._say = backbone, seed, check, say
        self._rng = random.Random(seed * 1_000_003 + first)  # noqa: S311 - which objects, not secrets
        self._numbers = range(first, first + count)
        self._damages = max(len(KINDS), round(count * damage))
        self._places = list(backbone.endpoints)

    def key(self, number: int) -> str:
        """Key of an object."""
        return f"soak/{self._seed:06d}/{number // 1000:05d}/{number:08d}"

    def content(self, number: int) -> bytes:
        """Its bytes, 1 to 4096 of them."""
        block = hashlib.shake_128(f"{self._seed}:{number}".encode()).digest(4098)
        return block[2 : 3 + int.from_bytes(block[:2]) % 4096]

    def run(self) -> RoundReport:
        """All of it. SoakFailed where something is neither right nor repaired."""
        before = self._persist(self._last_file)
        timed = _Stopwatch(self._say)
        size = timed("put", self._put)
        timed("replicate", self._settled)
        damages = self._damage()
        lost = timed("read", self._read_back)
        timed("scrub", partial(self._scrub, before))
        timed("repair", self._settled)
        repaired = self._verify(before, damages)
        return RoundReport(
            objects=len(self._numbers), lost=lost, damaged=len(damages), repaired=repaired, size_bytes=size, **timed.took
        )

    def _put(self) -> int:
        """Objects go to a place first and are then registered: from then on they are acknowledged. Some by `put` itself."""
        size = 0
        for numbers in _parts(self._numbers, BATCH):
            objects = [(self._file(n), self.content(n)) for n in numbers]
            single, many = objects[:2], objects[2:]
            for file, content in single:
                place = self._rng.choice(self._places)
                self._persist(partial(self._backbone.put, place, file.key, content, file, "soak"))
            for place, files in self._put_many(many).items():
                self._persist(partial(self._backbone.register, place, files, "soak", manifest=False))
            size += sum(file.size for file, _ in objects)
        return size

    def _put_many(self, objects: Sequence[tuple[NewFile, bytes]]) -> dict[str, list[NewFile]]:
        """Which of the objects went where: what a place does not take now, another does."""
        left, limit, found = list(objects), time.monotonic() + LIMIT_S, dict[str, list[NewFile]]()
        while left:
            place = self._rng.choice(self._places)
            endpoint, answers = self._backbone.endpoint(place), list[ObjectInfo | PachonError]()
            if isinstance(endpoint, Bulk):
                answers = endpoint.put_many([NewObject(key=f.key, content=c, about=f.about(), sha256=f.sha256) for f, c in left])
            else:
                answers = [_tried(partial(endpoint.put, f.key, c, about=f.about())) for f, c in left]
            asked = list(zip(left, answers, strict=True))
            found.setdefault(place, []).extend(f for (f, _), answer in asked if isinstance(answer, ObjectInfo))
            left = [one for one, answer in asked if self._silent(answer, limit)]
        return {place: files for place, files in found.items() if files}

    def _file(self, number: int) -> NewFile:
        content = self.content(number)
        return NewFile(
            key=self.key(number),
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            dataset_type="soak",
            collection=f"soak/{self._seed}",
            created=float(number),
        )

    def _damage(self) -> list[tuple[int, str]]:
        """Objects changed behind the backbone's back, each at one place."""
        chosen = self._rng.sample(self._numbers, self._damages)
        damages = [(number, self._rng.choice(self._places)) for number in chosen]
        for index, (number, place) in enumerate(damages):
            endpoint, key, content = self._backbone.endpoint(place), self.key(number), self.content(number)
            kind = KINDS[index % len(KINDS)]
            if kind == "deleted":
                self._persist(partial(endpoint.delete, key))
                continue
            half = len(content) // 2
            bad = content[:half] if kind == "truncated" else bytes([*content[:half], content[half] ^ 1, *content[half + 1 :]])
            self._persist(partial(endpoint.put, key, bad, about=self._file(number).about()))
        return damages

    def _read_back(self) -> int:
        """Every object once, as a reader does: from some replica, and from another where that one is wrong."""
        lost = 0
        for numbers in _parts(self._numbers, BATCH):
            answers = self._get_many(self._rng.choice(self._places), numbers)
            for number in numbers:
                if answers[number] != self.content(number) and self._fetched(number) != self.content(number):
                    self._say(f"LOST: {self.key(number)}")
                    lost += 1
        return lost

    def _get_many(self, place: str, numbers: Sequence[int]) -> dict[int, bytes | PachonError]:
        endpoint, found, left = self._backbone.endpoint(place), dict[int, bytes | PachonError](), list(numbers)
        limit = time.monotonic() + LIMIT_S
        while left:
            answers: list[bytes | PachonError]
            if isinstance(endpoint, Bulk):
                answers = endpoint.get_many([self.key(n) for n in left])
            else:
                answers = [_tried(partial(endpoint.get, self.key(n))) for n in left]
            asked = list(zip(left, answers, strict=True))
            left = [n for n, answer in asked if self._silent(answer, limit)]
            found |= {n: answer for n, answer in asked if n not in left}
        return found

    def _fetched(self, number: int) -> bytes | None:
        """By way of the catalog, which marks what is wrong."""
        path = self._backbone.home / "run" / "fetched"
        path.parent.mkdir(exist_ok=True)
        try:
            self._persist(partial(self._backbone.fetch, self.key(number), path))
        except ObjectAbsent:
            return None
        return path.read_bytes()

    def _scrub(self, before: int) -> None:
        """Every replica of this round is read and compared."""
        for place in self._places:
            self._persist(partial(self._scrub_place, place, before))

    def _scrub_place(self, place: str, before: int) -> None:
        scrub = Scrub(self._backbone.catalog, self._backbone.endpoint(place), actor="soak")
        report = scrub.run(begin_after=before)
        if report.unknown:
            raise TransientError(f"{place}: {report.unknown} objects could not be read: {report.reason}")

    def _settled(self) -> None:
        """Until nothing is pending and nothing damaged."""
        limit, said = time.monotonic() + LIMIT_S, time.monotonic()
        while True:
            left, stuck = self._persist(self._left)
            if not left:
                return
            if stuck:  # gave up while something was down
                self._persist(partial(retry, self._backbone.catalog, actor="soak", now=self._backbone.now()))
            if time.monotonic() > limit:
                raise SoakFailed(f"{left} copies are still missing after {LIMIT_S:.0f} s")
            if time.monotonic() - said > 10:
                self._say(f"{left} copies left")
                said = time.monotonic()
            self._check()
            time.sleep(POLL_S)

    def _left(self) -> tuple[int, int]:
        stuck = sa.func.count().filter(t.transfer.c.state == "STUCK")
        damaged = sa.select(sa.func.count()).where(t.replica.c.state.in_([BAD, LOST]))
        with self._backbone.catalog.read() as connection:
            count, stuck_count = connection.execute(sa.select(sa.func.count(), stuck).select_from(t.transfer)).one()
            return count + connection.execute(damaged).scalar_one(), stuck_count

    def _verify(self, before: int, damages: Sequence[tuple[int, str]]) -> int:
        """Every object whole at every place by the catalog, and what was damaged by its bytes; returns how many are repaired."""
        copies = sa.select(sa.func.count()).join(t.file, t.file.c.id == t.replica.c.file)
        copies = copies.where(t.file.c.id > before, t.replica.c.state == AVAILABLE)
        counted = self._persist(lambda: self._backbone.catalog.all(copies)[0][0])
        if counted != len(self._numbers) * len(self._places):
            raise SoakFailed(f"{counted} whole replicas of {len(self._numbers)} objects at {len(self._places)} places")
        return sum(self._get_many(place, [number])[number] == self.content(number) for number, place in damages)

    def _last_file(self) -> int:
        with self._backbone.catalog.read() as connection:
            found: int = connection.execute(sa.select(sa.func.coalesce(sa.func.max(t.file.c.id), 0))).scalar_one()
        return found

    def _persist(self, action: Callable[[], T]) -> T:
        """Again and again while the answer is "not known"."""
        limit = time.monotonic() + LIMIT_S
        while True:
            try:
                return action()
            except TransientError as error:
                self._check()
                if time.monotonic() > limit:
                    raise SoakFailed(f"no answer for {LIMIT_S:.0f} s: {error}") from error
                time.sleep(POLL_S)

    def _silent(self, answer: object, limit: float) -> bool:
        """Whether an answer is "not known", to be asked again; other errors of a put are the soak's end."""
        if not isinstance(answer, TransientError):
            if isinstance(answer, PachonError) and not isinstance(answer, ObjectAbsent):
                raise SoakFailed(str(answer)) from answer
            return False
        self._check()
        if time.monotonic() > limit:
            raise SoakFailed(f"no answer for {LIMIT_S:.0f} s: {answer}") from answer
        return True


class _Stopwatch:
    def __init__(self, say: Callable[[str], None]) -> None:
        self.took: dict[str, float] = {}
        self._say = say

    def __call__(self, name: str, action: Callable[[], T]) -> T:
        begun = time.monotonic()
        result = action()
        self.took[f"{name}_s"] = self.took.get(f"{name}_s", 0.0) + time.monotonic() - begun
        self._say(f"{name}: {self.took[f'{name}_s']:.1f} s")
        return result


def _tried(action: Callable[[], T]) -> T | PachonError:
    try:
        return action()
    except PachonError as error:
        return error


def _parts(numbers: range, size: int) -> Iterator[range]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
