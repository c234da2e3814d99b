"""The engine beside plain execution of the same quanta (isr of simulated frames) on the same machine, one after the other.

The peer is pipe_base's own executor with as many processes as the engine has slots: it keeps no ledger, isolates nothing and
starts over when it breaks. The ratio says what acceptance, attempts and publication cost.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from record import ROOT, record

SLOTS = 2
CAMPAIGN = {
    "production": "bench",
    "kind": "drp",
    "parameters": {"instrument": {"type": "string"}},
    "steps": [
        {
            "name": "isr",
            "pipeline": "resource://payloads/pipelines/frames.yaml#isr",
            "inputs": ["{instrument}/defaults"],
            "where": "instrument='{instrument}' AND exposure.observation_type='science'",
        }
    ],
}


def main() -> None:
    """Prepare once, then time both ways."""
    from deploy.demo.local import run_locally
    from deploy.demo.prepare import prepare, simulated
    from payloads.execute import execute_pipeline
    from workflow.campaigns import Campaigns
    from workflow.loop import Pace, Stop, run_until_ended

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        case = prepare(home, simulated(home / "survey", str(ROOT / "benchmarks" / "survey.yaml"), None, print), print)
        run_locally(home, ROOT / "dags", [run for run in case.runs() if run.stage == "calibration"])
        campaigns = Campaigns.open(home)

        started = time.perf_counter()
        campaigns.start(CAMPAIGN, name="bench", parameters={"instrument": case.instrument}, actor="bench")
        pace = Pace(0.05, 0.5)
        status = run_until_ended(campaigns, "bench", pace=pace, show=lambda _: None, advance=True, stop=Stop())
        engine_s = time.perf_counter() - started
        quanta = status.steps[0].published

        started = time.perf_counter()
        plain = execute_pipeline(
            home / "repo",
            CAMPAIGN["steps"][0]["pipeline"],
            inputs=[f"{case.instrument}/defaults"],
            run="plain",
            where=f"instrument='{case.instrument}' AND exposure.observation_type='science'",
            processes=SLOTS,
        )
        plain_s = time.perf_counter() - started
        if plain != quanta:
            raise SystemExit(f"the engine did {quanta} quanta, plain execution {plain}: not the same work")
        figures = {
            "quanta": quanta,
            "engine_quanta_per_s": round(quanta / engine_s, 2),
            "plain_quanta_per_s": round(plain / plain_s, 2),
            "ratio_to_plain_execution": round(plain_s / engine_s, 3),
        }
        record("engine_local", figures, command="make bench", what=__doc__.splitlines()[0])
        print(figures)


if __name__ == "__main__":
    main()
