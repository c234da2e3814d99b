"""Opens the catalog: which endpoint holds which key with which checksum, what must still be done, and who did what."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone import tables as t
from backbone.database import Database
from backbone.errors import PermanentError, UnknownFile
from backbone.models import nearest
from backbone.settings import BackboneSettings, Link


class Catalog(Database):
    """A catalog that is open. `endpoints` gives ids by name, `unidentified` are those that were never asked who they are; call
    `set_up` once after opening.
    """

    noun = "backbone's catalog"
    migrations = Path(__file__).parent / "migrations"
    version_table = "bb_version"
    upgrade_lock = 7_224_662

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine)
        self.endpoints: Mapping[str, int] = {}
        self.names: Mapping[int, str] = {}
        self.unidentified: frozenset[str] = frozenset()
        self.links: frozenset[tuple[int, int]] = frozenset()

    def set_up(self, settings: BackboneSettings) -> None:
        """Bring endpoints and links of the settings into the tables. An endpoint that is gone from them keeps its number."""
        links = settings.all_links()
        with self.read() as connection:
            self._learn(connection)
            if set(settings.endpoints) <= set(self.endpoints) and self._stored_links(connection) == self._wanted_links(links):
                self.links = frozenset(pair for pair, _ in self._wanted_links(links))
                return
        with self.begin() as connection:
            self.insert_new(connection, t.endpoint, [{"name": name} for name in settings.endpoints])
            self._learn(connection)
            connection.execute(t.link.delete())
            wanted = self._wanted_links(links)
            self.insert_new(connection, t.link, [{"source": a, "target": b, "cost": cost} for (a, b), cost in wanted])
        self.links = frozenset(pair for pair, _ in wanted)

    def _learn(self, connection: Connection) -> None:
        rows = connection.execute(sa.select(t.endpoint.c.name, t.endpoint.c.id, t.endpoint.c.identity)).all()
        self.endpoints = {row.name: row.id for row in rows}
        self.names = {row.id: row.name for row in rows}
        self.unidentified = frozenset(row.name for row in rows if row.identity is None)

    def _stored_links(self, connection: Connection) -> set[tuple[tuple[int, int], int]]:
        return {((row.source, row.target), row.cost) for row in connection.execute(sa.select(t.link))}

    def _wanted_links(self, links: Iterable[Link]) -> set[tuple[tuple[int, int], int]]:
        known = self.endpoints
        return {((known[x.source], known[x.target]), x.cost) for x in links if x.source in known and x.target in known}

    def endpoint_id(self, name: str) -> int:
        """Number of an endpoint; PermanentError names the nearest known one."""
        if name not in self.endpoints:
            raise PermanentError(f"the backbone has no endpoint {name!r}; {nearest(name, list(self.endpoints))}")
        return self.endpoints[name]

    def file_ids(self, connection: Connection, keys: Iterable[str]) -> dict[str, int]:
        """Numbers of files by key; UnknownFile names the first that is missing."""
        asked = list(dict.fromkeys(keys))
        rows = connection.execute(sa.select(t.file.c.key, t.file.c.id).where(self.among(t.file.c.key, asked)))
        found = {row.key: row.id for row in rows}
        missing = [key for key in asked if key not in found]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UnknownFile(f"the backbone has no file {missing[0]!r}{more}; register it first")
        return found

    def id_list(self, ids: Iterable[int]) -> str | list[int]:
        """A list of ids as the one parameter that `IN_LIST` of this database takes."""
        return list(ids) if self.is_postgresql else json.dumps(list(ids))

    @property
    def in_list(self) -> str:
        """SQL after a column's name: it is one of the parameter `:ids`."""
        return "= ANY(CAST(:ids AS BIGINT[]))" if self.is_postgresql else "IN (SELECT value FROM json_each(:ids))"
