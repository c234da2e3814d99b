"""Alerts through RabbitMQ while everybody is killed: distributor, subscriber, broker. Each alert counts once."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from services.alerts.follow import Collection
from services.alerts.service import AlertService
from services.broker import keep_secret

pytestmark = [pytest.mark.kill, pytest.mark.timeout(600)]
COUNT = 600
LIMIT_S = 400


@pytest.fixture
def home(make_home, broker_settings):
    return make_home(alerts={"transport": "rabbitmq", "broker": broker_settings})


def start(home, *argv):
    log = (home / "log").open("ab")
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", "alerts", *argv, "--home", str(home)], stdout=log, stderr=log
        )


def until(true, *processes):
    limit = time.monotonic() + LIMIT_S
    while not true():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < limit
        time.sleep(0.005)  # another process's work is all there is to wait for


def killed(process):
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_each_alert_reaches_a_subscriber_once_whoever_is_killed(home, packet, rabbitmq, broker_settings):
    inbox, name = home / "inbox.sqlite3", f"one-{broker_settings['vhost']}"
    with AlertService(home) as service:
        keep_secret(home / "secret", service.subscribe(name, actor="test"))
        for first in range(1, COUNT + 1, 50):
            service.outbox.add(7, first, [packet(n, stamp=os.urandom(3000)) for n in range(first, first + 50)])
        replay = ("replay", "--as", name, "--secret", str(home / "secret"), "--into", str(inbox))
        # The distributor dies while it publishes: what the broker had taken and nobody had noted is not there twice.
        distributor = start(home, "distribute")
        until(lambda: service.outbox.published() >= 1, distributor)
        killed(distributor)
        distributor, subscriber = start(home, "distribute"), start(home, *replay)
        until(lambda: inbox.exists() and Collection(inbox).position() >= 1, subscriber)
        killed(subscriber)
        # The broker dies with everybody connected, and comes back.
        subscriber = start(home, *replay)
        broker = rabbitmq._programs()[-1].leader()
        broker.kill()
        psutil.wait_procs([broker], timeout=60)
        rabbitmq.up()
        service.outbox.add(7, 9999, [packet(COUNT + 1)])
        until(lambda: Collection(inbox).position() >= COUNT + 1, distributor, subscriber)
        for process in (distributor, subscriber):
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        assert Collection(inbox).received() == [(n, n) for n in range(1, COUNT + 2)]
        assert service.outbox.published() == COUNT + 1
    assert (home / "secret").read_text() not in (home / "log").read_text()
