"""Calibration of one full-size detector on one core, beside ccdproc on the same frames; and every product against the truth.

    python benchmarks/bench_calibration.py [--size 4072 4000] [--frames DIR] [--only speed|linearity|bounded|ccdproc|truth]
        [--bias 10 --dark 5 --flat 10] [--inputs 60 120 500] [--dry]

`full_size_s`: bias, dark and flat of 25 exposures, each read from its file, and their verification, in a process of its own
pinned to one core. `time_ratio_ccdproc` and `memory_ratio_ccdproc`: a plain `ccdproc.combine` (clipped average, 4 sigma of the
MAD) of the same raw frames, nothing else done to them, over ours (all of ISR and judging included); above 1 ours is better.
`linearity_in_n`: CPU time per exposure of the most frames over that of the fewest. `peak_mb_by_inputs`: peak memory of a master
flat of so many exposures, each read from a file as if it were another's; the bound is 4 GB at 500. `truth`: the scores of
payloads/simulator/calibration_scores.py, cameras of 4 and 16 amplifiers.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calibration_frames import FileHandle, handles, products, survey, verified, write_frames
from record import record

from payloads.simulator.calibration_night import Night, make_products
from payloads.simulator.calibration_scores import score
from payloads.simulator.config import SurveyConfig

WHAT = "25 exposures of 4072 x 4000 px, 16 amplifiers: masters and verification on one core; ccdproc.combine of the same frames"
KINDS = ("bias", "dark", "flat")
LINEARITY = (8, 16, 32, 64)
INPUTS = (60, 120, 500)


def measured(work: Callable[[], Any]) -> dict[str, Any]:
    """Wall and CPU seconds, peak memory of this process, and the profile's top five."""
    profile = cProfile.Profile()
    begin, cpu = time.perf_counter(), time.process_time()
    more = profile.runcall(work)
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    table = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    costs = sorted(((entry[2], place) for place, entry in table.items()), reverse=True)[:5]
    return {
        "wall_s": wall,
        "cpu_s": cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "profile": [f"{seconds:.1f} s {Path(file).name}:{line} {name}" for seconds, (file, line, name) in costs],
        "more": more,
    }


def ours(night: Night, frames: Path) -> dict[str, Any]:
    """Masters, and how many of the checks they pass."""
    return verified(night, products(night, frames), frames)


def bias_of(night: Night, frames: Path, count: int) -> None:
    """A master bias of so many frames; where there are fewer, they are taken again."""
    from payloads.tasks.calibration import CombineBiasTask

    CombineBiasTask().run(raws=again(handles(night, "bias", frames), count), detector=night.described)


def flat_of(night: Night, frames: Path, count: int) -> dict[str, int]:
    """A master flat of so many frames, by the bias of those that there are: the product that needs the most planes."""
    from payloads.tasks.calibration import CombineBiasTask, CombineFlatTask

    bias = CombineBiasTask().run(raws=handles(night, "bias", frames), detector=night.described).bias
    made = CombineFlatTask().run(raws=again(handles(night, "flat", frames), count), detector=night.described, bias=bias)
    return {"used": len(made.used)}


def again(have: list[FileHandle], count: int) -> list[FileHandle]:
    """So many exposures; where there are fewer files each is read for several."""
    return [have[k % len(have)].renamed(k) for k in range(count)]


def ccdproc_of(night: Night, frames: Path) -> None:
    """What a notebook would do with each kind of frame."""
    import ccdproc
    import numpy as np
    from astropy.stats import mad_std

    for kind in KINDS:
        ccdproc.combine(
            [str(handle.path) for handle in handles(night, kind, frames)],
            method="average",
            sigma_clip=True,
            sigma_clip_low_thresh=4,
            sigma_clip_high_thresh=4,
            sigma_clip_func=np.ma.median,
            sigma_clip_dev_func=mad_std,
            mem_limit=4e9,
            unit="adu",
            dtype="float32",
        )


def worker(arguments: argparse.Namespace) -> dict[str, Any]:
    """One measurement, in a process of its own."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    night, frames = Night(survey(tuple(arguments.size), counts(arguments))), arguments.frames
    works: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours(night, frames),
        "ccdproc": lambda: ccdproc_of(night, frames),
        "bias": lambda: bias_of(night, frames, arguments.count),
        "flat": lambda: flat_of(night, frames, arguments.count),
    }
    return measured(works[arguments.worker])


def in_process(arguments: argparse.Namespace, name: str, count: int = 0) -> dict[str, Any]:
    """Run a worker; its figures."""
    numbers = [f"--{kind}={n}" for kind, n in counts(arguments).items()]
    size = [str(n) for n in arguments.size]
    command = [sys.executable, __file__, "--worker", name, "--count", str(count), "--frames", str(arguments.frames)]
    # One core: the libraries' own threads would be counted as ours.
    alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [*command, "--size", *size, *numbers], capture_output=True, text=True, check=False, env={**os.environ, **alone}
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name} {count or ''}: {found['wall_s']:.1f} s, {found['cpu_s']:.1f} s CPU, {found['peak_mb']:.0f} MB")
    return found


def counts(arguments: argparse.Namespace) -> dict[str, int]:
    """Frames of each kind."""
    return {kind: getattr(arguments, kind) for kind in KINDS}


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Ours."""
    found = in_process(arguments, "ours")
    return {
        "full_size_s": round(found["wall_s"], 1),
        "full_size_cpu_s": round(found["cpu_s"], 1),
        "peak_mb": round(found["peak_mb"], 1),
        "profile": found["profile"],
        "verified": found["more"],
        "size": "{} x {}".format(*arguments.size),
        "exposures": sum(counts(arguments).values()),
    }


def against_ccdproc(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both, in one run."""
    mine = speed(arguments)
    theirs = in_process(arguments, "ccdproc")
    return mine | {
        "ccdproc_s": round(theirs["wall_s"], 1),
        "ccdproc_peak_mb": round(theirs["peak_mb"], 1),
        "time_ratio_ccdproc": round(theirs["wall_s"] / mine["full_size_s"], 3),
        "memory_ratio_ccdproc": round(theirs["peak_mb"] / mine["peak_mb"], 3),
    }


def linearity(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time per exposure of a master bias, of many frames over few; and the memory of the most."""
    found = {n: in_process(arguments, "bias", n) for n in LINEARITY}
    per_frame = {n: f["cpu_s"] / n for n, f in found.items()}
    return {
        "linearity_in_n": round(per_frame[LINEARITY[-1]] / per_frame[LINEARITY[0]], 3),
        "seconds_per_exposure": {str(n): round(value, 3) for n, value in per_frame.items()},
        "peak_mb_by_n": {str(n): round(f["peak_mb"], 1) for n, f in found.items()},
    }


def bounded(arguments: argparse.Namespace) -> dict[str, Any]:
    """Peak memory by the number of inputs, and how much the most need more than the fewest."""
    found = {n: in_process(arguments, "flat", n) for n in arguments.inputs}
    assert all(f["more"]["used"] == n for n, f in found.items()), "frames were left out: the memory of others was measured"
    peaks = {n: round(f["peak_mb"], 1) for n, f in found.items()}
    return {
        "peak_mb_by_inputs": {str(n): peak for n, peak in peaks.items()},
        "seconds_by_inputs": {str(n): round(f["wall_s"], 1) for n, f in found.items()},
        "memory_of_most_over_fewest": round(peaks[max(peaks)] / peaks[min(peaks)], 3),
    }


def truth(_: argparse.Namespace) -> dict[str, Any]:
    """Scores by number of amplifiers."""
    scores = {}
    for amplifiers in (4, 16):
        content = SurveyConfig.load("calibration").model_dump()
        content["camera"] |= {"amplifiers": amplifiers}
        night = Night(SurveyConfig.from_dict(content))
        plain, _ = make_products(night, "r")
        found = score(night, plain, "r")
        red, _ = make_products(night, "i", held_out=4, made=plain)
        found |= {name: value for name, value in score(night, red, "i", held_out=4).items() if name not in found}
        scores[str(amplifiers)] = {name: round(value, 6) for name, value in found.items()}
        print(amplifiers, json.dumps(scores[str(amplifiers)], indent=1))
    return {"truth": scores}


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(4072, 4000), metavar=("NY", "NX"))
    parser.add_argument("--frames", type=Path, help="where the frames are, or are to be")
    parser.add_argument("--only", choices=("speed", "linearity", "bounded", "ccdproc", "truth"))
    parser.add_argument("--inputs", type=int, nargs="+", default=INPUTS, help="exposures whose memory is compared")
    parser.add_argument("--dry", action="store_true", help="print the figures, record nothing")
    for kind, number in zip(KINDS, (10, 5, 10), strict=True):
        parser.add_argument(f"--{kind}", type=int, default=number)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(worker(arguments)))
        return
    parts = {"speed": speed, "linearity": linearity, "bounded": bounded, "ccdproc": against_ccdproc, "truth": truth}
    wanted = [arguments.only] if arguments.only else ["ccdproc", "linearity", "bounded", "truth"]
    with tempfile.TemporaryDirectory() as folder:
        arguments.frames = arguments.frames or Path(folder)
        if wanted != ["truth"]:
            n = write_frames(Night(survey(tuple(arguments.size), counts(arguments))), arguments.frames)
            print(f"{n} frames in {arguments.frames}")
        figures: dict[str, Any] = {}
        for name in wanted:
            figures |= parts[name](arguments)
    if arguments.dry:
        print(json.dumps(figures, indent=1))
    else:
        record(
            "calibration", figures, command=f"python benchmarks/bench_calibration.py {' '.join(sys.argv[1:])}".strip(), what=WHAT
        )


if __name__ == "__main__":
    main()
