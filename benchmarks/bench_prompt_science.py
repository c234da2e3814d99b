"""Prompt science on one full-size detector: time, memory, and the truth.

`python benchmarks/bench_prompt_science.py [--small] [--parts …]` makes its scenes below --scenes (default: a folder of its own in
the system's temporary one; the next run finds them there), and measures each in a process of its own on one thread. `--small` is
the same on 1,000 x 1,000 px, to see that all of it works: it
writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import prompt_scenes
from record import ROOT, record

COMMAND = "python benchmarks/bench_prompt_science.py"
PARTS = ("full", "crowded", "beside")
STARS, CROWDED = 15_000, 150_000
SEEDS = (131, 132, 133)
CROWDED_SEED = 134
"""Seeds below 130, and 200 to 219, were looked at while the chain was made faster and better; these were not."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


def measured(script: str, *arguments: str, more: dict[str, str] | None = None) -> dict[str, Any]:
    """The JSON that a script of this folder writes, run in a process of its own on one thread."""
    environment = os.environ | ONE_THREAD | (more or {})
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{script} {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def cold_start_extra_s(place: Path, warm: dict[str, Any]) -> float:
    """What the first visit of a process costs more than the next, on a machine where nothing was ever compiled."""
    with tempfile.TemporaryDirectory() as empty:
        cold = measured("prompt_run.py", str(place), "--cold", more={"NUMBA_CACHE_DIR": empty})
    return float(cold["first_s"] - warm["with_outputs_s"])


def compile_all(place: Path) -> None:
    """Fill numba's cache, as the first worker of an installation does: that one holds 100 MB of its compiler besides."""
    measured("prompt_run.py", str(place), "--cold")


def full(folder: Path, seeds: tuple[int, ...], shape: dict[str, Any]) -> dict[str, Any]:
    """Time, memory and truth of detectors of 15,000 stars."""
    places = [prompt_scenes.scene(folder, prompt_scenes.survey(seed, stars=STARS, **shape)) for seed in seeds]
    compile_all(places[0])
    runs = [measured("prompt_run.py", str(place), *(["--profile"] if place == places[0] else [])) for place in places]
    slowest = max(runs, key=lambda run: run["to_alerts_s"])
    return {
        "full_detector_s": round(slowest["to_alerts_s"], 2),
        "full_detector_with_outputs_s": round(max(run["with_outputs_s"] for run in runs), 2),
        "full_detector_peak_mb": round(max(run["peak_mb"] for run in runs), 1),
        "full_detector_stages_s": slowest["stages_s"],
        "profile_top_five": runs[0]["profile"],
        "truth": measured("prompt_truth.py", *map(str, places)),
    }


def crowded(folder: Path, shape: dict[str, Any]) -> dict[str, Any]:
    """The same of one of 150,000."""
    place = prompt_scenes.scene(folder, prompt_scenes.survey(CROWDED_SEED, stars=CROWDED, **shape))
    compile_all(place)
    run = measured("prompt_run.py", str(place))
    return {
        "crowded_s": round(run["to_alerts_s"], 2),
        "crowded_peak_mb": round(run["peak_mb"], 1),
        "crowded_false_per_detector": run["truth"]["false_per_detector"],
        "crowded_truth": run["truth"],
    }


def beside(folder: Path, seed: int, shape: dict[str, Any]) -> dict[str, Any]:
    """What a first visit costs, and what others' steps cost."""
    place = prompt_scenes.scene(folder, prompt_scenes.survey(seed, stars=STARS, **shape))
    warm = measured("prompt_run.py", str(place))
    return {
        "cold_start_extra_s": round(cold_start_extra_s(place, warm), 2),
        "peers_s": measured("prompt_peers.py", str(place)),
    }


def main() -> None:
    """Measure and record, part by part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenes", type=Path, default=Path(tempfile.gettempdir()) / "pachon-prompt-scenes")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure; the rest keeps its figures")
    chosen = parser.parse_args()
    shape = {"size": (1000, 1000), "amplifiers": 4} if chosen.small else {}
    seeds = SEEDS[:1] if chosen.small else SEEDS
    work = {
        "full": lambda: full(chosen.scenes, seeds, shape),
        "crowded": lambda: crowded(chosen.scenes, shape),
        "beside": lambda: beside(chosen.scenes, seeds[0], shape),
    }
    for part in chosen.parts:
        figures = work[part]()
        print(json.dumps(figures, indent=2))
        if not chosen.small:
            what = (
                "one detector of 4,072 x 4,000 px, one thread, CPU seconds and MB (10^6 bytes) of the worst scene; truth over "
                "all scenes, of seeds that nothing was tuned or trained on"
            )
            record("prompt", figures, command=COMMAND, what=what)


if __name__ == "__main__":
    main()
