"""A day's calibrations of one full-size detector as the observatory asks for them, from raw frames to masters at every site.

    python benchmarks/bench_daily.py [--size 4072 4000] [--bias 10 --dark 5 --flat 10] [--survey DIR] [--dry]

The home is that of `pachon demo --sites two`: S3 servers, two HTCondor pools, PostgreSQL, Airflow. The frames, simulated
beforehand, are ingested; while policies copy them to both sites, `calibration_daily` is asked for over REST; it is over when the
DAG run has succeeded and the certified masters are at both sites. 1200 s are allowed for that (DMS-REQ-0131, calProcTime, of at
most nCalExpProc = 25 exposures). `--survey` keeps the frames for another run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from calibration_frames import survey
from record import record
from rich.console import Console

from backbone.home import open_backbone
from deploy.demo.case import DagRun
from deploy.demo.drive import Drive
from deploy.demo.sites import COMPUTE, Parts, default_books, make_home, settle
from deploy.home import create_home
from deploy.rest import AirflowClient
from deploy.stack import Stack
from payloads.camera import Camera
from payloads.ingest import ingest
from payloads.repository import open_repository
from payloads.simulator.survey import simulate_survey
from workflow.campaigns import Campaigns
from workflow.states import CampaignState

WHAT = (
    "calibration exposures of one detector of 16 amplifiers: raw files to certified masters at both sites, by Airflow, two "
    "HTCondor pools, PostgreSQL and S3 servers; the simulation and the start of the servers are not in it"
)
MASTERS = ("bias", "dark", "flat")
DAGS = Path(__file__).parents[1] / "dags"


def main() -> int:
    """From the command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", type=int, nargs=2, default=(4072, 4000), metavar=("HEIGHT", "WIDTH"))
    for kind, count in (("bias", 10), ("dark", 5), ("flat", 10)):
        options.add_argument(f"--{kind}", type=int, default=count)
    options.add_argument("--survey", type=Path, help="keep the simulated frames here")
    options.add_argument("--dry", action="store_true", help="record nothing")
    asked = options.parse_args()
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="pachon-daily-") as folder:
        frames = asked.survey or Path(folder) / "survey"
        if not (frames / "complete").exists():
            counts = {kind: getattr(asked, kind) for kind in MASTERS}
            made = simulate_survey(survey(tuple(asked.size), counts), frames, jobs=2)
            (frames / "complete").touch()
            console.print(f"simulated {made.frames} frames")
        figures = measure(Path(folder) / "home", frames, console)
    console.print(figures)
    if not asked.dry:
        record("calibration", figures, command=" ".join(["benchmarks/bench_daily.py", *sys.argv[1:]]), what=WHAT)
    return 0


def measure(home: Path, frames: Path, console: Console) -> dict[str, Any]:
    """Seconds of each part and of all of it; SystemExit if a master is not certified, or not at both sites."""
    camera = Camera.load(frames / "camera.yaml")
    seconds: dict[str, float] = {}
    with ExitStack() as exits:
        make_home(home, Parts(store="s3", pools="htcondor", database=default_books(console.print)), console.print)
        create_home(home)
        stack = Stack(home, DAGS)
        exits.callback(stack.down, console.print)
        stack.up(console.print)
        client = exits.enter_context(AirflowClient(stack.api_url, "admin", stack.password("admin")))
        drive = Drive(client, console)
        begun = time.monotonic()
        with _timed("ingest", seconds):
            ingest(home, camera, [frames / "raw"])
        day, exposures = _day(home, camera.name)
        with _timed("production", seconds):
            drive.run_all([DagRun("daily", "calibration_daily", {"instrument": camera.name, "day_obs": day})])
        with _timed("copies", seconds):
            settle(home, console.print)
        whole = time.monotonic() - begun
        _hold_to_account(home)
    return {
        "daily_s": round(whole, 1),
        "daily_exposures": exposures,
        **{f"daily_{part}_s": round(took, 1) for part, took in seconds.items()},
    }


@contextmanager
def _timed(part: str, seconds: dict[str, float]) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds[part] = time.monotonic() - began


def _day(home: Path, instrument: str) -> tuple[int, int]:
    """The day of the calibration frames, and how many they are."""
    with open_repository(home / "repo") as butler:
        found = butler.query_dimension_records("exposure", instrument=instrument, where=f"exposure.observation_type IN {MASTERS}")
        (day,) = {record.day_obs for record in found}
        return int(day), len(found)


def _hold_to_account(home: Path) -> None:
    """The campaign succeeded, and each master's file is at both sites' own endpoints; or SystemExit."""
    (campaign,) = Campaigns.open(home).every()
    if campaign.state is not CampaignState.SUCCEEDED:
        raise SystemExit(f"campaign {campaign.name} is {campaign.state.value}")
    with open_repository(home / "repo") as butler:
        masters = [ref for kind in MASTERS for ref in butler.query_datasets(kind, collections="*", find_first=False)]
        keys = {info.path for ref in masters for info in butler._datastore.getStoredItemsInfo(ref)}
    with closing(open_backbone(home)) as backbone:
        missing = {site: sorted(keys - backbone.present(keys, site)) for site in COMPUTE}
    if len(masters) != len(MASTERS) or any(missing.values()):
        raise SystemExit(f"{len(masters)} masters of {len(MASTERS)}; missing at sites: {missing}")


if __name__ == "__main__":
    sys.exit(main())
