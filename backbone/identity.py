"""Whether an endpoint is the place that the catalog knows: a disk that is not mounted, or a bucket made anew, looks empty.

Each place has one small object with the endpoint's name and a random id that the catalog has too. It is made when the endpoint is
first opened; whoever would believe the place that something is gone looks at it first, once a round.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from backbone import tables as t
from backbone.archive import ArchiveEndpoint
from backbone.catalog import Catalog
from backbone.endpoint import Endpoint
from backbone.errors import ObjectAbsent, ObjectExists, PachonError, WrongPlace
from backbone.files import AVAILABLE
from backbone.manifest import OWN

IDENTITY = f"{OWN}identity.json"
"""Key of the object that says which endpoint this is."""
_SAMPLE = 10
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a place says of itself; `id` is random, so that an endpoint made anew is another."""

    endpoint: str
    id: str


def identify(catalog: Catalog, endpoint: Endpoint) -> None:
    """Tell the catalog the endpoint's id, if it has none yet: that which the place says, or a new one for both.

    WrongPlace if the place is another endpoint's, or has nothing of what the catalog knows to be there.
    """
    number, expected = catalog.endpoint_id(endpoint.name), None
    for place in _places(endpoint):
        found = _read(place)
        if found is None:
            if _all_gone(catalog, number, endpoint):
                raise _wrong(endpoint.name, place, None, None)
            found = _write_first(place, Identity(endpoint=endpoint.name, id=expected or uuid.uuid4().hex))
        if found.endpoint != endpoint.name or expected not in (None, found.id):
            raise _wrong(endpoint.name, place, expected, found)
        expected = found.id
    mine = (t.endpoint.c.id == number) & t.endpoint.c.identity.is_(None)
    with catalog.begin() as connection:
        connection.execute(t.endpoint.update().where(mine).values(identity=expected))


def check_identity(catalog: Catalog, endpoint: Endpoint) -> None:
    """WrongPlace if the endpoint is not the place that the catalog knows; other errors if it does not say."""
    expected = _known(catalog, endpoint)
    if expected is None:
        identify(catalog, endpoint)
        expected = _known(catalog, endpoint)
    for place in _places(endpoint):
        found = _read(place)
        if found is None or (found.endpoint, found.id) != (endpoint.name, expected):
            raise _wrong(endpoint.name, place, expected, found)


def renew_identity(catalog: Catalog, endpoint: Endpoint) -> bool:
    """Take the place for the endpoint from now on, whatever it was before; whether it had to be made another."""
    try:
        check_identity(catalog, endpoint)
    except WrongPlace:
        identity = Identity(endpoint=endpoint.name, id=uuid.uuid4().hex)
        for place in _places(endpoint):
            place.put(IDENTITY, _said(identity))
        mine = t.endpoint.c.id == catalog.endpoint_id(endpoint.name)
        with catalog.begin() as connection:
            connection.execute(t.endpoint.update().where(mine).values(identity=identity.id))
        return True
    return False


class Checks:
    """The checks of one round: each endpoint is asked once, however many objects there are."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._found: dict[int, WrongPlace | None] = {}

    def begin(self) -> None:
        """A new round."""
        self._found.clear()

    def refusal(self, endpoint: Endpoint) -> WrongPlace | None:
        """Why nothing may be done there; None also where it does not say: what is done there will not be answered either."""
        if id(endpoint) not in self._found:
            try:
                check_identity(self._catalog, endpoint)
                self._found[id(endpoint)] = None
            except WrongPlace as error:
                self._found[id(endpoint)] = error
            except PachonError:
                self._found[id(endpoint)] = None
        return self._found.get(id(endpoint))


def seen_to(names: Iterable[str], care: Callable[[str], T]) -> tuple[list[T], WrongPlace | None]:
    """What came of the care of each endpoint, and what is to be raised after all: a place that is refused keeps none waiting."""
    found, refused = [], []
    for name in names:
        try:
            found.append(care(name))
        except WrongPlace as error:
            refused.append(str(error))
    return found, WrongPlace("; ".join(refused)) if refused else None


def _places(endpoint: Endpoint) -> tuple[Endpoint, ...]:
    return (endpoint.near, endpoint.off_site) if isinstance(endpoint, ArchiveEndpoint) else (endpoint,)


def _known(catalog: Catalog, endpoint: Endpoint) -> str | None:
    query = sa.select(t.endpoint.c.identity).where(t.endpoint.c.id == catalog.endpoint_id(endpoint.name))
    with catalog.read() as connection:
        found: str | None = connection.execute(query).scalar_one()
    return found


def _read(place: Endpoint) -> Identity | None:
    try:
        said: Any = json.loads(place.get(IDENTITY))
        return Identity(endpoint=str(said["endpoint"]), id=str(said["id"]))
    except ObjectAbsent:
        return None
    except (ValueError, KeyError, TypeError):
        return Identity(endpoint="unreadable", id="")


def _write_first(place: Endpoint, identity: Identity) -> Identity:
    """Whoever writes first says who it is."""
    try:
        place.put(IDENTITY, _said(identity), create_only=True)
    except ObjectExists:
        return _read(place) or identity
    return identity


def _said(identity: Identity) -> bytes:
    return (json.dumps(asdict(identity)) + "\n").encode()


def _all_gone(catalog: Catalog, number: int, endpoint: Endpoint) -> bool:
    """Whether the catalog knows of objects there, and of some of them none is: an endpoint older than identities, unmounted."""
    r = t.replica.c
    query = sa.select(t.file.c.key).join(t.replica, r.file == t.file.c.id)
    keys = [row.key for row in catalog.all(query.where(r.endpoint == number, r.state == AVAILABLE).limit(_SAMPLE))]
    return bool(keys) and not any(_is_there(endpoint, key) for key in keys)


def _is_there(endpoint: Endpoint, key: str) -> bool:
    try:
        endpoint.info(key)
    except ObjectAbsent:
        return False
    return True


def _wrong(name: str, place: Endpoint, expected: str | None, found: Identity | None) -> WrongPlace:
    wanted = f"the id {expected}" if expected else f"{name}'s objects, or its id"
    there = "no id" if found is None else f"that of endpoint {found.endpoint} ({found.id or 'no id'})"
    return WrongPlace(
        f"endpoint {name}: {place.root} is not the place that the catalog knows: {wanted} was expected in {IDENTITY}, {there} is "
        "there; nothing is judged or moved until then. Mount the disk, or bring back the bucket; if what it held is lost: "
        f"`pachon backbone recover --endpoint {name}`",
        delay_s=30.0,
    )
