"""CHAINED collections that users read: what is newest is in front."""

from __future__ import annotations

from typing import Any

from lsst.daf.butler import CollectionType, MissingCollectionError

from workflow.errors import PlanError


def prepend(butler: Any, chain: str, child: str) -> None:
    """In front of the chain, once: a repetition must not move it before what came after it."""
    if child not in _children(butler, chain):
        butler.collections.prepend_chain(chain, child)


def remove(butler: Any, chain: str, child: str) -> None:
    """Out of the chain; where it is not in it, nothing happens."""
    if child in _children(butler, chain):
        butler.collections.remove_from_chain(chain, child)


def _children(butler: Any, chain: str) -> tuple[str, ...]:
    try:
        info = butler.collections.get_info(chain)
    except MissingCollectionError:
        butler.collections.register(chain, CollectionType.CHAINED)
        info = butler.collections.get_info(chain)
    if info.type is not CollectionType.CHAINED:
        raise PlanError(f"collection {chain} is a {info.type.name}, not a CHAINED one: nothing can be put in front of it")
    return tuple(info.children)
