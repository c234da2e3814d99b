"""Kills one thing after another, at moments and of kinds that a seed decides, and starts each again."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

from deploy.soak.stand import Stand


class Killer:
    """Works in a thread of its own while the block is open. What it could not revive is raised when the block is left."""

    def __init__(self, stand: Stand, *, every_s: tuple[float, float], seed: int, most: int | None = None) -> None:
        """`most`: so many kills and no more."""
        self._stand, self._every_s, self._most = stand, every_s, most
        self._rng = random.Random(seed)  # noqa: S311 - moments, not secrets
        self._stop, self._striking = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._work, name="killer", daemon=True)
        self._failure: Exception | None = None
        self.kills: Counter[str] = Counter()
        self.down_s = 0.0

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure is not None and not any(exception):
            raise self._failure

    def check(self) -> None:
        """Raise what went wrong with reviving, or a mover that died by itself: nothing can be expected any more then."""
        if self._failure is not None:
            raise self._failure
        if self._striking.acquire(blocking=False):
            try:
                self._stand.check()
            finally:
                self._striking.release()

    def strike(self, kind: str | None = None) -> None:
        """Kill one thing now (of this kind), and start it again."""
        victims = self._stand.victims()
        chosen = kind or self._rng.choice(sorted(victims))
        name = self._rng.choice(victims[chosen])
        begun = time.monotonic()
        with self._striking:
            if self._stand.kill(chosen, name):
                self.kills[chosen] += 1
            self._stand.revive(chosen, name)
        self.down_s += time.monotonic() - begun

    def _work(self) -> None:
        kinds = sorted(self._stand.victims())
        self._rng.shuffle(kinds)
        while self.kills.total() != self._most and not self._stop.wait(self._rng.uniform(*self._every_s)):
            try:
                # Each kind once before any twice: short runs see all of them.
                self.strike(kinds.pop() if kinds else None)
            except Exception as error:
                self._failure = error
                return
