"""Alerts from packets to five subscribers: encoded, archived, published, read; beside plain fastavro and a bare broker client.

`bench_alerts.py [--alerts N]`: a private RabbitMQ with streams over TLS, packets of about 80 kB with cut-outs as they really are.
Each of our figures is of what a night does: packets checked, archived and promised in one transaction; published in order and
acknowledged; read by five subscribers, each a process that stores its position with what it did. The bare ones move the bytes
alone.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
from record import record
from rstream import Consumer, ConsumerOffsetSpecification, OffsetType, Producer, RawMessage

from deploy.rabbitmq import RabbitServer
from payloads.alert_schema import field_types, schema
from payloads.cutouts import CutoutMaker
from services.alerts.book import FULL
from services.alerts.follow import Collection, follow
from services.alerts.packets import alert_of, from_wire
from services.alerts.service import AlertService
from services.alerts.streams import StreamTransport, frames
from services.alerts.transport import Delivered
from services.filters.book import FilterBook
from services.filters.run import Filtering
from services.settings import database_url

SUBSCRIBERS = 5
DETECTOR_ALERTS = 50
_VALUES = {"long": 1, "int": 1, "double": 1.5, "float": 1.5, "boolean": False, "string": "r"}
_FILTER = (
    "diaSource.snr > {n} and diaSource.reliability > 0.5 and count(prvDiaSources, snr > 5) >= 2 and diaSource.band in ['g', 'r']"
)


def packets(count: int) -> Iterator[dict[str, Any]]:
    """Whole packets: every field, eight earlier sources and forced fluxes, three cut-outs, two with PSF."""
    rng = np.random.default_rng(1)
    image = rng.normal(size=(200, 200)).astype(np.float32)
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 100.0, "CRPIX2": 100.0, "CRVAL1": 30.0, "CRVAL2": -20.0}
    maker = CutoutMaker(
        image, image**2, np.zeros(image.shape, np.uint32), cards | {"CD1_1": -5e-5, "CD2_2": 5e-5}, unit="electron"
    )
    with_psf = [maker.cut(float(x), 100.0, np.full((25, 25), 1 / 625)) for x in range(40, 160)]
    without = [maker.cut(float(x), 100.0) for x in range(40, 160)]
    source, forced, known = (
        {n: _VALUES[k] for n, k in field_types(r).items()} for r in ("diaSource", "diaForcedSource", "diaObject")
    )
    for n in range(1, count + 1):
        stamp = with_psf[n % len(with_psf)]
        yield {
            "diaSourceId": n,
            "diaSource": source | {"diaSourceId": n, "visit": 1 + n // 10_000, "snr": float(n % 40), "reliability": 0.9},
            "prvDiaSources": [source | {"snr": 6.0}] * 8,
            "prvDiaForcedSources": [forced] * 8,
            "diaObject": known,
            "cutoutDifference": stamp,
            "cutoutScience": stamp,
            "cutoutTemplate": without[n % len(without)],
        }


class Noted(Collection):
    """A subscriber that stores position and id of each alert, not the packet: five copies of 800 MB would measure the disk."""

    def apply(self, alerts: Sequence[Delivered]) -> None:
        """In one transaction."""
        rows = [(found.position, alert_of(from_wire(found.body)), b"") for found in alerts]
        with self._engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO received VALUES (?, ?, ?)", rows)
            connection.exec_driver_sql("UPDATE place SET position = ?", (alerts[-1].position,))


def timed(work: Callable[[], Any]) -> float:
    """Seconds that it takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def subscribed(home: Path, name: str, secret: str, path: Path, until: int, ready: Any, go: Any) -> None:
    """A subscriber's process."""
    with AlertService(home) as service:
        transport = service.transport()
        inbox = Noted(path)
        ready.release()
        go.wait()
        follow(transport, inbox, stream=FULL, name=name, secret=secret, stop=threading.Event(), until=until)
        transport.close()


async def _bare_publish(connection: dict[str, Any], bodies: Sequence[bytes], count: int) -> None:
    done, left = asyncio.get_running_loop().create_future(), [count]

    def confirmed(_: object) -> None:
        left[0] -= 1
        if not left[0]:
            done.set_result(None)

    async with Producer(**connection) as producer:
        await producer.create_stream("bare", exists_ok=True)
        for frame in frames([RawMessage(bodies[n % len(bodies)]) for n in range(count)]):
            await producer.send_batch("bare", frame, on_publish_confirm=confirmed)
        await done


async def _bare_read(connection: dict[str, Any], count: int) -> None:
    done, seen = asyncio.Event(), [0]

    def took(_body: Any, _context: Any) -> None:
        seen[0] += 1
        if seen[0] == count:
            done.set()

    async with Consumer(**connection) as consumer:
        await consumer.subscribe(
            "bare", took, decoder=bytes, offset_specification=ConsumerOffsetSpecification(OffsetType.OFFSET, 0)
        )
        await done.wait()


def _bare_reader(home: Path, count: int, ready: Any, go: Any) -> None:
    connection = _connection(home)
    ready.release()
    go.wait()
    asyncio.run(_bare_read(connection, count))


def _connection(home: Path) -> dict[str, Any]:
    with AlertService(home) as service:
        transport = service.transport()
        assert isinstance(transport, StreamTransport)
        try:
            return transport.connection()
        finally:
            transport.close()


def five(target: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> float:
    """Seconds from the start signal until all processes have ended well."""
    spawn = multiprocessing.get_context("spawn")
    ready, go = spawn.Semaphore(0), spawn.Event()
    processes = [spawn.Process(target=target, args=(*more, ready, go)) for more in arguments]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()

    def read() -> None:
        go.set()
        for process in processes:
            process.join()
            assert process.exitcode == 0

    return timed(read)


def measure(home: Path, count: int) -> dict[str, Any]:
    """All figures."""
    (home / "pachon.yaml").write_text("services: {alerts: {transport: rabbitmq}}\n")
    made = list(packets(count))
    figures: dict[str, Any] = {"alerts": count}

    def plain() -> None:
        for packet in made:
            fastavro.schemaless_writer(io.BytesIO(), schema(), packet)

    figures["plain_fastavro_encode_per_s"] = round(count / timed(plain))
    with AlertService(home) as service:
        calls = [made[n : n + DETECTOR_ALERTS] for n in range(0, count, DETECTOR_ALERTS)]

        def add() -> None:
            for frame, call in enumerate(calls):
                service.outbox.add(*divmod(frame, 189), call)

        figures["encoded_and_archived_per_s"] = round(count / timed(add))
        places = service.outbox.archive.find(range(1, count + 1))
        figures["packet_kb"] = round(sum(place.size for place in places.values()) / count / 1000, 1)
        secrets = {f"subscriber-{n}": service.subscribe(f"subscriber-{n}", actor="bench") for n in range(SUBSCRIBERS)}
        transport = service.transport()
        distributor = service.distributor(transport)

        def publish() -> None:
            while distributor.round().published:
                pass

        figures["published_per_s"] = round(count / timed(publish))
        inboxes = {name: home / f"{name}.sqlite3" for name in secrets}
        seconds = five(subscribed, [(home, name, secrets[name], path, count) for name, path in inboxes.items()])
        figures["five_subscribers_each_per_s"] = round(count / seconds)
        received = [[alert for _, alert in Collection(path).received()] for path in inboxes.values()]
        figures["lost"] = sum(count - len(set(found)) for found in received)
        figures["doubled"] = sum(len(found) - len(set(found)) for found in received)
        figures["replay_from_the_middle_per_s"] = round(_replayed(transport, secrets, count))
        bodies = _bodies(transport, secrets, min(count, 2000))  # more of them would measure the memory
        transport.close()
        connection = _connection(home)
        figures["bare_client_published_per_s"] = round(
            count / timed(lambda: asyncio.run(_bare_publish(connection, bodies, count)))
        )
        figures["bare_clients_five_each_per_s"] = round(count / five(_bare_reader, [(home, count)] * SUBSCRIBERS))
        figures["filtered_for_100_users_per_s"] = round(_filtered(home, service, bodies))
    return figures


def _replayed(transport: Any, secrets: dict[str, str], count: int) -> float:
    """Alerts a second that one subscriber reads from the middle of the stream on."""
    name, middle, seen = "subscriber-0", count // 2, 0
    begun = time.perf_counter()
    with transport.reader(FULL, name=name, secret=secrets[name], after=middle) as reader:
        while seen < count - middle:
            seen += len(reader.take(200, 10))
    return float(seen / (time.perf_counter() - begun))


def _bodies(transport: Any, secrets: dict[str, str], count: int) -> list[bytes]:
    name, bodies = "subscriber-0", []
    with transport.reader(FULL, name=name, secret=secrets[name]) as reader:
        while len(bodies) < count:
            bodies += [found.body for found in reader.take(min(200, count - len(bodies)), 10)]
    assert [alert_of(from_wire(body)) for body in bodies] == list(range(1, count + 1))
    return bodies


def _filtered(home: Path, service: AlertService, bodies: Sequence[bytes]) -> float:
    book = FilterBook.open(database_url(service.settings.database, home))
    for n in range(100):
        book.define(f"user{n}", "mine", _FILTER.format(n=n % 40), service.settings)
    effect = Filtering(book, service.outbox.book, per_visit=service.settings.alerts_per_visit)
    alerts = [Delivered(n + 1, body) for n, body in enumerate(bodies)]

    def run() -> None:
        for first in range(0, len(alerts), 200):
            effect.apply(alerts[first : first + 200])

    return len(alerts) / timed(run)


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alerts", type=int, default=10_000)
    count = parser.parse_args().alerts
    with tempfile.TemporaryDirectory(prefix="pachon-alerts-") as folder:
        server = RabbitServer(Path(folder), streams=True)
        server.up()
        try:
            figures = measure(Path(folder), count)
        finally:
            server.down()
    done = record(
        "alerts",
        figures,
        command=f"benchmarks/bench_alerts.py --alerts {count}",
        what="wall clock; SQLite, a folder as archive, RabbitMQ streams over TLS on loopback; five subscribers, a process each",
    )
    for name in figures:
        print(f"{name:32} {done[name]}")


if __name__ == "__main__":
    main()
