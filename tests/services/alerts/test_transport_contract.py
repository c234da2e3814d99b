"""What every transport keeps to (services/alerts/transport.py), the database and RabbitMQ's streams alike."""

import asyncio
import threading

import pytest
from rstream import AMQPMessage, Producer, RawMessage

from backbone.errors import AccessRefused
from services.alerts.follow import Collection, follow
from services.alerts.packets import encode, to_wire
from services.alerts.stream_reader import POSITION


def fill(service, packet, count, start=1):
    service.outbox.add(7, start, [packet(n) for n in range(start, start + count)])
    service.distribute()


def expected(first, last):
    return [(n, n) for n in range(first, last + 1)]


def test_subscriber_gets_each_alert_once_in_the_order_of_the_outbox(service, packet):
    secret = service.subscribe("one")
    fill(service, packet, 30)
    fill(service, packet, 10, start=25)  # 25 to 30 were there before
    assert service.read("one", secret, 34) == expected(1, 34)


def test_alerts_that_come_while_a_subscriber_reads_reach_it(service, packet):
    secret = service.subscribe("one")
    fill(service, packet, 3)
    with service.reader("one", secret) as reader:
        assert len(reader.take(10, 60)) == 3
        assert reader.take(10, 0.1) == []
        fill(service, packet, 3, start=4)
        assert reader.take(10, 60)[0].position == 4


def test_stream_is_replayed_from_any_point(service, packet):
    secret = service.subscribe("one")
    fill(service, packet, 40)
    for after in (0, 1, 17, 38):
        assert service.read("one", secret, 40 - after, after=after, limit=7) == expected(after + 1, 40)


def test_publishing_again_changes_nothing(service, packet):
    secret = service.subscribe("one")
    fill(service, packet, 20)
    with service.reader("one", secret) as reader:
        again = [d.body for d in reader.take(20, 60)]
    service.transport.publish("alerts", 1, again)
    service.distribute()
    fill(service, packet, 1, start=21)
    assert service.read("one", secret, 21) == expected(1, 21)
    assert service.transport.published("alerts") == 21


def test_five_subscribers_read_everything_and_one_that_stands_still_slows_nobody(service, packet):
    secrets = {name: service.subscribe(name) for name in ("a", "b", "c", "d", "e", "slow")}
    with service.reader("slow", secrets["slow"]) as slow:
        fill(service, packet, 5)
        assert slow.take(1, 60)[0].position == 1
        found = {}

        def read(name):
            found[name] = service.read(name, secrets[name], 205)

        threads = [threading.Thread(target=read, args=(name,)) for name in "abcde"]
        for thread in threads:
            thread.start()
        for call in range(10):
            fill(service, packet, 20, start=6 + 20 * call)
        for thread in threads:
            thread.join(180)
        assert found == {name: expected(1, 205) for name in "abcde"}
        assert slow.take(1, 60)[0].position == 2


def test_subscriber_is_let_in_by_its_own_secret_to_its_own_stream_alone(service, packet):
    secret = service.subscribe("one")
    other = service.subscribe("two", "of-two")
    fill(service, packet, 1)
    for name, word, stream in (
        ("one", other, "alerts"),
        ("one", "", "alerts"),
        ("one", secret, "of-two"),
    ):
        with pytest.raises(AccessRefused), service.reader(name, word, stream=stream):
            pass


def test_followers_effects_and_position_are_stored_together(service, packet, tmp_path):
    """An effect that fails half way, and a follower that is started anew, lose nothing and do nothing twice."""
    secret = service.subscribe("one")
    fill(service, packet, 50)
    collection, stop = Collection(tmp_path / "inbox.sqlite3"), threading.Event()

    class Fails(Collection):
        def apply(self, alerts):
            if self.position() >= 20:
                raise RuntimeError("the subscriber's own mistake")
            super().apply(alerts)

    with pytest.raises(RuntimeError):
        follow(
            service.transport,
            Fails(tmp_path / "inbox.sqlite3"),
            stream="alerts",
            name=f"one{service.suffix}",
            secret=secret,
            stop=stop,
            batch=10,
        )
    assert collection.position() == 20
    assert (
        follow(
            service.transport,
            collection,
            stream="alerts",
            name=f"one{service.suffix}",
            secret=secret,
            stop=stop,
            until=50,
            batch=10,
        )
        == 50
    )
    assert collection.received() == expected(1, 50)


@pytest.mark.parametrize("foreign", [b"no AMQP", b"\x00\x53\x75\xa0", bytes(AMQPMessage(body=b"no position"))])
def test_message_that_is_not_the_distributors_holds_up_nobody(rabbitmq_service, packet, foreign):
    secret = rabbitmq_service.subscribe("one")
    fill(rabbitmq_service, packet, 2)

    async def publish():
        async with Producer(**rabbitmq_service.transport.connection()) as producer:
            bodies = [(n, to_wire(encode(packet(n)).avro)) for n in range(3, 6)]
            ours = [RawMessage(bytes(AMQPMessage(body=body, message_annotations={POSITION: n}))) for n, body in bodies]
            await producer.send_batch("alerts", [RawMessage(foreign), *ours], publisher_name="somebody")  # one chunk

    asyncio.run(publish())
    assert rabbitmq_service.read("one", secret, 5) == expected(1, 5)


def test_positions_hold_over_the_files_of_a_broker(rabbitmq_service):
    """Each file that it begins has a record of its own, which takes an offset: after half a gigabyte, or here after 100 kB."""
    transport = rabbitmq_service.transport
    transport._keep_bytes = 4_000_000
    secret = rabbitmq_service.subscribe("one")
    bodies = [bytes([n]) * 50_000 for n in range(40)]
    for first in range(0, 40, 4):
        transport.publish("alerts", first + 1, bodies[first : first + 4])
    for after in (0, 17, 39):
        found = []
        with rabbitmq_service.reader("one", secret, after=after) as reader:
            while len(found) < 40 - after:
                found += reader.take(50, 30)
        assert [(d.position, d.body) for d in found] == [(n + 1, bodies[n]) for n in range(after, 40)]
