"""The engine alone: a million null quanta, real quanta beside two warm processes that only run, and latency.

    python benchmarks/bench_engine.py [--quanta 1000000] [--tasks 2000] [--pools local|condor] [--only null tasks latency] [--dry]

Everything runs over two pools of this machine with the ledger in PostgreSQL; the registry is SQLite and files are in a folder, as
for the peers (bench_peers.py). The ratio of costs is one of CPU seconds of engine and database for each quantum, which other load
does not change; rates are wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from bound import bound
from installation import CLIENTS, Installation, Run, installation
from plots import plot_throughput
from quanta import began, make_repository, published
from record import ROOT, record

from workflow.campaigns import Campaigns
from workflow.context import Context
from workflow.ledger import tables as t

SMALL = 10_000
TRIES = 7
GROUPS = 4
"""Of the real quanta: the first run while the others are planned."""
ECHO = str(ROOT / "benchmarks" / "echo.yaml")
STAMP = str(ROOT / "benchmarks" / "stamp.yaml")
ECHO_S = 0.005  # wall time of one, as a production that ran before knows it


def null(quanta: int, max_quanta: int = 20_000) -> dict[str, Any]:
    """A production of null quanta."""
    step = {"name": "null", "pipeline": f"null:{quanta}", "inputs": [], "chunk": {"target_s": 60, "max_quanta": max_quanta}}
    return {"production": "null", "kind": "drp", "steps": [step]}


def exactly_once(home: Installation, name: str, quanta: int) -> None:
    """SystemExit unless the ledger has every quantum of a campaign, and of each exactly one acceptance."""
    context = Context(home.settings)
    mine = t.quantum.c.campaign == name
    with context.ledger.read() as connection:
        planned = connection.execute(sa.select(sa.func.count()).select_from(t.quantum).where(mine)).scalar_one()
        done = connection.execute(
            sa.select(sa.func.count(), sa.func.count(t.accepted.c.quantum.distinct()))
            .select_from(t.accepted.join(t.quantum, t.quantum.c.id == t.accepted.c.quantum))
            .where(mine, t.quantum.c.state == "SUCCEEDED")
        ).one()
    context.ledger.close()
    if {planned, *done} != {quanta}:
        raise SystemExit(
            f"campaign {name}: of {quanta} quanta {planned} planned, {done[0]} accepted, {done[1]} of them different"
        )


def measure_null(pools: str, quanta: int) -> dict[str, Any]:
    """Null quanta, few and many."""
    runs: dict[int, Run] = {}
    for count in (min(SMALL, quanta), quanta):
        with installation(pools, slots=1) as home:
            runs[count] = home.run("null", null(count), warm={"null": 1e-5})
            exactly_once(home, "null", count)
        print(f"{count} null quanta: {count / runs[count].accepted_s:.0f}/s, {runs[count].peak_mb:.0f} MB", flush=True)
    few, many = runs[min(SMALL, quanta)], runs[quanta]

    def cost_us(run: Run) -> float:
        return (run.engine_cpu_s + run.database_cpu_s) / run.quanta * 1e6

    return {
        "null_quanta": quanta,
        "null_quanta_per_s": round(quanta / many.accepted_s, 1),
        "null_cpu_us_each": round(cost_us(many), 1),
        "cost_ratio_1e6_to_1e4": round(cost_us(many) / cost_us(few), 3),
        "controller_peak_mb": many.peak_mb,
        "null_steps": many.steps,
    }


def measure_tasks(pools: str, tasks: int) -> dict[str, Any]:
    """Real quanta from submission to publication: by jobs that must start, by warm workers, and the bound."""
    detectors = -(-tasks // GROUPS)
    step = {"name": "echo", "pipeline": ECHO, "inputs": ["in"], "group_by": ["exposure"], "chunk": {"max_quanta": detectors}}
    rates: dict[str, float] = {}
    with installation(pools, slots=1, stay_s=600, engine={"flush_s": 1, "plan_slice_s": 0.5}) as home:
        make_repository(home.home / "repo", tasks, detectors=detectors)
        for name in ("cold", "warm"):
            run = home.run(name, {"production": "echo", "kind": "drp", "steps": [step]}, warm={"echo": ECHO_S})
            exactly_once(home, name, tasks)
            if published(home.home / "repo", f"{name}/*") != tasks:
                raise SystemExit("the Butler does not find what the engine says it published")
            rates[name] = tasks / run.published_s
            print(f"{name}: {rates[name]:.1f}/s, {run.engine_cpu_s:.2f} CPU s of the engine, {run.steps}", flush=True)
        other = home.home.parent / "bound" / "repo"
        make_repository(other, tasks, detectors=detectors)
        limit = bound(other, ECHO)
    print(f"{tasks} quanta; two warm processes that only run: {limit:.1f}/s", flush=True)
    return {
        "tasks": tasks,
        "tasks_per_s": round(rates["warm"], 2),
        "tasks_cold_per_s": round(rates["cold"], 2),
        "bound_per_s": round(limit, 2),
        "bound_fraction": round(rates["warm"] / limit, 3),
        "bound_fraction_cold": round(rates["cold"] / limit, 3),
    }


def measure_latency(pools: str, _tasks: int) -> dict[str, Any]:
    """Campaigns of one real quantum, one after the other, with an engine process that has nothing else to do: from the ledger's
    acceptance to the beginning of a job's process, as the kernel knows it, and to `runQuantum`; then on a warm worker.
    """
    started, ran = zip(*_latencies(pools, stay_s=0), strict=True)
    _, warm = zip(*_latencies(pools, stay_s=600), strict=True)
    figures = {
        "latency_s": statistics.median(started[1:]),
        "latency_cold_s": started[0],
        "latency_run_s": statistics.median(ran[1:]),
        "latency_run_cold_s": ran[0],
        "latency_run_warm_s": statistics.median(warm[1:]),
    }
    print(f"to a process {started}, to runQuantum {ran}, on a warm worker {warm}", flush=True)
    return {name: round(value, 3) for name, value in figures.items()}


def _latencies(pools: str, *, stay_s: float) -> list[tuple[float, float]]:
    """Of campaigns in turn (s), the first by an engine that has just begun: to a job's process, or its worker's look, and to
    `runQuantum`.
    """
    with installation(pools, slots=1, stay_s=stay_s) as home:
        make_repository(home.home / "repo", 1)
        with (home.home / "engine.log").open("w") as log:
            program = str(Path(sys.executable).with_name("pachon"))
            command = [program, "engine", "--home", str(home.home)]
            engine = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **CLIENTS})
            try:
                context = Context(home.settings)
                campaigns = Campaigns(home.settings, context=context)
                latencies = [_latency(campaigns, context, f"l{n}") for n in range(TRIES)]
            finally:
                engine.terminate()
                engine.wait()
        context.ledger.close()
    return latencies


def _latency(campaigns: Campaigns, context: Context, name: str, timeout_s: float = 120) -> tuple[float, float]:
    step = {"name": "stamp", "pipeline": STAMP, "inputs": ["in"]}
    campaigns.start({"production": "stamp", "kind": "drp", "steps": [step]}, name=name, actor="benchmark")
    until = time.monotonic() + timeout_s
    while not campaigns.status(name).ended:
        if time.monotonic() > until:
            raise SystemExit(f"campaign {name} of one quantum did not end: {campaigns.status(name)}")
        time.sleep(0.2)  # a process of another is waited for
    query = sa.select(t.campaign.c.created, t.job.c.started).join(t.job, t.job.c.campaign == t.campaign.c.name)
    (row,) = context.ledger.all(query.where(t.campaign.c.name == name))
    return row.started - row.created, began(context.settings.home / "repo", f"{name}/*") - row.created


def main() -> None:
    """What is asked for."""
    parts: dict[str, Callable[[str, int], dict[str, Any]]] = {
        "null": measure_null,
        "tasks": measure_tasks,
        "latency": measure_latency,
    }
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quanta", type=int, default=1_000_000, help="null quanta")
    options.add_argument("--tasks", type=int, default=2000, help="real quanta")
    options.add_argument("--pools", choices=("local", "condor"), default="local")
    options.add_argument("--dry", action="store_true", help="print the figures, and write nothing")
    options.add_argument("--only", nargs="*", choices=tuple(parts), default=tuple(parts))
    asked = options.parse_args()
    command = " ".join(["python", "benchmarks/bench_engine.py", *sys.argv[1:]])
    for name in asked.only:
        figures = parts[name](asked.pools, asked.quanta if name == "null" else asked.tasks)
        figures[f"{name}_pools"] = asked.pools
        if asked.dry:
            print(json.dumps(figures, indent=2))
            continue
        if name == "null":
            plot_throughput(figures["null_steps"], asked.quanta)
        record("engine", figures, command=command, what=parts[name].__doc__ or "")


if __name__ == "__main__":
    main()
