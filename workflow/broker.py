"""Chooses a site for each group, once, and says why (decision 7): operator's word, share, place of the inputs, free capacity.

`choose` is pure: the same facts give the same site. Decision and reasons are a row of the ledger's `placement`; the newest row of
a group counts, and only an operator's word that forbids its site makes another. Where all sites have one endpoint, and neither
the production nor an operator says anything about sites, there is nothing to choose: jobs go wherever slots are free.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SiteFacts:
    """What the decision about one group knows of one site."""

    name: str
    groups: int
    """Of this campaign, placed here before."""
    present_bytes: int = 0
    """Of the group's inputs, at the site's endpoint already."""
    free_slots: int = 0


@dataclass(frozen=True, kw_only=True)
class Word:
    """An operator's (or a production's) word about sites and machines; empty `only` means all."""

    only: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    only_machines: tuple[str, ...] = ()
    never_machines: tuple[str, ...] = ()

    def allows(self, site: str) -> bool:
        """Whether a group may go to a site."""
        return site not in self.never and (not self.only or site in self.only)

    def __add__(self, narrower: Word) -> Word:
        """Both together: what either forbids is forbidden; `only` is that of the narrower, where it says one."""
        return Word(
            only=narrower.only or self.only,
            never=tuple(dict.fromkeys((*self.never, *narrower.never))),
            only_machines=narrower.only_machines or self.only_machines,
            never_machines=tuple(dict.fromkeys((*self.never_machines, *narrower.never_machines))),
        )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Where a group goes, and the facts that led there; no site where none is allowed."""

    site: str | None
    reason: str
    sites: tuple[dict[str, Any], ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values, as the ledger keeps them."""
        return {"reason": self.reason, "sites": list(self.sites)}


def shares(wanted: Mapping[str, float], sites: Iterable[str]) -> dict[str, float]:
    """Parts of the work (sum 1) of those sites that `wanted` names; empty where it names none, so that a production that shares
    out its work between data facilities still runs on a laptop's one pool.
    """
    known = {site: wanted[site] for site in sites if wanted.get(site, 0) > 0}
    total = sum(known.values())
    return {site: part / total for site, part in known.items()}


def choose(
    facts: Sequence[SiteFacts], *, word: Word, share: Mapping[str, float], groups_in_all: int, input_bytes: int
) -> Decision:
    """The site of one group.

    Of the sites that are allowed, those come first whose share of the campaign's `groups_in_all` groups is not used up; of these
    the one that has most of the group's `input_bytes` already; then the one with most free slots; then the one furthest behind
    its share; then by name.
    """
    seen = []
    for one in facts:
        due = share.get(one.name, 0.0) * groups_in_all
        seen.append(
            asdict(one)
            | {
                "allowed": word.allows(one.name) and (not share or one.name in share),
                "due_groups": round(due, 3),
                "open": not share or one.groups + 1 <= due + 0.5,
                "present_fraction": round(one.present_bytes / input_bytes, 4) if input_bytes else 1.0,
            }
        )
    allowed = [site for site in seen if site["allowed"]] or [site for site in seen if word.allows(site["name"])]
    if not allowed:
        said = f"only {', '.join(word.only) or 'any'}, never {', '.join(word.never) or 'none'}"
        return Decision(site=None, reason=f"no site is allowed ({said})", sites=tuple(seen))
    best = min(allowed, key=_rank)
    return Decision(site=best["name"], reason=_words(best, allowed, share, word), sites=tuple(seen))


def _rank(site: Mapping[str, Any]) -> tuple[Any, ...]:
    behind = site["due_groups"] - site["groups"]
    return (not site["open"], -site["present_fraction"], -site["free_slots"], -behind, site["name"])


def _words(best: Mapping[str, Any], allowed: Sequence[Mapping[str, Any]], share: Mapping[str, float], word: Word) -> str:
    name = best["name"]
    if len(allowed) == 1:
        return f"{name} is the only site allowed" if word.only or word.never else f"{name} is the only site"
    parts = []
    if share:
        full = [s["name"] for s in allowed if not s["open"] and s is not best]
        parts.append(f"share {share.get(name, 0):.0%} ({best['groups']} of {best['due_groups']:g} groups before this)")
        parts += [f"{', '.join(full)} {'has' if len(full) == 1 else 'have'} its share"] if full else []
    parts.append(f"{best['present_fraction']:.0%} of the input bytes are there")
    parts.append(f"{best['free_slots']} free slots")
    return f"{name}: {'; '.join(parts)}"
