"""A night at the observatory's pace, from the end of readout to a subscriber's hands; worker, broker and scheduler die once.

    bench_night.py --visits 60 --cadence 39 --detectors 4 --size 1000 [--folder DIR]

The home is what `pachon up` makes with these settings: Airflow, the supervisor, prompt ingest, RabbitMQ for messages and alert
streams. The DAG `nightly` opens and closes the night; the observatory announces through Airflow's door and its camera sends to
ingest. `--folder` keeps what was simulated and prepared, for another night of the same frames.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml
from night_plots import plot_night
from record import record

from backbone.messages.prompt import NextVisit
from deploy.demo.night import CAMERA, Stand, prepare, survey_of
from deploy.demo.observatory import Observatory, fields_of, visits_of
from deploy.ports import port
from deploy.rabbitmq import RabbitServer
from deploy.rest import AirflowClient, AirflowUnavailable, RunConflict
from deploy.stack import Stack
from operators.conf import read
from services.alerts.book import FULL
from services.alerts.follow import follow
from services.alerts.packets import alert_of, from_wire
from services.alerts.service import AlertService
from services.alerts.transport import Delivered
from services.prompt_ingest.camera import Camera
from services.prompt_ingest.cli import address_file, token_of
from workflow.night.latency import OTT1_S, quantile
from workflow.night.nights import Nights
from workflow.night.reports import performance_report, write_reports

BROKER_DOWN_S = 3.0
PATIENCE_S = 900.0


def say(words: str) -> None:
    """Told to whoever watches."""
    print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)


class Listener:
    """A subscriber of the full stream, in this process: when each alert came, and how often."""

    def __init__(self, home: Path) -> None:
        self.came: dict[int, list[float]] = {}
        self._position = 0
        self._stop = threading.Event()
        self._service = AlertService(home)
        self._secret = self._service.subscribe("bench", actor="bench_night")
        self._thread = threading.Thread(target=self._follow)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._service.outbox.close()

    def _follow(self) -> None:
        transport = self._service.transport()
        try:
            follow(transport, self, stream=FULL, name="bench", secret=self._secret, stop=self._stop)
        finally:
            transport.close()

    def position(self) -> int:
        """See services.alerts.follow.Effect."""
        return self._position

    def apply(self, alerts: list[Delivered]) -> None:
        """See services.alerts.follow.Effect."""
        now = time.time()
        for found in alerts:
            self.came.setdefault(alert_of(from_wire(found.body)), []).append(now)
        self._position = alerts[-1].position


def settings_for(home: Path) -> None:
    """RabbitMQ for messages and streams, one camera's ingest; everything else as it is embedded."""
    path = home / "pachon.yaml"
    known = yaml.safe_load(path.read_text()) or {}
    messages = {"url": f"amqp://pachon@127.0.0.1:{port(home, 'rabbitmq')}/airflow", "password_file": "secrets/rabbitmq"}
    known |= {
        "messages": messages,
        "servers": {"rabbitmq": True},
        "sites": [{"name": "local", "pool": {"kind": "local", "slots": 8}}],
        "services": {
            "alerts": {"transport": "rabbitmq"},
            "prompt_ingest": {"cameras": {"main": {"instrument": CAMERA}}, "messages": messages},
        },
    }
    path.write_text(yaml.safe_dump(known, sort_keys=False))


class Deaths:
    """One of each, at its visit."""

    def __init__(self, stack: Stack, stand: Stand, night: Callable[[], str], visits: int) -> None:
        self._stack, self._home, self._night = stack, stand.home, night
        self.told: list[str] = []
        self._due = {visits // 4: self._worker, visits // 2: self._broker, 3 * visits // 4: self._scheduler}
        self._threads: list[threading.Thread] = []

    def at(self, number: int) -> None:
        """The n-th visit begins."""
        if (act := self._due.get(number)) is not None:
            thread = threading.Thread(target=self._later, args=(act,))
            thread.start()
            self._threads.append(thread)

    def _later(self, act: Callable[[], str]) -> None:
        self.told.append(act())
        say(self.told[-1])

    def join(self) -> None:
        """When all are over."""
        for thread in self._threads:
            thread.join()

    def _worker(self) -> str:
        """While it has a visit in flight."""
        nights = Nights.open(self._home)
        key = next(row.key for row in nights.rows(self._night())[2] if row.ended is None and row.armed is not None)
        limit = time.monotonic() + 120
        process = _worker_process(key)
        while time.monotonic() < limit and not any(
            row.worker == key and row.ended is None and row.stage not in ("", "wait", "waiting", "preload")
            for row in nights.rows(self._night())[1]
        ):
            time.sleep(0.05)
        process.kill()
        return f"kill -9 of worker {key}, pid {process.pid}"

    def _broker(self) -> str:
        server = RabbitServer(self._home, streams=True)
        leader = server._programs()[-1].leader()
        family = [leader, *leader.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):  # the first takes the others with it
                process.kill()
        psutil.wait_procs(family, timeout=20)
        time.sleep(BROKER_DOWN_S)
        server.up()
        return f"kill -9 of the broker, pid {leader.pid}; started again {BROKER_DOWN_S:.0f} s later"

    def _scheduler(self) -> str:
        (program,) = [p for p in self._stack.programs(self._stack.settings.environment()) if p.name == "airflow-scheduler"]
        leader = program.leader()
        os.killpg(leader.pid, signal.SIGKILL)
        time.sleep(2 * BROKER_DOWN_S)
        program.start()
        return f"kill -9 of Airflow's scheduler, pid {leader.pid}; started again {2 * BROKER_DOWN_S:.0f} s later"


def _worker_process(key: str) -> psutil.Process:
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if "services.prompt" in line and key in line and "KEEPER" not in line:
            return process
    raise SystemExit(f"no process of worker {key}")


def announcer(client: AirflowClient) -> Callable[[NextVisit], None]:
    """`next_visit` as the OCS gives it: again while Airflow's door is shut."""

    def announce(said: NextVisit) -> None:
        limit = time.monotonic() + 20
        while True:
            try:
                client.post("/pachon/api/next_visit", said.model_dump(mode="json"))
                return
            except AirflowUnavailable:
                if time.monotonic() > limit:
                    return  # the frames will say it
                time.sleep(0.5)

    return announce


def run_night(stand: Stand, cadence_s: float, *, kill: bool, out: Path) -> dict[str, Any]:
    """The night; returns its figures."""
    settings_for(stand.home)
    stack = Stack(stand.home)
    conf = {
        "instrument": CAMERA,
        "day_obs": stand.day_obs,
        "mode": "prompt",
        "fields": [one.model_dump() for one in fields_of(stand.world, 1)],
    }
    run_id, name = read("nightly", conf).run_id("nightly"), read("nightly", conf).campaign("prompt")
    with ExitStack() as exits:
        exits.callback(stack.down, say)
        stack.up(say)
        client = exits.enter_context(AirflowClient(stack.api_url, "ocs", stack.password("ocs")))
        admin = exits.enter_context(AirflowClient(stack.api_url, "admin", stack.password("admin")))
        _when_known(admin, "nightly")
        admin.unpause("nightly")
        client.trigger("nightly", run_id, conf)
        nights = Nights.open(stand.home)
        _until(lambda: nights.statuses([name])[0] is not None and nights.status(name).state.value == "OPEN", "the night to open")
        say(f"night {name} is open: {nights.status(name).armed} detectors armed")
        listener = exits.enter_context(Listener(stand.home))
        camera = exits.enter_context(
            closing(Camera(lambda: address_file(stand.home, "main").read_text().strip(), token_of(stand.home, "main")))
        )
        observatory = Observatory(stand.world, stand.survey, camera, announcer(client))
        visits = visits_of(stand.world, 1)
        deaths = Deaths(stack, stand, lambda: name, len(visits))
        observatory.play(visits, cadence_s, at=deaths.at if kill else lambda _: None)
        deaths.join()
        _until(lambda: _all_ended(nights, name, len(visits) * len(stand.world.camera.detectors)), "every visit to end")
        time.sleep(2.0)
        client.post(f"/pachon/api/nights/{name}/drain", {})
        ended = admin.wait("nightly", run_id, timeout_s=PATIENCE_S)
        _until(lambda: set(stand.expected) <= set(listener.came), "the subscriber to have all", patience_s=60, fail=False)
        say(f"DAG run {run_id}: {ended.state}; {deaths.told}")
        write_reports(nights, name, out)
        page = admin.text(f"/pachon/nights/{name}")
        (out / "live.html").write_text(page)
        figures = measure(stand, observatory, listener)
        performance = performance_report(nights, name)
        figures |= {"dag_run": ended.state, "workers_lost": performance["workers"]["lost"], "parts": performance["parts"]}
        plot_night(nights.rows(name)[1], figures, out / "night_stages.png")
        return figures


def measure(stand: Stand, observatory: Observatory, listener: Listener) -> dict[str, Any]:
    """Against undisturbed processing of the same frames; what never came is late."""
    came = listener.came
    delays = {a: came[a][0] - observatory.readout_end[visit] for a, visit in stand.expected.items() if a in came}
    total = len(stand.expected)
    return {
        "night_visits": len(observatory.readout_end),
        "night_detectors": len(stand.world.camera.detectors),
        "night_alerts": total,
        "on_time_fraction": round(sum(d <= OTT1_S for d in delays.values()) / total, 4) if total else 0.0,
        "p50_s": round(quantile(list(delays.values()), 0.5) or 0.0, 2),
        "p98_s": round(quantile(list(delays.values()), 0.98) or 0.0, 2),
        "max_s": round(max(delays.values(), default=0.0), 2),
        "lost_alerts": len(set(stand.expected) - set(came)),
        "doubled_alerts": sum(len(times) > 1 for times in came.values()),
        "unexpected_alerts": len(set(came) - set(stand.expected)),
    }


def _all_ended(nights: Nights, name: str, count: int) -> bool:
    parts = nights.rows(name)[1]
    return len(parts) >= count and all(row.ended is not None for row in parts)


def _when_known(client: AirflowClient, dag: str) -> None:
    def known() -> bool:
        try:
            return dag in client.dags()
        except (AirflowUnavailable, RunConflict):
            return False

    _until(known, f"Airflow to know {dag}")


def _until(true: Callable[[], bool], what: str, *, patience_s: float = PATIENCE_S, fail: bool = True) -> None:
    limit = time.monotonic() + patience_s
    while not true():
        if time.monotonic() > limit:
            if fail:
                raise SystemExit(f"waited {patience_s:.0f} s for {what}, in vain")
            return
        time.sleep(0.25)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visits", type=int, default=60)
    parser.add_argument("--cadence", type=float, default=39.0, help="seconds from one visit to the next")
    parser.add_argument("--detectors", type=int, default=4)
    parser.add_argument("--size", type=int, default=1000, help="pixels on a side of a detector")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="keep what was simulated and prepared here; default: a temporary one")
    parser.add_argument("--calm", action="store_true", help="kill nothing")
    parser.add_argument("--dry", action="store_true", help="record nothing")
    given = parser.parse_args()
    kept = given.folder or Path(tempfile.mkdtemp(prefix="pachon-night-"))
    config = survey_of(visits=given.visits, detectors=given.detectors, size=given.size, cadence_s=given.cadence, seed=given.seed)
    stand = prepare(kept, config, say)
    used = kept / "night"
    shutil.rmtree(used, ignore_errors=True)
    shutil.copytree(stand.home, used)  # the prepared home stays as it is
    stand = Stand(used, stand.survey, stand.world, stand.day_obs, stand.expected)
    out = kept / "out"
    out.mkdir(exist_ok=True)
    figures = run_night(stand, given.cadence, kill=not given.calm, out=out)
    print(json.dumps(figures, indent=2))
    if not given.dry:
        shutil.copyfile(out / "night_stages.png", Path(__file__).parents[1] / "docs" / "night_stages.png")
        command = "benchmarks/bench_night.py " + " ".join(sys.argv[1:])
        what = (
            f"{given.visits} simulated visits, one each {given.cadence:g} s, {given.detectors} detectors of "
            f"{given.size} x {given.size}; from the end of readout to a subscriber of the alert stream; "
            "a worker, the broker and the scheduler killed once each"
        )
        record("prompt", figures, command=command, what=what)
    if not given.folder:
        shutil.rmtree(kept)


if __name__ == "__main__":
    main()
