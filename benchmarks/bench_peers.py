"""The engine beside bps, on the same pools and quanta in one sitting: submit to published, and the bound of warm processes.

    python benchmarks/bench_peers.py [--quanta 2000] [--default-quanta 300] [--limit 1200] [--only NAME …] [--keep DIR]

Every run starts from a fresh copy of one repository (SQLite registry, folder). bps is run as it comes, and clustered and tuned
(the best that was found), each with no faults and with one quantum of a hundred failing for good; and with Parsl, locally. A run
is stopped at its time limit: its rate is then what it had done if all of that had been published, so a ratio is never flattered.

Nothing is deleted until all have run: where ext4 has no journal, to make a file takes a millisecond more for minutes after some
thousands were deleted, which whoever comes next would pay for.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from bound import bound
from installation import installation
from peers.bps import PeerRun, Peers, Variant
from quanta import FAULTY_EVERY, make_repository, published
from record import ROOT, record

from deploy.condor.pool import CondorServer
from workflow.pools.settings import HTCondorPool

BEST = ("bps_best", "bps_quarters")
ECHO = str(ROOT / "benchmarks" / "echo.yaml")
ECHO_S = 0.005  # wall time of one quantum, as a production that ran before knows it
GROUPS = 4  # of our campaign, as in bench_engine.py
SLOTS = 8  # of the peers' pool: more jobs than cores, as they were measured at their strongest
WHAT = "the engine beside bps on the same pools, submit to published"


def variants(quanta: int, default_quanta: int) -> list[Variant]:
    """The peers' runs, the short ones first."""
    half, quarter = quanta // 2, quanta // 4
    return [
        Variant("bps_best", quanta, cluster=half, tuned=True),
        Variant("bps_quarters", quanta, cluster=quarter, tuned=True),
        Variant("parsl", quanta, cluster=half, parsl=True),
        Variant("bps_best_faults", quanta, faulty=True, cluster=half, tuned=True),
        Variant("bps_default", default_quanta),
        Variant("bps_default_faults", default_quanta, faulty=True),
    ]


def ours(folder: Path, quanta: int, *, faulty: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The engine over two pools like the one that bps has, one job at a time in each: jobs that start, then warm workers."""
    detectors = -(-quanta // GROUPS)
    step = {"name": "echo", "pipeline": ECHO, "inputs": ["in"], "group_by": ["exposure"], "chunk": {"max_quanta": detectors}}
    production = {"production": "echo", "kind": "drp", "steps": [{**step, "on_failure": "continue"}]}
    settings = {"slots": 1, "stay_s": 600, "engine": {"flush_s": 1}}
    failing = quanta // FAULTY_EVERY if faulty else 0
    with installation("condor", **settings, within=folder) as home:
        make_repository(home.home / "repo", quanta, faulty=faulty, detectors=detectors)
        for kind in ("_cold", ""):
            name = f"ours{'_faults' if faulty else ''}{kind}"
            run = home.run(name, production, warm={"echo": ECHO_S}, failing=failing)
            done = published(home.home / "repo", f"{name}/*")
            if done != quanta - failing:
                raise SystemExit(f"{name}: {done} of {quanta} quanta are published")
            configuration = {"pools": "two of HTCondor", **settings, "known_wall_s": ECHO_S, **production}
            yield name, _told(name, quanta, done, run.published_s, done / run.published_s, configuration)


def warm_processes(folder: Path, quanta: int) -> dict[str, Any]:
    """The bound: two warm processes that only run, without planning, acceptance or publication."""
    folder.mkdir()
    make_repository(folder / "repo", quanta)
    rate = bound(folder / "repo", ECHO)
    return _told(
        "bound", quanta, quanta, quanta / rate, rate, {"processes": 2, "butlers": "one shared by all quanta of a process"}
    )


def peer(run: PeerRun) -> dict[str, Any]:
    """A peer's run, as the others' are told."""
    v = run.variant
    found = _told(v.name, v.quanta, run.published, run.seconds, run.quanta_per_s, run.configuration)
    due = v.quanta - (v.quanta // FAULTY_EVERY if v.faulty else 0)
    if run.ended and run.published != due:
        print(f"{v.name}: {run.published} of {due} quanta that can succeed are published")
    if not run.ended:
        print(f"{v.name}: stopped at its time limit after {run.jobs} jobs")
    return found | {"ended": run.ended, "jobs": run.jobs}


def _told(name: str, quanta: int, done: int, seconds: float, rate: float, configuration: Mapping[str, Any]) -> dict[str, Any]:
    print(f"{name}: {done} of {quanta} published in {seconds:.1f} s, {rate:.2f}/s, with", flush=True)
    print("    " + yaml.safe_dump(dict(configuration), sort_keys=False).strip().replace("\n", "\n    "), flush=True)
    return {
        "quanta": quanta,
        "published": done,
        "seconds": round(seconds, 2),
        "quanta_per_s": round(rate, 2),
        "configuration": dict(configuration),
    }


def main() -> None:
    """Pools, repositories, all runs."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quanta", type=int, default=2000)
    options.add_argument("--default-quanta", type=int, default=300)
    options.add_argument("--limit", type=float, default=1200, help="seconds that one run of a peer may take")
    options.add_argument("--only", nargs="*", help="names of peers' runs")
    options.add_argument("--keep", type=Path, help="work here and leave everything")
    asked = options.parse_args()
    wanted = [v for v in variants(asked.quanta, asked.default_quanta) if not asked.only or v.name in asked.only]
    command = " ".join(["python", "benchmarks/bench_peers.py", *sys.argv[1:]])
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="pachon-peers-") as temporary:
        folder = (asked.keep or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        for name, run in runs(folder, wanted, asked.quanta, asked.limit):
            rates[name] = run["quanta_per_s"]
            record("peers", {f"{name}_per_s": rates[name], name: run}, command=command, what=WHAT)
    record("engine", ratios(rates), command=command, what=WHAT)
    print(ratios(rates))


def runs(folder: Path, wanted: list[Variant], quanta: int, limit_s: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """All runs, one after the other: ours, the bound, and the peers', whose pool is there for them alone."""
    yield from ours(folder, quanta, faulty=False)
    yield from ours(folder, quanta, faulty=True)
    yield "bound", warm_processes(folder / "bound", quanta)
    pool = CondorServer(folder, "ncsa", HTCondorPool(kind="htcondor", slots=SLOTS))
    peers = Peers(folder, pool, limit_s, say=lambda words: print(words, flush=True))
    peers.install()
    pool.up()
    try:
        for variant in wanted:
            repository = folder / f"inputs-{variant.quanta}{'-faulty' if variant.faulty else ''}"
            if not repository.exists():
                make_repository(repository, variant.quanta, faulty=variant.faulty, detectors=-(-variant.quanta // GROUPS))
            print(f"{variant.name}: {variant.quanta} quanta, {limit_s:.0f} s at most …", flush=True)
            yield variant.name, peer(peers.run(variant, repository))
    finally:
        pool.down()


def ratios(per_s: Mapping[str, float]) -> dict[str, float]:
    """Ours over theirs, of the runs of this sitting; nothing for a peer that published nothing."""
    found = {"quanta_per_s_condor": per_s["ours"], "quanta_per_s_condor_faults": per_s["ours_faults"]}
    best = max((per_s[name] for name in BEST if name in per_s), default=0.0)
    theirs = {
        "ratio_bps_default": ("ours", per_s.get("bps_default", 0.0)),
        "ratio_bps_best": ("ours", best),
        "ratio_bps_best_cold": ("ours_cold", best),
        "ratio_bps_best_faults": ("ours_faults", per_s.get("bps_best_faults", 0.0)),
        "ratio_parsl": ("ours", per_s.get("parsl", 0.0)),
    }
    return found | {name: round(per_s[own] / other, 2) for name, (own, other) in theirs.items() if other}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else pools stay behind
    main()
