"""From products to calibrations that users read: certified if they passed verification, approved, distributed.

The life of a calibration (DMTN-222): generate, verify, certify, approve, distribute. A certification is a CALIBRATION
collection of its own, `{chain}/{campaign}/{step}`; approved, it is put in front of the chain. Each act can be repeated without
harm.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from astropy.time import Time
from lsst.daf.butler import CollectionType, Timespan

from backbone.qc.certifications import Certification, CertificationState, Product, ProductState, digest_of
from workflow.campaign import Work
from workflow.chains import prepend, remove
from workflow.context import Context
from workflow.errors import PlanError
from workflow.production import Certify

_LOG = logging.getLogger(__name__)
BY_RULE = "rule: everything certified passed its verification"
UNVERIFIED = "rule: the production asks for no verification"
DISTRIBUTED_WITHIN_S = 600.0
_PRIORITY = 70


class NothingVerified(PlanError):
    """Of what was to be certified nothing passed; the message has the reasons."""


def certify(work: Work, step: str, runs: list[str], action: Certify) -> str:
    """Certify what may be, refuse the rest with its reasons, and approve by rule where the production says so; in words."""
    context = work.context
    context.butler.registry.refresh()
    chain, begin = work.fill(action.into, step), begin_of(work.fill(action.begin, step))
    collection = f"{chain}/{work.name}/{step}"
    products = _products(context, runs, action)
    good = [p for p, _ in products if p.state is ProductState.CERTIFIED]
    refused = [p for p, _ in products if p.state is ProductState.REFUSED]
    if refused and not good:
        raise NothingVerified(f"nothing is certified into {chain}: {_reasons(refused)}")
    _put(context.butler, collection, [ref for p, ref in products if p in good], Timespan(begin, None))
    made = context.certifications.write(
        Certification(
            collection=collection, chain=chain, campaign=work.name, begin=begin.isot, digest=digest_of(good, begin.isot)
        ),
        [p for p, _ in products],
    )  # fmt: skip
    words = f"{len(good)} of {', '.join(action.dataset_types)} into {collection}, valid from {begin.isot} TAI"
    if work.fill(action.approve, step) == "rule":
        approve(context, collection, actor=BY_RULE if action.verified_by else UNVERIFIED)
    elif made.state is CertificationState.CERTIFIED:
        remove(context.butler, chain, collection)  # after a hot fix it may be there, with another digest
        words += "; waits for approval: `pachon calib approve`"
    return words + (f"; {len(refused)} refused: {_reasons(refused)}" if refused else "")


def approve(context: Context, collection: str, *, actor: str, why: str = "", digest: str | None = None) -> Certification:
    """Signed, in front of the chain, and on its way to every site."""
    signed = context.certifications.approve(collection, actor=actor, why=why, digest=digest)
    prepend(context.butler, signed.chain, collection)
    _distribute(context, signed)
    _LOG.info("%s is approved by %s (digest %s)", collection, signed.approved_by, signed.digest[:12])
    return signed


def begin_of(text: str) -> Any:
    """Beginning (TAI) of a day given as YYYYMMDD or YYYY-MM-DD; PlanError for anything else."""
    plain = text.replace("-", "")
    if len(plain) != 8 or not plain.isdigit():
        raise PlanError(f"certify: {text!r} is no day YYYYMMDD or YYYY-MM-DD")
    try:
        return Time(f"{plain[:4]}-{plain[4:6]}-{plain[6:]}T00:00:00", scale="tai", format="isot")
    except ValueError as error:
        raise PlanError(f"certify: {text!r} is no day ({error})") from error


def rule_of(collection: str) -> str:
    """Name of the backbone's rule that keeps a certification at every site."""
    return f"calibrations/{collection}"


def _products(context: Context, runs: list[str], action: Certify) -> list[tuple[Product, Any]]:
    """Every product of these RUNs with its ref, judged by its verification where one is asked for."""
    found = []
    for name in action.dataset_types:
        refs = query(context.butler, name, runs)
        verdicts = None
        if action.verified_by:
            verdicts = {v["dataset"]: v for v in contents(context.butler, action.verified_by.replace("*", name), runs)}
        found += [(_judged(context.butler, ref, verdicts), ref) for ref in refs]
    return found


def _judged(butler: Any, ref: Any, verdicts: dict[str, Any] | None) -> Product:
    state, why = ProductState.CERTIFIED, ""
    if verdicts is not None:
        verdict = verdicts.get(str(ref.id))
        if verdict is None:
            state, why = ProductState.REFUSED, "it was not verified"
        elif not verdict["passed"]:
            state, why = ProductState.REFUSED, "; ".join(verdict["reasons"])
        else:
            why = "; ".join(verdict.get("notes", ()))
    return Product(
        dataset=str(ref.id),
        dataset_type=ref.datasetType.name,
        data_id=dict(ref.dataId.required),
        run=ref.run,
        state=state,
        why=why,
        checksum=",".join(str(info.checksum) for info in butler._datastore.getStoredItemsInfo(ref)),
    )


def _put(butler: Any, collection: str, refs: Sequence[Any], timespan: Timespan) -> None:
    butler.collections.register(collection, CollectionType.CALIBRATION)
    for name in {ref.datasetType.name for ref in refs}:
        done = {
            a.ref.id
            for a in butler.registry.queryDatasetAssociations(
                name, collections=[collection], collectionTypes={CollectionType.CALIBRATION}
            )
        }
        if new := [ref for ref in refs if ref.datasetType.name == name and ref.id not in done]:
            butler.registry.certify(collection, new, timespan)


def query(butler: Any, dataset_type: str, runs: Sequence[str]) -> list[Any]:
    """Refs of a type in RUNs; none where the type is unknown."""
    if not list(butler.registry.queryDatasetTypes(dataset_type)):
        return []
    found: list[Any] = butler.query_datasets(dataset_type, collections=list(runs), find_first=False, explain=False, limit=None)
    return found


def contents(butler: Any, dataset_type: str, runs: Sequence[str]) -> list[dict[str, Any]]:
    """What documents of a type say (storage class StructuredDataDict)."""
    return [butler.get(ref) for ref in query(butler, dataset_type, runs)]


def _reasons(refused: Iterable[Product], at_most: int = 4) -> str:
    lines = [f"{p.dataset_type} {_short(p.data_id)}: {p.why}" for p in refused]
    rest = f"; and {len(lines) - at_most} more" if len(lines) > at_most else ""
    return "; ".join(lines[:at_most]) + rest


def _short(data_id: Any) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(data_id.items()) if key != "instrument")


def _distribute(context: Context, signed: Certification) -> None:
    """What is approved must be at every site's endpoint soon; where all share one nothing is to do."""
    if context.backbone is None:
        return
    products = [p for p in context.certifications.products(signed.collection) if p.state is ProductState.CERTIFIED]
    keys = sorted({key for p in products for key in _keys(context.butler, p)})
    by = context.clock.now() + DISTRIBUTED_WITHIN_S
    for name in sorted({site.endpoint_name for site in context.settings.sites} - {context.settings.archive_name}):
        rule = f"{rule_of(signed.collection)}@{name}"
        context.backbone.require(rule, keys, name, by=by, priority=_PRIORITY, actor="calibrations")


def _keys(butler: Any, product: Product) -> list[str]:
    ref = butler.get_dataset(product.dataset)
    return [info.path.split("#")[0] for info in butler._datastore.getStoredItemsInfo(ref)]
