"""The books of certified calibrations: what was certified, refused, approved by whom and withdrawn by whom."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backbone.errors import PermanentError
from backbone.home import ledger_url
from backbone.qc import tables as t
from backbone.qc.tables import QualityTables


class CertificationState(StrEnum):
    """CERTIFIED: it has a validity, and nobody reads it yet. APPROVED: it is in the chain. WITHDRAWN: nothing of it is left."""

    CERTIFIED = "CERTIFIED"
    APPROVED = "APPROVED"
    WITHDRAWN = "WITHDRAWN"


class ProductState(StrEnum):
    """REFUSED: it did not pass verification, and was never certified."""

    CERTIFIED = "CERTIFIED"
    REFUSED = "REFUSED"
    WITHDRAWN = "WITHDRAWN"


class CertificationError(PermanentError):
    """There is no such certification, or it is not in a state for that."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """One product of a certification; `data_id` of required dimensions."""

    dataset: str
    dataset_type: str
    data_id: Mapping[str, Any]
    run: str
    state: ProductState = ProductState.CERTIFIED
    why: str = ""
    withdrawn_by: str | None = None
    withdrawn_at: float | None = None
    checksum: str = ""
    """SHA-256 of its file, when it is certified; in the digest alone."""


@dataclass(frozen=True, kw_only=True)
class Certification:
    """A set of products with one validity."""

    collection: str
    chain: str
    campaign: str
    begin: str
    digest: str
    state: CertificationState = CertificationState.CERTIFIED
    at: float = 0.0
    approved_by: str | None = None
    approved_at: float | None = None
    why: str = ""


def digest_of(products: Iterable[Product], begin: str) -> str:
    """What an approval is of: every certified product with its data ID and checksum, and the validity."""
    kept = (p for p in products if p.state is ProductState.CERTIFIED)
    lines = sorted(json.dumps([p.dataset_type, dict(p.data_id), p.dataset, p.checksum], sort_keys=True) for p in kept)
    return hashlib.sha256("\n".join([begin, *lines]).encode()).hexdigest()


class Certifications:
    """Of one installation."""

    def __init__(self, tables: QualityTables, clock: Callable[[], float] = time.time) -> None:
        self._tables = tables
        self._clock = clock

    @classmethod
    def open(cls, home: str | Path) -> Certifications:
        """Of a home directory: the tables are in its ledger's database."""
        return cls(QualityTables.open(ledger_url(Path(home))))

    def write(self, certification: Certification, products: Sequence[Product]) -> Certification:
        """Once; the same again changes nothing but adds products that a repetition found (after a hot fix, say)."""
        row = {name: getattr(certification, name) for name in Certification.__dataclass_fields__}
        with self._tables.begin() as connection:
            self._tables.insert_first(connection, t.certification, {**row, "state": row["state"].value, "at": self._clock()})
            self._tables.insert_new(connection, t.certified_product, [_row(certification.collection, p) for p in products])
            there = _find(connection, certification.collection, to_change=True)
            if there.digest != certification.digest and there.state is not CertificationState.WITHDRAWN:
                where = t.certification.c.collection == certification.collection
                values = {"digest": certification.digest, "state": CertificationState.CERTIFIED.value}  # it must be signed again
                connection.execute(t.certification.update().where(where).values(values))
            return _find(connection, certification.collection)

    def approve(self, collection: str, *, actor: str, why: str = "", digest: str | None = None) -> Certification:
        """Sign it: who, when, of which digest (`digest`: what was looked at; another is refused). Twice is harmless."""
        with self._tables.begin() as connection:
            there = _find(connection, collection, to_change=True)
            if there.state is CertificationState.WITHDRAWN:
                raise CertificationError(f"{collection} was withdrawn ({there.why}): make the products again")
            if digest is not None and not there.digest.startswith(digest):
                raise CertificationError(f"{collection} has digest {there.digest[:12]}, not {digest}: look at it again")
            if there.state is CertificationState.CERTIFIED:
                values = {
                    "state": CertificationState.APPROVED.value,
                    "approved_by": actor,
                    "approved_at": self._clock(),
                    "why": why,
                }
                connection.execute(t.certification.update().where(t.certification.c.collection == collection).values(values))
            return _find(connection, collection)

    def withdraw(self, collection: str, datasets: Iterable[str], *, actor: str, why: str) -> Certification:
        """Products are no longer certified; with the last of them the certification is withdrawn. Twice is harmless."""
        p = t.certified_product
        with self._tables.begin() as connection:
            _find(connection, collection, to_change=True)
            mine = (p.c.collection == collection, p.c.state == ProductState.CERTIFIED.value)
            gone = {"state": ProductState.WITHDRAWN.value, "withdrawn_by": actor, "withdrawn_at": self._clock(), "why": why}
            connection.execute(p.update().where(*mine, self._tables.among(p.c.dataset, datasets)).values(gone))
            if not connection.execute(sa.select(p.c.dataset).where(*mine).limit(1)).first():
                values = {"state": CertificationState.WITHDRAWN.value, "why": why}
                connection.execute(t.certification.update().where(t.certification.c.collection == collection).values(values))
            return _find(connection, collection)

    def find(self, collection: str) -> Certification:
        """By its collection; CertificationError if there is none."""
        with self._tables.read() as connection:
            return _find(connection, collection)

    def every(self, chain: str | None = None) -> list[Certification]:
        """Newest first."""
        query = sa.select(t.certification).order_by(t.certification.c.at.desc(), t.certification.c.collection)
        if chain is not None:
            query = query.where(t.certification.c.chain == chain)
        return [_certification(row) for row in self._tables.all(query)]

    def products(self, collection: str) -> list[Product]:
        """Of one certification, refused and withdrawn ones too."""
        p = t.certified_product
        query = sa.select(p).where(p.c.collection == collection).order_by(p.c.dataset_type, p.c.data_id)
        return [_product(row) for row in self._tables.all(query)]

    def withdrawn(self) -> list[Product]:
        """Of all certifications; costs what was withdrawn, not what was certified."""
        p = t.certified_product
        query = sa.select(p).where(p.c.withdrawn_at.is_not(None)).order_by(p.c.withdrawn_at, p.c.collection, p.c.dataset)
        return [_product(row) for row in self._tables.all(query)]

    def holding(self, datasets: Iterable[str]) -> dict[str, list[str]]:
        """Collections that certify any of these, with which."""
        p = t.certified_product
        found: dict[str, list[str]] = {}
        certified = p.c.state == ProductState.CERTIFIED.value
        for row in self._tables.all(sa.select(p).where(certified, self._tables.among(p.c.dataset, datasets))):
            found.setdefault(row.collection, []).append(row.dataset)
        return found


def _find(connection: Connection, collection: str, *, to_change: bool = False) -> Certification:
    """`to_change`: nobody else changes it until the transaction ends, so that what is signed is what was looked at."""
    query = sa.select(t.certification).where(t.certification.c.collection == collection)
    row = connection.execute(query.with_for_update() if to_change else query).one_or_none()
    if row is None:
        raise CertificationError(f"nothing was certified as {collection!r}; `pachon calib list` shows what there is")
    return _certification(row)


def _certification(row: Any) -> Certification:
    values = {name: getattr(row, name) for name in Certification.__dataclass_fields__}
    return Certification(**{**values, "state": CertificationState(row.state)})


def _product(row: Any) -> Product:
    values = {name: getattr(row, name) for name in Product.__dataclass_fields__ if name != "checksum"}
    return Product(**{**values, "state": ProductState(row.state), "data_id": json.loads(row.data_id)})


def _row(collection: str, product: Product) -> dict[str, Any]:
    values = {name: getattr(product, name) for name in Product.__dataclass_fields__ if name != "checksum"}
    data_id = json.dumps(dict(product.data_id), sort_keys=True)
    return {**values, "collection": collection, "data_id": data_id, "state": product.state.value}
