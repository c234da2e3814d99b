"""The alert archive: every packet, in objects of a visit and detector, found again by the alert's id."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from backbone.backbone import Backbone
from backbone.endpoint import Endpoint
from backbone.endpoints import open_endpoint
from backbone.errors import PermanentError
from backbone.home import open_backbone
from services.alerts import tables as t
from services.alerts.book import AlertBook
from services.alerts.packets import Packet, container, decode
from services.alerts.settings import AlertSettings

_KEPT_OBJECTS = 4  # of a visit's detectors, in memory: readers go through them in order


class AlertUnknown(PermanentError, LookupError):
    """The archive has no alert of this id."""


@dataclass(frozen=True)
class Place:
    """Where an alert's Avro is."""

    alert: int
    key: str
    start: int
    size: int


@dataclass(frozen=True)
class Stored:
    """An object of packets that has been put."""

    key: str
    places: dict[int, tuple[int, int]]


class AlertArchive:
    """Objects of an endpoint; the book says what is in them. An object that no row speaks of is of a call that broke off."""

    def __init__(self, book: AlertBook, endpoint: Endpoint, backbone: Backbone | None = None) -> None:
        self._book, self._endpoint, self._backbone = book, endpoint, backbone
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    @classmethod
    def open(cls, book: AlertBook, settings: AlertSettings, home: Path) -> AlertArchive:
        """By the settings: an endpoint of its own, or one of the backbone's, which then knows every object."""
        place = settings.archive
        if isinstance(place, str):
            backbone = open_backbone(home)
            return cls(book, backbone.endpoint(place), backbone)
        keys = None if place.credentials is None else home / place.credentials
        uri = place.uri if "://" in place.uri else str(home.absolute() / place.uri)
        return cls(book, open_endpoint(uri, name="alerts", url=place.url, credentials=keys))

    def close(self) -> None:
        """Let go of the backbone's connections."""
        if self._backbone is not None:
            self._backbone.close()

    def put(self, visit: int, detector: int, packets: Sequence[Packet]) -> Stored:
        """Store packets as one object; the same ones again are the same object."""
        content, places = container(packets)
        key = f"alerts/{visit}/{detector:03d}/{sha256(content).hexdigest()[:24]}.avro"
        if self._backbone is None:
            self._endpoint.put(key, content)
        else:
            about = {
                "dataset_type": "alert_packets",
                "collection": "alerts",
                "media_type": "application/avro",
                "created": time.time(),
            }
            self._backbone.put(self._endpoint.name, key, content, about, "alerts")
        return Stored(key, dict(zip((packet.alert for packet in packets), places, strict=True)))

    def find(self, alerts: Iterable[int]) -> dict[int, Place]:
        """Where alerts are; those that are not in the archive are left out."""
        query = sa.select(t.alert, t.batch.c.key).join(t.batch, t.batch.c.id == t.alert.c.batch)
        rows = self._book.all(query.where(self._book.among(t.alert.c.id, alerts)))
        return {row.id: Place(row.id, row.key, row.start, row.size) for row in rows}

    def get(self, alert: int, *, withheld_from: str | None = None) -> dict[str, Any]:
        """The packet of an alert that was told, or was withheld from an origin; AlertUnknown if there is none."""
        if withheld_from is None:
            found, lists = self.find([alert]).get(alert), "`pachon alerts visit VISIT` lists those of a visit"
        else:
            found, lists = self._find_withheld(alert, withheld_from), "`pachon alerts withheld` lists those of a day"
        if found is None:
            raise AlertUnknown(f"alert {alert}: the archive has none of this id; {lists}")
        return decode(self.avro(found))

    def _find_withheld(self, alert: int, origin: str) -> Place | None:
        """The newest, should the origin have brought it twice."""
        query = sa.select(t.withheld, t.batch.c.key).join(t.batch, t.batch.c.id == t.withheld.c.batch)
        query = query.where(t.withheld.c.id == alert, t.batch.c.origin == origin).order_by(t.batch.c.id.desc()).limit(1)
        rows = self._book.all(query)
        return Place(rows[0].id, rows[0].key, rows[0].start, rows[0].size) if rows else None

    def of_object(self, number: int) -> list[int]:
        """Ids of the alerts about a DIAObject, in order."""
        return [
            row.id for row in self._book.all(sa.select(t.alert.c.id).where(t.alert.c.object == number).order_by(t.alert.c.id))
        ]

    def of_visit(self, visit: int) -> list[tuple[int, int]]:
        """Detector and id of every alert of a visit."""
        query = sa.select(t.batch.c.detector, t.alert.c.id).join(t.batch, t.batch.c.id == t.alert.c.batch)
        rows = self._book.all(query.where(t.batch.c.visit == visit).order_by(t.batch.c.detector, t.alert.c.id))
        return [(row.detector, row.id) for row in rows]

    def avro(self, place: Place) -> bytes:
        """The bytes of one alert. Objects read last are kept, so that going through a visit reads each once."""
        if place.key in self._kept:
            self._kept.move_to_end(place.key)
        else:
            self._kept[place.key] = self._endpoint.get(place.key)
            while len(self._kept) > _KEPT_OBJECTS:
                self._kept.popitem(last=False)
        return self._kept[place.key][place.start : place.start + place.size]

    def orphans(self, visits: Iterable[int]) -> Iterator[str]:
        """Objects of these visits that no row speaks of."""
        for visit in visits:
            keys = list(self._endpoint.list(f"alerts/{visit}/"))
            rows = self._book.all(sa.select(t.batch.c.key).where(self._book.among(t.batch.c.key, keys)))
            yield from sorted(set(keys) - {row.key for row in rows})
