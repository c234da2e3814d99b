"""A million orbits at night: ingest, arming a worker with them, what they cost a visit.

`python benchmarks/bench_bodies.py [--bodies 1000000]`, some fifteen seconds. Arming is measured in a process of its own, against
one that is armed with a thousandth of the orbits: what the programs themselves need is in both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from astropy.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from record import ROOT, record

from payloads.camera import Camera
from payloads.orbit_catalogue import ingest_orbits
from payloads.prompt.heap import give_back_large_arrays
from payloads.prompt.settings import PromptSettings
from payloads.repository import init_repository, open_repository
from services.prompt.bodies import almanac_of

COMMAND = "python benchmarks/bench_bodies.py"
CAMERA, DAY_OBS, MJD = "lowell42", 20261127, 61_371.0


def catalogue(bodies: int) -> Table:
    """A main belt, with three of a hundred that come near Earth; all bright enough to be kept."""
    rng = np.random.default_rng(1)
    near = rng.random(bodies) < 0.03
    return Table(
        {
            "ssObjectId": np.arange(1, bodies + 1),
            "semi_major_axis_au": np.where(near, rng.uniform(0.9, 3.0, bodies), rng.uniform(2.1, 3.3, bodies)),
            "eccentricity": np.where(near, rng.uniform(0, 0.6, bodies), rng.uniform(0, 0.3, bodies)),
            "inclination_deg": np.minimum(rng.rayleigh(8, bodies), 180),
            **{name: rng.uniform(0, 360, bodies) for name in ("node_deg", "perihelion_deg", "mean_anomaly_deg")},
            "epoch_mjd": np.full(bodies, MJD - 1),
            "absolute_mag": rng.uniform(13, 19, bodies),
        }
    )


def _memory_mb(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def armed(home: Path) -> dict[str, float]:
    """Of this process: CPU seconds and memory of arming, milliseconds of a visit on the ecliptic."""
    give_back_large_arrays()
    began = time.process_time()
    with open_repository(home / "repo") as butler:
        almanac = almanac_of(butler, Camera.load(CAMERA), DAY_OBS, PromptSettings())
    assert almanac is not None
    seconds, resident, visits = time.process_time() - began, _memory_mb("VmRSS"), []
    for at in np.linspace(-0.4, 0.4, 41):
        began = time.process_time()
        almanac.bodies(60.0, 20.7, 0.2, almanac.middle_mjd_tai + at)
        visits.append(1e3 * (time.process_time() - began))
    kept = len(almanac.error_arcsec)
    return {"kept": kept, "arm_cpu_s": seconds, "resident_mb": resident, "peak_mb": _memory_mb("VmHWM")} | {
        "visit_ms": statistics.median(visits),
        "visit_worst_ms": max(visits),
    }


def ingested(home: Path, bodies: int) -> float:
    """CPU seconds of the ingest into a new home."""
    home.mkdir()
    init_repository(home / "repo").close()
    catalogue(bodies).write(home / "orbits.parquet")
    began = time.process_time()
    ingest_orbits(home, home / "orbits.parquet")
    return time.process_time() - began


def main() -> None:
    """Measure, and write the figures down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bodies", type=int, default=1_000_000)
    parser.add_argument("--armed", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.armed:
        print(json.dumps(armed(options.armed)))
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number in (options.bodies, options.bodies // 1000):
            home = Path(folder) / str(number)
            seconds = ingested(home, number)
            command = [sys.executable, __file__, "--armed", str(home)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
            found.append({"ingest_cpu_s": seconds, **json.loads(done.stdout)})
    many, few = found
    figures = {"bodies": many["kept"], **{f"bodies_{name}": round(many[name], 2) for name in ("ingest_cpu_s", "arm_cpu_s")}}
    figures |= {f"bodies_{name}": round(many[name] - few[name], 1) for name in ("resident_mb", "peak_mb")}
    figures |= {f"bodies_{name}": round(many[name], 2) for name in ("visit_ms", "visit_worst_ms")}
    print(json.dumps(figures))
    record("prompt", figures, command=COMMAND, what="orbits of known bodies in the prompt path; memory less that of a thousandth")


if __name__ == "__main__":
    main()
