"""One warm worker on one scene, measured: `python benchmarks/prompt_run.py SCENE [--profile] [--cold]`; writes JSON to stdout.

A process of its own, so that its peak memory is the worker's and not the simulator's; one thread. Warm: the scene is processed
once before the clock runs. CPU seconds are what is reported as time: on a quiet machine one core's wall clock is the same.
"""

from __future__ import annotations

import cProfile
import io
import json
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from payloads.alerts import write_alerts
from payloads.prompt.detector import process_detector
from payloads.prompt.heap import give_back_large_arrays
from payloads.prompt.packets import alert_packets
from payloads.prompt.products import write_planes
from payloads.prompt.result import PromptResult
from payloads.prompt.scoring import score, summary
from payloads.prompt.simulated import SimulatedVisit

sys.path.insert(0, str(Path(__file__).parent))
import prompt_scenes

WARPING = "template"


def alerts(place: Path, visit: SimulatedVisit) -> tuple[PromptResult, bytes, float]:
    """From the compressed raw frame to the bytes of its alerts; CPU seconds beside."""
    begin = time.process_time()
    frames = (replace(visit.raw, pixels=prompt_scenes.read_raw(place)) for _ in range(1))
    result = process_detector(frames, visit.preloaded, processed_mjd_tai=60_000.0, clock=time.process_time)
    content = write_alerts(alert_packets(result, visit.preloaded.known, processed_mjd_tai=60_000.0), codec="null")
    return result, content, time.process_time() - begin


def peak_mb() -> float:
    """Most memory that this process ever held at one time."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def top_five(work: Callable[[], object]) -> list[dict[str, object]]:
    """The five functions that take most of the time of `work`."""
    profile = cProfile.Profile(time.process_time)
    profile.runcall(work)
    stats = pstats.Stats(profile, stream=io.StringIO())
    rows = sorted(((total, name) for name, (_, _, total, _, _) in stats.stats.items()), reverse=True)[:5]
    return [{"function": f"{Path(name[0]).name}:{name[2]}", "cpu_s": round(total, 3)} for total, name in rows]


def main() -> None:
    """Measure one scene."""
    give_back_large_arrays()
    place = Path(sys.argv[1])
    begin = time.process_time()
    visit = prompt_scenes.read(place)
    visit = replace(visit, raw=replace(visit.raw, pixels=np.zeros((0, 0), np.uint16)))  # it comes with the visit
    loading = time.process_time() - begin
    result, content, first = alerts(place, visit)
    if "--cold" in sys.argv:
        print(json.dumps({"first_s": first, "loading_s": loading}))
        return
    del result, content
    result, content, best = alerts(place, visit)
    alert_bytes = len(content)
    del content  # sent
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        write_planes(result, Path(folder) / "planes.fits")
    writing = time.process_time() - begin
    peak = peak_mb()
    found = {
        "to_alerts_s": best - result.timings_s[WARPING],
        "with_outputs_s": best + writing,
        "first_s": first,
        "peak_mb": peak,
        "alerts": int(result.told.sum()),
        "alert_bytes": alert_bytes,
        "stages_s": {name: round(seconds, 3) for name, seconds in result.timings_s.items()},
        "truth": summary([score(visit, result)]),
    }
    if "--profile" in sys.argv:
        found["profile"] = top_five(lambda: alerts(place, visit))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
