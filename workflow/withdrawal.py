"""A bad calibration product is taken out of use, and whoever used it is named.

What was processed with it is in the ledger (`calibration_use`, decision 11): quanta of any campaign, and through the products
that some of those made, quanta further on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa
from astropy.time import Time
from lsst.daf.butler import Timespan

from backbone.qc.certifications import CertificationState, Product, ProductState
from workflow.certification import rule_of
from workflow.chains import remove
from workflow.context import Context
from workflow.errors import ProductionError
from workflow.job import from_json
from workflow.ledger.store import record
from workflow.ledger.tables import accepted, accepted_outcome, calibration_use, outcome, quantum


@dataclass(frozen=True, kw_only=True)
class Which:
    """Products of a certification: of these types (none: all) and these values of dimensions."""

    dataset_types: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)

    def means(self, product: Product) -> bool:
        """Whether it is one of them."""
        mine = not self.dataset_types or product.dataset_type in self.dataset_types
        return mine and all(str(product.data_id.get(name)) == value for name, value in self.values.items())


@dataclass(frozen=True, kw_only=True)
class User:
    """A quantum that was given a withdrawn product."""

    campaign: str
    step: str
    label: str
    data_id: str
    state: str
    dataset_type: str
    dataset: str


@dataclass(frozen=True, kw_only=True)
class Withdrawal:
    """What was (or would be) withdrawn, who used it, and certified products that were made with it."""

    collection: str
    products: tuple[Product, ...]
    users: tuple[User, ...]
    derived: tuple[tuple[str, Product], ...]
    done: bool

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def withdraw(
    context: Context, collection: str, which: Which, *, actor: str, why: str, derived: bool, dry_run: bool
) -> Withdrawal:
    """See Campaigns.withdraw_calibrations. With `derived`, what was made with the bad products goes with them."""
    held = context.certifications.products(context.certifications.find(collection).collection)
    chosen = [p for p in held if p.state is ProductState.CERTIFIED and which.means(p)]
    gone = [p for p in held if p.state is ProductState.WITHDRAWN and which.means(p)]
    if not chosen and not gone:
        have = ", ".join(sorted({p.dataset_type for p in held if p.state is ProductState.CERTIFIED})) or "nothing"
        raise ProductionError(f"{collection} certifies no such product; it has {have}: see `pachon calib show {collection}`")
    users, made = _trace(context, [p.dataset for p in (*chosen, *gone)])
    further = [(c, p) for c, products in made.items() for p in products if p not in chosen]
    if not dry_run:
        _decertify(context, collection, chosen, actor, why)
        if derived:
            for name in made:
                _decertify(context, name, [p for c, p in further if c == name], actor, f"made with a withdrawn product: {why}")
    return Withdrawal(
        collection=collection, products=tuple(chosen or gone), users=tuple(users), derived=tuple(further), done=not dry_run
    )


def withdrawn_inputs(context: Context, campaign: str) -> list[Product]:
    """Withdrawn products that a campaign's quanta used, by themselves or by what these were given.

    Asked for every template day after day: only campaigns that certified something can have made products of bad ones, so theirs
    alone are looked through besides this one, all withdrawn products at once.
    """
    gone = context.certifications.withdrawn()
    makers = {one.campaign for one in context.certifications.every()}
    origins: dict[str, set[str]] = {p.dataset: {p.dataset} for p in gone}
    wave = set(origins)
    while wave:
        used = [(q, user.dataset) for q, user in _users(context, wave, quantum.c.campaign.in_(makers))]
        made = _made_by(context, {q for q, _ in used})
        certified = {d for ids in context.certifications.holding(set().union(*made.values())).values() for d in ids}
        wave = set()
        for q, dataset in used:
            for product in made.get(q, set()) & certified:
                if new := origins[dataset] - origins.setdefault(product, set()):
                    origins[product] |= new
                    wave.add(product)
    used_here = {user.dataset for _, user in _users(context, origins, quantum.c.campaign == campaign)}
    bad = set().union(*(origins[dataset] for dataset in used_here))
    return [p for p in gone if p.dataset in bad]


def _trace(context: Context, datasets: Iterable[str]) -> tuple[list[User], dict[str, list[Product]]]:
    """Every quantum that used any of these, or what was made of these; and certified products among what was made."""
    users: dict[tuple[str, str], User] = {}
    products: dict[str, list[Product]] = {}
    seen: set[str] = set()
    wave = set(datasets)
    while wave:
        seen |= wave
        found = _users(context, wave)
        users |= {(quantum_id, user.dataset): user for quantum_id, user in found}
        made = set().union(*_made_by(context, {quantum_id for quantum_id, _ in found}).values())
        wave = set()
        for collection, ids in context.certifications.holding(made - seen).items():
            here = [p for p in context.certifications.products(collection) if p.dataset in set(ids)]
            products.setdefault(collection, []).extend(here)
            wave |= set(ids)
    return sorted(users.values(), key=lambda u: (u.campaign, u.step, u.label, u.data_id)), products


def _users(context: Context, datasets: Iterable[str], *more: sa.ColumnElement[bool]) -> list[tuple[str, User]]:
    q, use = quantum, calibration_use
    query = (
        sa.select(q.c.id, q.c.campaign, q.c.step, q.c.label, q.c.data_id, q.c.state, use.c.dataset_type, use.c.dataset)
        .join(use, use.c.quantum == q.c.id)
        .where(context.ledger.among(use.c.dataset, datasets), q.c.current, *more)
    )
    return [(r.id, User(**{k: getattr(r, k) for k in User.__dataclass_fields__})) for r in context.ledger.all(query)]


def _made_by(context: Context, quanta: Iterable[str]) -> dict[str, set[str]]:
    """Datasets that accepted attempts of these quanta wrote, by quantum."""
    query = sa.select(outcome.c.quantum, outcome.c.records).join(accepted, accepted_outcome())
    rows = context.ledger.all(query.where(context.ledger.among(outcome.c.quantum, quanta)))
    return {row.quantum: {str(dataset) for dataset in from_json(row.records or {}).records} for row in rows}


def _decertify(context: Context, collection: str, products: list[Product], actor: str, why: str) -> None:
    """Out of the registry's certification first: killed in between, a repetition does the rest."""
    butler, there = context.butler, context.certifications.find(collection)
    butler.registry.refresh()
    span = Timespan(Time(there.begin, scale="tai", format="isot"), None)
    for name in sorted({p.dataset_type for p in products}):
        data_ids = [dict(p.data_id) for p in products if p.dataset_type == name]
        butler.registry.decertify(collection, name, span, dataIds=data_ids)
    after = context.certifications.withdraw(collection, [p.dataset for p in products], actor=actor, why=why)
    if after.state is CertificationState.WITHDRAWN:
        remove(butler, there.chain, collection)
        _release(context, collection)
    if products:
        what = json.dumps([p.dataset for p in products][:20])
        with context.ledger.begin() as connection:
            words = f"{len(products)} products of {collection} {what}: {why}"
            record(connection, at=context.clock.now(), actor=actor, campaign=there.campaign, what="withdraw", why=words)


def _release(context: Context, collection: str) -> None:
    if context.backbone is not None:
        for name in {site.endpoint_name for site in context.settings.sites} - {context.settings.archive_name}:
            context.backbone.release(f"{rule_of(collection)}@{name}", "calibrations")
