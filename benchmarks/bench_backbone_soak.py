"""The backbone's soak: objects that come back byte-identical while servers, movers and the database are killed.

OBJECTS, MINUTES and SOAK_HOME in the environment say how many more objects (default 3000), for how long at most, and where the
counts of all runs are kept (default pachon-soak): they add up, to 300,000 for a loss below 1e-5 at 95 % confidence.
"""

import os
from pathlib import Path

from record import record

from deploy.soak.run import soak
from deploy.soak.stand import can_be_real


def main() -> None:
    """Run, and record the sums."""
    minutes = os.environ.get("MINUTES")
    real = can_be_real()
    if not real:
        print("no S3 server or no PostgreSQL here: soaked on folders and SQLite, and not recorded")
    found = soak(
        Path(os.environ.get("SOAK_HOME") or "pachon-soak").absolute(),
        objects=int(os.environ.get("OBJECTS") or 3000),
        minutes=float(minutes) if minutes else None,
        real=real,
    )
    figures = {f"soak_{name}": float(getattr(found, name)) for name in ("objects", "lost", "damaged", "repaired")}
    kills = {f"soak_kills_{kind}": float(count) for kind, count in sorted(found.kills.items())}
    bound = f"{found.loss_bound:.1e}" if found.loss_bound is not None else "none: something was lost"
    print(f"{figures} {kills}; loss bound at 95 %: {bound}; {found.objects / found.took_s:.0f} objects/s")
    if real:
        record("backbone", {**figures, **kills}, command="make soak-backbone", what=__doc__.splitlines()[0])


if __name__ == "__main__":
    main()
