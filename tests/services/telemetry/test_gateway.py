"""Reports through a real RabbitMQ: in order, nothing lost, nothing twice, whoever is away or killed."""

import json
import os
import signal
import subprocess
import sys
import time

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backbone.errors import AccessRefused, TransientError
from services.broker import Broker, BrokerSettings
from services.settings import section
from services.telemetry.gateway import Gateway, connected, durable
from services.telemetry.receiver import ReportRefused, ReportsMissing, receive, report_of
from services.telemetry.reports import DetectorQuality
from services.telemetry.settings import TelemetrySettings
from services.telemetry.telemetry import Telemetry

QUEUE = "ocs.telemetry"
JSON = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=3))
WORDS = st.sampled_from(["position", "values", "key", "kind", "x"])


class Ocs:
    """Keeps every report as it came."""

    def __init__(self, last=0):
        self.got, self.last = [], last

    def position(self):
        return self.last

    def apply(self, report):
        self.got.append(report["position"])
        self.last = report["position"]


@pytest.fixture
def installation(make_home, broker_settings):
    home = make_home(telemetry={"transport": "rabbitmq", "broker": broker_settings})
    with Telemetry.open(home) as telemetry:
        yield home, telemetry, Broker(section(home, "telemetry", TelemetrySettings).broker, home)


def tell(telemetry, first, last):
    for visit in range(first, last + 1):
        telemetry.send(DetectorQuality(instrument="cam", visit=visit, detector=0, psf_fwhm_arcsec=0.7))


def receives(broker, ocs, last):
    with connected(broker) as connection:
        receive(connection, QUEUE, ocs, done=lambda: ocs.last >= last)


def test_reports_arrive_in_their_order_and_those_sent_again_are_left_out(installation):
    _, telemetry, broker = installation
    gateway, ocs = Gateway(telemetry, broker, QUEUE, batch=4), Ocs()
    tell(telemetry, 1, 10)
    assert [gateway.round(), gateway.round(), gateway.round(), gateway.round()] == [4, 4, 2, 0]
    twice = Gateway(telemetry, broker, QUEUE)
    twice._send(telemetry.read(after=5))  # as after a crash before the note
    tell(telemetry, 11, 12)
    gateway.round()
    receives(broker, ocs, 12)
    assert ocs.got == list(range(1, 13))
    assert telemetry.state() == (12, 12)
    for one in (gateway, twice):
        one.close()


def test_reports_wait_while_the_ocs_is_away(installation):
    home, telemetry, broker = installation
    away = Broker(BrokerSettings(**{**broker.settings.model_dump(), "amqps_port": 1}), home)
    gateway = Gateway(telemetry, away, QUEUE)
    tell(telemetry, 1, 3)
    with pytest.raises(TransientError, match="did not answer"):
        gateway.round()
    assert telemetry.state() == (3, 0)
    back, ocs = Gateway(telemetry, broker, QUEUE), Ocs()
    assert back.round() == 3
    back.close()
    receives(broker, ocs, 3)
    assert ocs.got == [1, 2, 3]


def ended_by(broker):
    """The broker closes all connections of the services' user."""
    url = f"https://{broker.settings.host}:{broker.port('admin')}/api/connections/username/{broker.settings.user}"
    login = (broker.settings.user, broker.password())
    httpx.delete(url, auth=login, verify=broker.tls(), trust_env=False, timeout=60).raise_for_status()


def test_a_connection_that_the_ocs_ended_while_there_was_nothing_to_say_is_made_anew_without_a_fuss(installation):
    _, telemetry, broker = installation
    gateway, ocs = Gateway(telemetry, broker, QUEUE), Ocs()
    tell(telemetry, 1, 1)
    assert gateway.round() == 1
    ended_by(broker)
    tell(telemetry, 2, 3)
    assert gateway.round() == 2
    receives(broker, ocs, 3)
    assert ocs.got == [1, 2, 3]
    gateway.close()


def test_report_that_comes_too_early_stays_in_the_queue_and_is_said(installation):
    _, telemetry, broker = installation
    tell(telemetry, 1, 3)
    gateway = Gateway(telemetry, broker, QUEUE)
    gateway._send(telemetry.read(after=1))
    with pytest.raises(ReportsMissing, match="2 came where 1 is next"):
        receives(broker, Ocs(), 3)
    gateway.close()
    with connected(broker) as connection:
        assert durable(QUEUE)(connection.default_channel).queue_declare(passive=True).message_count == 2


def test_message_that_is_no_report_is_left_out_and_those_after_it_arrive(installation):
    _, telemetry, broker = installation
    tell(telemetry, 1, 2)
    gateway, ocs = Gateway(telemetry, broker, QUEUE, batch=1), Ocs()
    gateway.round()
    with connected(broker) as connection:
        connection.Producer().publish(b"\xff{", routing_key=QUEUE, exchange="")
    gateway.round()
    gateway.close()
    receives(broker, ocs, 2)
    assert ocs.got == [1, 2]


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.recursive(JSON, lambda j: st.dictionaries(WORDS, j, max_size=3)).map(json.dumps)))
def test_any_message_is_a_report_or_refused_with_a_reason(body):
    try:
        found = report_of(body)
    except ReportRefused as error:
        assert "message of" in str(error)  # noqa: PT017 - either is well, nothing else is
        return
    assert found["position"] >= 1
    assert isinstance(found["values"], dict)


def test_wrong_password_is_refused(installation):
    _, _, broker = installation
    with pytest.raises(AccessRefused):
        connected(broker, password="wrong")


@pytest.mark.kill
def test_gateway_killed_again_and_again_loses_and_doubles_nothing(installation):
    home, telemetry, broker = installation
    tell(telemetry, 1, 300)
    command = [sys.executable, "-m", "deploy.cli", "telemetry", "forward", "--home", str(home)]
    for life in range(2):
        goal = 1 + 100 * life
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as gateway:
            while telemetry.state()[1] < goal:
                assert gateway.poll() is None
                time.sleep(0.005)  # another process's work is all there is to wait for
            os.kill(gateway.pid, signal.SIGKILL)
    last, ocs = Gateway(telemetry, broker, QUEUE), Ocs()
    while last.round():
        pass
    last.close()
    receives(broker, ocs, 300)
    assert ocs.got == list(range(1, 301))
