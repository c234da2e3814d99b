"""The same runs without Airflow: each DAG run's campaign, advanced in this process."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from backbone.errors import PermanentError
from deploy.demo.case import DagRun
from operators.conf import read
from workflow.campaigns import Campaigns
from workflow.loop import Pace, Stop, run_until_ended
from workflow.status import CampaignState, CampaignStatus


def run_locally(home: Path, dags: Path, runs: Iterable[DagRun], campaigns: Campaigns | None = None) -> list[CampaignStatus]:
    """Run the campaign that each DAG run would start, in order; raises at the first that does not succeed. `campaigns`: those of
    the home, where they are open already.
    """
    campaigns = campaigns or Campaigns.open(home)
    done = []
    for run in runs:
        conf = read(run.dag, run.conf)
        production = dags / "productions" / conf.file_name(run.dag)
        name = conf.campaign(run.dag)
        campaigns.start(production, name=name, parameters=conf.parameters(), actor="local")
        status = run_until_ended(campaigns, name, pace=Pace(0.1, 1.0), show=lambda _: None, advance=True, stop=Stop())
        if status.state is not CampaignState.SUCCEEDED:
            raise PermanentError(f"campaign {name} ended {status.state.value}; see `pachon campaign report {name} --home {home}`")
        done.append(status)
    return done
