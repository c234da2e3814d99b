"""The engine of a benchmark, in a process of its own so that its memory and time can be told: reads what to do from stdin."""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

from workflow import stats
from workflow.campaigns import Campaigns
from workflow.context import Context
from workflow.loop import Pace, Stop, run_until_ended
from workflow.settings import Settings
from workflow.status import CampaignStatus


def main() -> None:
    """One campaign, from its start to its end; the last line of stdout is JSON."""
    asked = json.load(sys.stdin)
    context = Context(Settings.load(asked["home"]))
    campaigns = Campaigns(context.settings, context=context)
    known = [stats.Sample(label=k, n=200, wall_s=200 * s, peak_mb=300, grown_mb=None) for k, s in asked["warm"].items()]
    with context.ledger.begin() as connection:
        stats.learn(context.ledger, connection, asked["production"]["production"], known)
    campaigns.prepare()
    if (context.settings.home / "repo" / "butler.yaml").exists():
        _ = context.butler  # an engine's process stands for months, and has its connection
    steps: list[dict[str, Any]] = []
    cpu, began = time.process_time(), time.monotonic()

    def show(status: CampaignStatus) -> None:
        accepted, published = (sum(getattr(s, name) for s in status.steps) for name in ("accepted", "published"))
        if not steps or (accepted, published) != (steps[-1]["accepted"], steps[-1]["published"]):
            steps.append({"s": round(time.monotonic() - began, 3), "accepted": accepted, "published": published})

    campaigns.start(asked["production"], name=asked["name"], actor="benchmark")
    status = run_until_ended(campaigns, asked["name"], pace=Pace(0.05, 0.5), show=show, advance=True, stop=Stop())
    quanta = sum(s.published for s in status.steps)
    failed, expected = sum(s.failed for s in status.steps), sum(s.expected for s in status.steps)
    if failed != asked["failing"] or quanta != expected - failed:
        sys.exit(f"campaign {asked['name']}: {status}")
    found = {
        "quanta": quanta,
        "accepted_s": next(s["s"] for s in steps if s["accepted"] == quanta),
        "published_s": next(s["s"] for s in steps if s["published"] == quanta),
        "engine_cpu_s": round(time.process_time() - cpu, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "steps": steps,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
