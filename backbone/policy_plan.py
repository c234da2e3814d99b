"""What policies together ask of the files of a cohort: one want for each endpoint, and what holds for the cohort as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from backbone.policy import Copy, Policy


@dataclass(frozen=True, kw_only=True)
class Want:
    """What is asked at one endpoint; ages in seconds."""

    priority: int
    within_s: float
    after_s: float
    keep_s: float | None
    fetch: bool
    policies: tuple[str, ...]

    def joined(self, other: Want) -> Want:
        """Both: the highest priority, the earliest date, the longest keeping."""
        keeps = (self.keep_s, other.keep_s)
        return Want(
            priority=max(self.priority, other.priority),
            within_s=min(self.within_s, other.within_s),
            after_s=min(self.after_s, other.after_s),
            keep_s=None if None in keeps else max(k for k in keeps if k is not None),
            fetch=self.fetch or other.fetch,
            policies=tuple(sorted({*self.policies, *other.policies})),
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked of a cohort. `drop_after_s`: un-archived, at this age even the last copy goes."""

    wants: Mapping[str, Want]
    public_after_s: float | None
    public_latest_s: float | None
    floor: int
    drop_after_s: float | None
    grace_s: float | None

    def of_cohort(self) -> dict[str, float | int | None]:
        """The columns of the cohort."""
        return {
            "public_after_s": self.public_after_s,
            "public_latest_s": self.public_latest_s,
            "floor": self.floor,
            "drop_after_s": self.drop_after_s,
            "grace_s": self.grace_s,
        }


def plan_for(policies: Iterable[Policy], shared: Mapping[str, Any], endpoints: Iterable[str]) -> Plan:
    """The plan for files that share these values (tags as stored)."""
    values = {**shared, "tags": json.loads(shared["tags"])}
    matching = [policy for policy in policies if policy.match.matches(values)]
    wants: dict[str, Want] = {}
    for policy in matching:
        for copy in policy.copies:
            want = _want(policy, copy)
            wants[copy.at] = wants[copy.at].joined(want) if copy.at in wants else want
    asking = [policy for policy in matching if policy.copies]
    dropped = bool(asking) and all(policy.unarchived for policy in asking)
    drop_after = max((want.keep_s or 0.0 for want in wants.values()), default=0.0) if dropped else None
    if drop_after is not None:
        names = tuple(sorted(policy.name for policy in asking))
        rest = Want(priority=0, within_s=0.0, after_s=0.0, keep_s=drop_after, fetch=False, policies=names)
        wants = {**dict.fromkeys(endpoints, rest), **wants}
    publics = [policy.public for policy in matching if policy.public]
    latest = [public.latest for public in publics if public.latest is not None]
    graces = [policy.grace for policy in matching if policy.grace is not None]
    return Plan(
        wants=wants,
        public_after_s=max((public.after for public in publics), default=None),
        public_latest_s=min(latest, default=None),
        floor=max((policy.floor for policy in matching), default=1),
        drop_after_s=drop_after,
        grace_s=max(graces, default=None),
    )


def _want(policy: Policy, copy: Copy) -> Want:
    keeps = [age for age in (copy.keep, policy.match.younger_than) if age is not None]
    return Want(
        priority=copy.priority,
        within_s=copy.within,
        after_s=max(copy.after, policy.match.older_than),
        keep_s=min(keeps, default=None),
        fetch=copy.fetch,
        policies=(policy.name,),
    )
