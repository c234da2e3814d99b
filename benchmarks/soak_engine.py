"""The engine's soak: quanta whose every fault is known, driven by Airflow, while something of two pools, PostgreSQL, Airflow or
the engine dies every few seconds; at the end ledger, Butler and Airflow are held to the truth.

    python benchmarks/soak_engine.py --home DIR [--quanta 20000] [--minutes 60] [--every 20] [--seed 1]

Broken off, or out of minutes, the same command goes on where it was. Exit code 0 only if all has ended and is the truth.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections import Counter
from pathlib import Path

from record import ROOT, record

from deploy.processes import marked

sys.path.append(str(ROOT / "tests" / "integration" / "soak"))


def main() -> int:
    """Run or go on."""
    from engine_soak import Soak

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--home", type=Path, required=True)
    options.add_argument("--quanta", type=int, default=20_000, help="in chained pairs: a multiple of 400")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--minutes", type=float, default=60)
    options.add_argument("--every", type=float, default=20, help="seconds between blows")
    options.add_argument("--stay", type=float, default=0, help="seconds for which jobs stay as warm workers")
    asked = options.parse_args()
    home = asked.home.absolute()
    soak = Soak(home, inputs=asked.quanta // 2, seed=asked.seed, airflow=True, every_s=asked.every, stay_s=asked.stay)
    soak.make()
    if not soak.run(asked.minutes):
        print("not ended within its minutes: the same command goes on")
        return 2
    wrong, left = soak.differences(), marked(f"{home}:")
    for difference in wrong[:30]:
        print(f"{difference.kind}: {difference.words}")
    kinds, tally = Counter(difference.kind for difference in wrong), soak.tally
    figures = {
        "quanta": asked.quanta,
        "blows": sum(tally["blows"].values()),
        "differences": len(wrong),
        **{kind: kinds[kind] for kind in ("lost", "twice", "wrong_class", "over_budget")},
        "minutes": tally["minutes"],
        "processes_left": len(left),
        "blows_by_victim": tally["blows"],
    }
    print(figures)
    record("engine_soak", figures, command=" ".join(["python benchmarks/soak_engine.py", *sys.argv[1:]]), what=WHAT)
    return int(bool(wrong or left))


WHAT = " ".join((__doc__ or "").split("\n\n")[0].split())

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
