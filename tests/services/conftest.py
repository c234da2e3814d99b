"""What tests of the services share: a home with settings, small packets, and alert services of each kind of transport."""

from __future__ import annotations

import time

import pytest
import yaml

from services.alerts.book import FULL
from services.alerts.broker_users import BrokerUsers
from services.alerts.database_transport import DatabaseTransport
from services.alerts.distributor import Distributor
from services.alerts.outbox import AlertOutbox
from services.alerts.packets import alert_of, from_wire
from services.alerts.settings import AlertSettings
from services.alerts.streams import StreamTransport
from services.alerts.subscribers import Subscribers
from services.broker import Broker
from services.settings import section


@pytest.fixture
def make_home(tmp_path):
    """A home directory whose settings have these services; called again, the settings change."""

    def make(**services):
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        (home / "pachon.yaml").write_text(yaml.safe_dump({"services": services}))
        return home

    return make


@pytest.fixture(scope="session")
def packet():
    """A packet with as little in it as the schema allows, and what is asked for."""

    def make(number, *, visit=7, detector=1, obj=None, stamp=b"stamp", **source):
        record = {
            "diaSourceId": number,
            "visit": visit,
            "detector": detector,
            "diaObjectId": obj,
            "midpointMjdTai": 60000.5,
            "ra": 30.0,
            "dec": -20.0,
            "x": 10.0,
            "y": 20.0,
            "timeProcessedMjdTai": 60000.6,
            "snr": 10.0,
            "band": "r",
            "reliability": 0.9,
            "psfNdata": 0,
            "trailNdata": 0,
            "dipoleNdata": 0,
            "bboxSize": 0,
        }
        cutouts = {f"cutout{name}": stamp for name in ("Difference", "Science", "Template")}
        return {"diaSourceId": number, "diaSource": record | source, **cutouts}

    return make


class Service:
    """An alert service of a kind; a broker's users are the same in all of its virtual hosts, so there names have a suffix."""

    suffix = ""

    def __init__(self, home, outbox, transport, distribute, subscribe):
        self.home, self.outbox, self.transport, self.distribute, self.subscribe = home, outbox, transport, distribute, subscribe

    def reader(self, name, secret, *, stream=FULL, after=0):
        return self.transport.reader(stream, name=name + self.suffix, secret=secret, after=after)

    def read(self, name, secret, count, *, after=0, limit=50):
        """Positions and alerts that a subscriber gets, `count` of them."""
        found, end = [], time.monotonic() + 120
        with self.reader(name, secret, after=after) as reader:
            while len(found) < count and time.monotonic() < end:
                found += [(d.position, alert_of(from_wire(d.body))) for d in reader.take(limit, 1.0)]
        return found


@pytest.fixture
def database_service(make_home):
    """Alerts with the database as transport."""
    home = make_home()
    with AlertOutbox.open(home) as outbox:
        subscribers = Subscribers(outbox.book)
        yield Service(
            home,
            outbox,
            DatabaseTransport(outbox.book, outbox.archive),
            lambda: None,
            lambda name, stream=FULL: subscribers.add(name, actor="test", now=time.time(), stream=stream),
        )


@pytest.fixture
def rabbitmq_service(make_home, broker_settings):
    """Alerts with RabbitMQ's streams as transport; `distribute` is what the distributor does until nothing is left."""
    home = make_home(alerts={"transport": "rabbitmq", "broker": broker_settings})
    broker = Broker(section(home, "alerts", AlertSettings).broker, home)
    transport = StreamTransport(broker, keep_bytes=100_000_000)
    with AlertOutbox.open(home) as outbox:
        subscribers, users = Subscribers(outbox.book), BrokerUsers(broker)
        distributor = Distributor(outbox.book, outbox.archive, transport)

        def distribute():
            while (done := distributor.round()).published or done.failed:
                assert not done.failed

        def subscribe(name, stream=FULL):
            name = f"{name}-{broker.settings.vhost}"
            secret = subscribers.add(name, actor="test", now=time.time(), stream=stream)
            users.put(name, secret, stream)
            distribute()  # makes the stream
            return secret

        made = Service(home, outbox, transport, distribute, subscribe)
        made.suffix = f"-{broker.settings.vhost}"
        yield made
        transport.close()


@pytest.fixture(params=["database", "rabbitmq"])
def service(request):
    """Every kind of transport."""
    return request.getfixturevalue(f"{request.param}_service")
