"""The bytes of a packet: Avro in Pachón's alert schema, alone in the archive, with the schema's number before it on the wire.

The wire form is that of Confluent's registry, which LSST uses: a zero byte, the schema's number (4 bytes, big-endian), Avro.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import fastavro
from fastavro.validation import ValidationError

from backbone.errors import PermanentError
from payloads.alert_schema import integers, schema

SCHEMA_NUMBER = 100  # pachon.v1: major × 100 + minor, as LSST numbers theirs
MAX_PACKET_BYTES = 1_000_000
"""A frame of the stream protocol is 1 MiB by default; DMTN-102 promises brokers 82 kB."""
SYNC = b"pachon-alerts-v1"
_HEAD = struct.pack(">bI", 0, SCHEMA_NUMBER)


class PacketRefused(PermanentError):
    """A packet that is not one."""


@dataclass(frozen=True)
class Packet:
    """One alert, encoded."""

    alert: int
    object: int | None
    avro: bytes


def encode(packet: Mapping[str, Any]) -> Packet:
    """A packet as bytes; PacketRefused with alert, field and reason where the schema does not allow it."""
    number = packet.get("diaSourceId") if isinstance(packet, Mapping) else None
    out = io.BytesIO()
    try:
        fastavro.schemaless_writer(out, schema(), packet)
        _check_integers(packet)
    except Exception as error:  # fastavro raises whatever its writers run into
        raise PacketRefused(f"alert {number}: {_why(packet) or repr(error)}"[:500]) from error
    content = out.getvalue()
    if len(content) > MAX_PACKET_BYTES:
        raise PacketRefused(f"alert {number}: {len(content)} bytes; at most {MAX_PACKET_BYTES} go to a subscriber in one piece")
    source = packet["diaSource"]
    if source["diaSourceId"] != number:
        raise PacketRefused(f"alert {number}: diaSource.diaSourceId is {source['diaSourceId']}: an alert is about its own source")
    return Packet(int(packet["diaSourceId"]), source.get("diaObjectId"), content)


def _check_integers(packet: Mapping[str, Any]) -> None:
    """What the writer does not: it cuts 1.5 to 1, and writes into an int what no other reader can read from one."""
    found = [("diaSource", packet["diaSource"]), ("diaObject", packet.get("diaObject"))]
    found += [("diaSource", one) for one in packet.get("prvDiaSources") or ()]
    found += [("diaForcedSource", one) for one in packet.get("prvDiaForcedSources") or ()]
    for kind, record in found:
        for name, bits in integers(kind).items() if record is not None else ():
            value = record.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, Integral) or not -(1 << bits) <= int(value) < 1 << bits:
                raise ValueError(f"{kind}.{name} is {str(value)[:40]}, no integer of {bits + 1} bits")


def _why(packet: object) -> str:
    """What the validator, which takes eight times as long as the writer, has to say."""
    try:
        fastavro.validation.validate(packet, schema(), raise_errors=True)
    except ValidationError as error:
        return str(error.errors[0])
    except Exception as error:
        return repr(error)
    return ""


def decode(avro: bytes, reader: dict[str, Any] | None = None) -> dict[str, Any]:
    """A packet from its Avro; with `reader`, a schema that asks for less, only that. PacketRefused for what is not one, whole."""
    stream = io.BytesIO(avro)
    try:
        packet = fastavro.schemaless_reader(stream, schema(), reader)
    except Exception as error:  # fastavro raises whatever its readers run into
        raise PacketRefused(f"packet of {len(avro)} bytes: not Avro of {schema()['name']}: {error!r}"[:300]) from error
    if stream.tell() != len(avro):
        raise PacketRefused(f"packet of {len(avro)} bytes: {len(avro) - stream.tell()} bytes are left over")
    return dict(packet) if isinstance(packet, dict) else {}


def alert_of(avro: bytes) -> int:
    """The id of a packet, its first field, without reading the rest."""
    number = shift = 0
    for byte in avro[:10]:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1)
    raise PacketRefused(f"packet of {len(avro)} bytes: does not begin with an alert's id")


def to_wire(avro: bytes) -> bytes:
    """What subscribers get."""
    return _HEAD + avro


def from_wire(body: bytes) -> bytes:
    """The Avro of what a subscriber got; PacketRefused for another schema's."""
    if body[: len(_HEAD)] != _HEAD:
        raise PacketRefused(
            f"message of {len(body)} bytes: begins with {body[:5].hex()}, not with {_HEAD.hex()} of {schema()['name']}"
        )
    return body[len(_HEAD) :]


def opened(body: bytes) -> dict[str, Any]:
    """The packet in what a subscriber got; PacketRefused for what is none, whole and about its own source."""
    packet = decode(from_wire(body))
    if packet["diaSource"]["diaSourceId"] != packet["diaSourceId"]:
        raise PacketRefused(f"alert {packet['diaSourceId']}: diaSource.diaSourceId is {packet['diaSource']['diaSourceId']}")
    return packet


def container(packets: Iterable[Packet]) -> tuple[bytes, list[tuple[int, int]]]:
    """An Avro object container file with one block for each packet, and where in it the Avro of each is: (start, size).

    So anybody's reader reads the file, and one alert of it is cut out without reading the others.
    """
    out = io.BytesIO()
    fastavro.writer(out, schema(), [], sync_marker=SYNC)
    places = []
    for packet in packets:
        out.write(_long(1) + _long(len(packet.avro)))
        places.append((out.tell(), len(packet.avro)))
        out.write(packet.avro + SYNC)
    return out.getvalue(), places


def _long(number: int) -> bytes:
    """A positive number as Avro writes it: zigzag, seven bits to a byte."""
    number <<= 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
