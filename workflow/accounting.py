"""What a campaign cost and with what it ran: every number is an aggregate made by the database, however many quanta there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workflow import hosts, stats
from workflow.ledger.audit import binding, hotfix, passive_finding, software, task_config
from workflow.ledger.counts import tallied
from workflow.ledger.tables import accepted, accepted_outcome, job, outcome, quantum, tally
from workflow.production import Production
from workflow.states import QUANTUM_TERMINAL, FailureClass

INFRASTRUCTURE = frozenset({FailureClass.INFRASTRUCTURE, FailureClass.PREEMPTED})
"""Classes of failures for which the payload is not to blame."""
_OUTLIERS = 8
_BINS = 48
EDGES_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0, 10800.0)
"""Of the histogram of wall times; below the first and above the last there is one more bin each."""


NOTHING: dict[str, Any] = {
    **dict.fromkeys(("sites", "labels", "slowest", "largest", "versions", "hotfixes", "passive"), ()),
    **dict.fromkeys(("core_hours", "badput_core_hours"), 0.0),
    "avoided_hosts": {},
    "projection": None,
    "timeline": {"begin": None, "bin_s": 0.0, "bins": ()},
    "wall_histogram": {},
}
"""The books of a campaign of which nothing has run."""


def accounting(connection: Connection, campaign: Any, now: float) -> dict[str, Any]:
    """Of one campaign (its row): plain values, ready for JSON. Hours are of one core, times Unix seconds (UTC)."""
    name = campaign.name
    sites = _sites(connection, name)
    return {
        "sites": sites,
        "core_hours": sum(s["core_hours"] for s in sites),
        "badput_core_hours": sum(s["badput_core_hours"] for s in sites),
        "labels": _labels(connection, name),
        "slowest": _outliers(connection, name, outcome.c.wall_s),
        "largest": _outliers(connection, name, outcome.c.peak_mb),
        "versions": versions(connection, name),
        "hotfixes": _hotfixes(connection, name),
        "passive": _passive(connection, name),
        "avoided_hosts": _avoided(connection, campaign, now),
        "projection": _projection(connection, campaign, now),
        "timeline": _timeline(connection, name),
        "wall_histogram": _histogram(connection, name),
    }


def _of(name: str) -> sa.ColumnElement[bool]:
    """Outcomes of a campaign, in a query that joins their jobs."""
    return job.c.campaign == name


def _sites(connection: Connection, name: str) -> list[dict[str, Any]]:
    """Core-hours of attempts by site; badput is that of failures, and of successes that came second or that a hot fix undid."""
    counts = sa.and_(accepted.c.quantum.is_not(None), quantum.c.current)
    rows = connection.execute(
        sa.select(
            job.c.site,
            sa.func.sum(outcome.c.wall_s).label("wall_s"),
            sa.func.sum(outcome.c.cpu_s).label("cpu_s"),
            sa.func.sum(sa.case((counts, 0.0), else_=outcome.c.wall_s)).label("bad_s"),
            sa.func.sum(sa.case((counts, 1), else_=0)).label("accepted"),
            sa.func.count().label("attempts"),
        )
        .join(job, job.c.id == outcome.c.job)
        .join(quantum, quantum.c.id == outcome.c.quantum)
        .outerjoin(accepted, accepted_outcome())
        .where(_of(name))
        .group_by(job.c.site)
        .order_by(job.c.site)
    ).all()
    held = {
        r.site: r
        for r in connection.execute(
            sa.select(
                job.c.site,
                sa.func.count().label("jobs"),
                sa.func.count(sa.distinct(job.c.host)).label("hosts"),
                sa.func.sum(
                    sa.case((job.c.ended.is_not(None), job.c.ended - sa.func.coalesce(job.c.started, job.c.created)))
                ).label("held_s"),
            )
            .where(_of(name))
            .group_by(job.c.site)
        )
    }
    return [
        {
            "site": r.site,
            "core_hours": r.wall_s / 3600,
            "cpu_hours": r.cpu_s / 3600,
            "badput_core_hours": r.bad_s / 3600,
            "accepted": int(r.accepted),
            "attempts": int(r.attempts),
            "jobs": int(held[r.site].jobs),
            "hosts": int(held[r.site].hosts),
            "held_core_hours": (held[r.site].held_s or 0.0) / 3600,
        }
        for r in rows
    ]


def _labels(connection: Connection, name: str) -> list[dict[str, Any]]:
    """What accepted attempts took, by task."""
    rows = connection.execute(
        sa.select(
            quantum.c.step,
            quantum.c.label,
            sa.func.count().label("n"),
            sa.func.avg(outcome.c.wall_s).label("mean_s"),
            sa.func.max(outcome.c.wall_s).label("max_s"),
            sa.func.max(outcome.c.peak_mb).label("max_mb"),
            sa.func.sum(outcome.c.wall_s).label("wall_s"),
        )
        .join(accepted, accepted.c.quantum == quantum.c.id)
        .join(outcome, accepted_outcome())
        .where(quantum.c.campaign == name, quantum.c.current)
        .group_by(quantum.c.step, quantum.c.label)
        .order_by(sa.func.sum(outcome.c.wall_s).desc())
    )
    return [{**r._mapping, "n": int(r.n), "core_hours": r.wall_s / 3600} for r in rows]


def _outliers(connection: Connection, name: str, by: sa.Column[float]) -> list[dict[str, Any]]:
    rows = connection.execute(
        sa.select(
            sa.cast(outcome.c.quantum, sa.Text).label("quantum"),
            quantum.c.step,
            quantum.c.label,
            quantum.c.data_id,
            outcome.c.state,
            outcome.c.wall_s,
            outcome.c.peak_mb,
            job.c.site,
            job.c.host,
        )
        .join(job, job.c.id == outcome.c.job)
        .join(quantum, quantum.c.id == outcome.c.quantum)
        .where(_of(name))
        .order_by(by.desc())
        .limit(_OUTLIERS)
    )
    return [dict(r._mapping) for r in rows]


def versions(connection: Connection, name: str) -> list[dict[str, Any]]:
    """The mixture: how many current accepted quanta each pair of software and task configuration made.

    `differs` names the packages whose versions are not the same in all sets of software of the campaign.
    """
    same = [getattr(task_config.c, n) == getattr(quantum.c, n) for n in ("campaign", "step", "generation", "label")]
    columns = (quantum.c.step, quantum.c.label, quantum.c.generation, job.c.software, task_config.c.digest.label("config"))
    rows = connection.execute(
        sa.select(*columns, sa.func.count().label("n"))
        .join(accepted, accepted.c.quantum == quantum.c.id)
        .join(job, job.c.id == accepted.c.job)
        .outerjoin(task_config, sa.and_(*same))
        .where(quantum.c.campaign == name, quantum.c.current)
        .group_by(*columns)
        .order_by(*columns[:3])
    ).all()
    digests = {r.software for r in rows if r.software}
    sets = {r.digest: r.versions for r in connection.execute(sa.select(software).where(software.c.digest.in_(digests)))}
    packages = {p for v in sets.values() for p in v}
    differ = sorted(p for p in packages if len({v.get(p) for v in sets.values()}) > 1)
    configs: dict[tuple[str, str], set[str]] = {}
    for r in rows:
        configs.setdefault((r.step, r.label), set()).add(r.config)
    bound = {
        (r.step, r.generation): r.software
        for r in connection.execute(sa.select(binding).where(binding.c.campaign == name, binding.c.software.is_not(None)))
    }
    return [
        {
            "step": r.step,
            "label": r.label,
            "generation": r.generation,
            "software": r.software,
            "bound": bound.get((r.step, r.generation)),
            "differs": {p: sets.get(r.software or "", {}).get(p) for p in differ},
            "config_differs": len(configs[r.step, r.label]) > 1,
            "config": r.config,
            "quanta": int(r.n),
        }
        for r in rows
    ]


def mixed(found: Sequence[dict[str, Any]]) -> list[str]:
    """Labels (step/label) of which not all quanta ran with the same software and configuration; those of `versions`."""
    seen: dict[str, set[tuple[Any, Any]]] = {}
    for row in found:
        seen.setdefault(f"{row['step']}/{row['label']}", set()).add((row["software"], row["config"]))
    return [label for label, pairs in seen.items() if len(pairs) > 1]


def _hotfixes(connection: Connection, name: str) -> list[dict[str, Any]]:
    columns = (hotfix.c.id, hotfix.c.at, hotfix.c.actor, hotfix.c.why, hotfix.c.software, hotfix.c.config, hotfix.c.effect)
    rows = connection.execute(sa.select(*columns).where(hotfix.c.campaign == name).order_by(hotfix.c.id))
    return [dict(r._mapping) for r in rows]


def _passive(connection: Connection, name: str) -> list[dict[str, Any]]:
    p = passive_finding.c
    rows = connection.execute(
        sa.select(p.step, p.label, p.rule, p.would, p.instead_of, p.count, sa.cast(p.example, sa.Text).label("example"))
        .where(p.campaign == name)
        .order_by(p.rule, p.step, p.label)
    )
    return [dict(r._mapping) for r in rows]


def _avoided(connection: Connection, campaign: Any, now: float) -> dict[str, list[str]]:
    rules = Production.load(campaign.definition).hosts
    sites = connection.execute(sa.select(job.c.site).where(_of(campaign.name)).distinct()).scalars()
    found = {site: list(hosts.avoided(connection, site, rules, now)) for site in sites}
    return {site: names for site, names in found.items() if names}


def _projection(connection: Connection, campaign: Any, now: float) -> dict[str, Any] | None:
    """When the planned quanta will be done, at the speed so far; None where nothing is left, or nothing was done yet.

    What is left is weighed by what its labels took; steps that are not planned yet are not in it.
    """
    learned = stats.read(connection, campaign.production)
    rows = connection.execute(tallied(tally.c.label, tally.c.state).where(tally.c.campaign == campaign.name)).all()
    left_s = sum(learned[r.label].wall_s * r.n for r in rows if r.state not in QUANTUM_TERMINAL and r.label in learned)
    begun, last, done_s = connection.execute(
        sa.select(sa.func.min(job.c.created), sa.func.max(outcome.c.collected), sa.func.sum(outcome.c.wall_s))
        .join(job, job.c.id == outcome.c.job)
        .where(_of(campaign.name), outcome.c.state == "succeeded")
    ).one()
    if not left_s or not done_s or last <= begun:
        return None
    speed = done_s / (last - begun)
    return {"left_core_hours": left_s / 3600, "cores_busy": speed, "finish": now + left_s / speed}


def _timeline(connection: Connection, name: str) -> dict[str, Any]:
    """Successes and failures over time, in equal bins."""
    first, last = connection.execute(
        sa.select(sa.func.min(outcome.c.collected), sa.func.max(outcome.c.collected))
        .join(job, job.c.id == outcome.c.job)
        .where(_of(name))
    ).one()
    if first is None:
        return {"begin": None, "bin_s": 0.0, "bins": []}
    width = max((last - first) / _BINS, 1e-3)
    number = sa.cast(sa.func.floor((outcome.c.collected - first) / width), sa.Integer)
    rows = connection.execute(
        sa.select(number.label("bin"), outcome.c.state, sa.func.count().label("n"))
        .join(job, job.c.id == outcome.c.job)
        .where(_of(name))
        .group_by(number, outcome.c.state)
    )
    bins = [{"succeeded": 0, "failed": 0} for _ in range(_BINS)]
    for r in rows:
        bins[min(r.bin, _BINS - 1)][r.state] += int(r.n)
    return {"begin": first, "bin_s": width, "bins": bins}


def _histogram(connection: Connection, name: str) -> dict[str, list[int]]:
    """Accepted quanta by wall time, by label; bins as of `EDGES_S`."""
    number = sa.case(*((outcome.c.wall_s < edge, n) for n, edge in enumerate(EDGES_S)), else_=len(EDGES_S))
    rows = connection.execute(
        sa.select(quantum.c.label, number.label("bin"), sa.func.count().label("n"))
        .join(accepted, accepted.c.quantum == quantum.c.id)
        .join(outcome, accepted_outcome())
        .where(quantum.c.campaign == name, quantum.c.current)
        .group_by(quantum.c.label, number)
    )
    found: dict[str, list[int]] = {}
    for r in rows:
        found.setdefault(r.label, [0] * (len(EDGES_S) + 1))[r.bin] = int(r.n)
    return found
