"""What a soak has shown so far: counts that add up over runs, in one file, written whole after each round that was verified."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from backbone.errors import PermanentError
from deploy.soak.rounds import RoundReport


@dataclass(frozen=True, kw_only=True)
class Record:
    """Sums over all rounds; `seed` is that of the next run."""

    objects: int = 0
    lost: int = 0
    damaged: int = 0
    repaired: int = 0
    size_bytes: int = 0
    rounds: int = 0
    took_s: float = 0.0
    seed: int = 1
    kills: dict[str, int] = field(default_factory=dict)
    phases_s: dict[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Record:
        """The record in a file; an empty one where there is none."""
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError) as error:
            raise PermanentError(f"{path} is no record of a soak ({error}): move it away to begin anew") from error

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        with part.open("w") as stream:
            json.dump(asdict(self), stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)

    def plus(self, report: RoundReport, *, kills: dict[str, int], took_s: float) -> Record:
        """With one more round, in which so many were killed of each kind."""
        names = ("objects", "lost", "damaged", "repaired", "size_bytes")
        sums = {name: getattr(self, name) + getattr(report, name) for name in names}
        phases = {name: getattr(report, name) for name in ("put_s", "replicate_s", "read_s", "scrub_s", "repair_s")}
        return replace(
            self,
            **sums,
            rounds=self.rounds + 1,
            took_s=self.took_s + took_s,
            kills={kind: self.kills.get(kind, 0) + kills.get(kind, 0) for kind in {*self.kills, *kills}},
            phases_s={name: self.phases_s.get(name, 0.0) + s for name, s in phases.items()},
        )

    @property
    def loss_bound(self) -> float | None:
        """Upper limit of the fraction lost, at 95 % confidence, if none was (the rule of three); None if some were."""
        return 3.0 / self.objects if self.objects and not self.lost else None
