"""The contract of a message transport, for every kind: SQLite, PostgreSQL, RabbitMQ."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, closing

import kombu
import psutil
import pytest

from backbone.messages import amqp
from backbone.messages.amqp import AmqpTransport
from backbone.messages.opened import MessageSettings, open_transport
from backbone.messages.stored import StoredTransport
from backbone.messages.transport import MessageRefused, TransportDown
from deploy import postgres, rabbitmq
from deploy.postgres import PostgresServer
from deploy.rabbitmq import RabbitServer

LEASE_S = 1.0
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    """A RabbitMQ of the module's own, where its programs are installed."""
    if rabbitmq.system_programs() is None and not rabbitmq.BUNDLE.installed:
        pytest.skip("RabbitMQ is not installed here, and tests fetch none")
    server = RabbitServer(tmp_path_factory.mktemp("broker"))
    server.up()
    yield server
    server.down()


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A PostgreSQL of the module's own."""
    if not postgres.available():
        pytest.skip("PostgreSQL is not installed here")
    server = PostgresServer(tmp_path_factory.mktemp("postgres"))
    server.up()
    yield server.database("messages").replace("postgresql:", "postgresql+psycopg2:", 1)
    server.down()


@pytest.fixture(params=["sqlite", "postgresql", "amqp"])
def opened(request, tmp_path):
    """Opens transports on the same queues, as other processes would."""
    with ExitStack() as stack:
        if request.param == "amqp":
            server = request.getfixturevalue("broker")

            def make():
                return stack.enter_context(closing(AmqpTransport(lambda: server.url)))
        else:
            sqlite = f"sqlite:///{tmp_path}/messages.sqlite3"
            url = sqlite if request.param == "sqlite" else request.getfixturevalue("database")

            def make():
                return stack.enter_context(closing(StoredTransport.open(url, lease_s=LEASE_S)))

        yield make


@pytest.fixture
def listen(opened):
    """Makes receivers, each of a transport of its own."""
    with ExitStack() as stack:
        yield lambda queue: stack.enter_context(closing(opened().receiver(queue)))


@pytest.fixture
def queue(request):
    """A queue that no other test uses."""
    return f"test.{request.node.name}.{os.getpid()}"


def patiently(receiver):
    """The next message, however busy the machine is."""
    limit = time.monotonic() + PATIENCE_S
    while time.monotonic() < limit:
        if (found := receiver.receive(0.5)) is not None:
            return found
    raise AssertionError("no message came")


def test_messages_arrive_in_order_and_are_gone_once_acknowledged(opened, listen, queue):
    sender, receiver = opened(), listen(queue)
    for number in range(3):
        sender.send(queue, {"number": number, "text": "Pachón"})
    for number in range(3):
        delivery = patiently(receiver)
        assert delivery.body == {"number": number, "text": "Pachón"}
        assert not delivery.again
        receiver.acknowledge(delivery)
    receiver.close()
    assert opened().waiting(queue) == 0
    assert listen(queue).receive(0.05) is None


def test_a_message_has_one_receiver_at_a_time(opened, listen, queue):
    opened().send(queue, {"number": 1})
    first, second = listen(queue), listen(queue)
    delivery = patiently(first)
    assert second.receive(0.2) is None
    first.give_back(delivery)
    taken = patiently(second)
    assert taken.body == {"number": 1}
    assert taken.again
    second.acknowledge(taken)


def test_what_a_receiver_leaves_unacknowledged_comes_again(opened, listen, queue):
    opened().send(queue, {"number": 1})
    first = listen(queue)
    patiently(first)
    first.close()
    again = patiently(listen(queue))
    assert again.body == {"number": 1}


def test_an_acknowledgement_of_what_was_taken_back_changes_nothing(opened, listen, queue):
    opened().send(queue, {"number": 1})
    first = listen(queue)
    stale = patiently(first)
    first.close()
    first.acknowledge(stale)
    assert patiently(listen(queue)).body == {"number": 1}


def test_messages_of_other_queues_are_not_seen(opened, listen, queue):
    opened().send(queue, {"number": 1})
    assert listen(f"{queue}.other").receive(0.1) is None
    assert opened().waiting(queue) == 1


def test_what_cannot_be_a_message_is_refused_by_the_sender(opened, queue):
    with pytest.raises(MessageRefused, match="plain data"):
        opened().send(queue, {"of": object()})
    with pytest.raises(MessageRefused, match="bytes"):
        opened().send(queue, {"much": "x" * (1 << 20)})


def test_a_stored_delivery_returns_after_its_receivers_silence_and_not_before(tmp_path, queue):
    now = [1000.0]
    transport = StoredTransport.open(f"sqlite:///{tmp_path}/m.sqlite3", lease_s=5.0, clock=lambda: now[0])
    transport.send(queue, {"number": 1})
    first, second = transport.receiver(queue), transport.receiver(queue)
    assert first.receive() is not None
    now[0] += 4
    first.renew()
    now[0] += 4
    assert second.receive() is None
    now[0] += 2
    assert second.receive().again


_VICTIM = """
import sys, time
from pathlib import Path
from backbone.messages.opened import MessageSettings, open_transport
settings = MessageSettings.model_validate_json(sys.argv[1])
transport = open_transport(settings, Path(sys.argv[2]))
transport.send(sys.argv[3], {"of": "the victim"})
receiver = transport.receiver(sys.argv[3])
while receiver.receive(0.5) is None: pass
print("has it", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["sqlite", "amqp"])
def test_a_message_of_a_killed_process_is_kept_and_delivered_to_the_next(kind, request, tmp_path, queue):
    settings = MessageSettings()
    if kind == "amqp":
        user, _, place = request.getfixturevalue("broker").url.removeprefix("amqp://").rpartition("@")
        name, _, password = user.partition(":")
        (tmp_path / "password").write_text(password)
        (tmp_path / "password").chmod(0o600)
        settings = MessageSettings(url=f"amqp://{name}@{place}", password_file="password")
    command = [sys.executable, "-c", _VICTIM, settings.model_dump_json(), str(tmp_path), queue]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout.readline() == "has it\n"
        victim.send_signal(signal.SIGKILL)
    with closing(open_transport(settings, tmp_path)) as transport, closing(transport.receiver(queue)) as receiver:
        assert patiently(receiver).body == {"of": "the victim"}


def test_a_broker_that_is_not_there_is_down_and_not_empty():
    transport = AmqpTransport(lambda: "amqp://nobody:nothing@127.0.0.1:9/airflow")
    with pytest.raises(TransportDown, match="is it up"):
        transport.send("q", {})
    with pytest.raises(TransportDown):
        transport.receiver("q").receive(0.1)


@pytest.mark.parametrize("body", [b"no JSON", b"[1]", b"\xff", b"[" * 20_000])
def test_what_is_no_message_of_ours_is_dropped_and_lets_the_others_by(broker, queue, caplog, body):
    confirmed = kombu.Connection(broker.url, transport_options={"confirm_publish": True})
    with closing(AmqpTransport(lambda: broker.url)) as transport, confirmed as connection:
        transport.send(queue, {"number": 1})
        kombu.Producer(connection).publish(body, routing_key=queue, exchange="", content_type="application/json", serializer=None)
        transport.send(queue, {"number": 2})
        with closing(transport.receiver(queue)) as receiver:
            for number in (1, 2):
                found = patiently(receiver)
                assert found.body == {"number": number}
                receiver.acknowledge(found)
        assert "no JSON object is dropped" in caplog.text
        assert transport.waiting(queue) == 0, "nor does it come again"


def test_a_broker_that_stands_still_is_not_waited_for(broker, queue, monkeypatch):
    """Its kernel still takes connections and bytes; nobody answers."""
    monkeypatch.setattr(amqp, "ANSWER_S", 1.0)
    programs = [one for one in psutil.Process().children(recursive=True) if "beam" in one.name()]
    programs += [one for one in psutil.process_iter(["name", "cmdline"]) if _is_of(one, broker)]
    assert programs
    with closing(AmqpTransport(lambda: broker.url)) as transport:
        transport.send(queue, {"number": 1})
        for one in programs:
            one.suspend()
        try:
            with pytest.raises(TransportDown):
                transport.waiting(queue)
        finally:
            for one in programs:
                one.resume()
        assert transport.waiting(queue) == 1


def _is_of(process, broker):
    return "beam" in (process.info["name"] or "") and str(broker.folder) in " ".join(process.info["cmdline"] or ())
