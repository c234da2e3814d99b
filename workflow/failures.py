"""What becomes of a quantum whose attempt failed: another try within a budget, or its end and that of its descendants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workflow import hosts
from workflow.campaign import Work
from workflow.job import Outcome
from workflow.ledger.audit import passive_finding
from workflow.ledger.tables import edge, outcome, quantum
from workflow.rules import Case, Passive, Policy, Verdict
from workflow.states import QUANTUM_IN_JOB, QUANTUM_TABLE, FailureClass, sources


def policy(work: Work, step: str) -> Policy:
    """Everything that the production, the step and the engine's settings say about a step's failures."""
    production, own, engine = work.production, work.step(step), work.context.engine
    narrow, wide = own.memory, production.memory
    return Policy(
        retries=production.retries.under(own.retries),
        memory_factor=(narrow and narrow.factor) or wide.factor or engine.memory_growth,
        memory_max_mb=min(engine.memory_max_mb, (narrow and narrow.max_mb) or wide.max_mb or engine.memory_max_mb),
        rules=production.rules,
    )


def judge(work: Work, connection: Connection, job: Any, failed: Sequence[Outcome]) -> None:
    """Give back or end the quanta of failed outcomes, which the ledger has already. What another job has by now stays its."""
    if not failed:
        return
    hosts.note(connection, work, job, failed)
    cases = _cases(work, connection, job, failed)
    rules = policy(work, job.step)
    by_verdict: dict[Verdict, list[str]] = {}
    findings: list[tuple[str, Passive, Verdict, str]] = []
    for one, case in cases.items():
        verdict, opinions = rules.judge(case)
        by_verdict.setdefault(verdict, []).append(one)
        findings += [(case.label, opinion, verdict, one) for opinion in opinions]
    for verdict, ids in by_verdict.items():
        if verdict.action == "fail":
            move(work, connection, "exhaust", ids)
            prune(work, connection, ids)
        else:
            give_back(work, connection, ids, **({} if verdict.memory_mb is None else {"memory_mb": verdict.memory_mb}))
    _note_passive(work, connection, job.step, findings)


def _cases(work: Work, connection: Connection, job: Any, failed: Sequence[Outcome]) -> dict[str, Case]:
    """What is to be decided, by quantum: those that are still this job's."""
    among = work.context.ledger.among
    where = (among(quantum.c.id, [o.quantum for o in failed]), quantum.c.job == job.id, quantum.c.state.in_(QUANTUM_IN_JOB))
    mine = {r.id: r.label for r in connection.execute(sa.select(quantum.c.id, quantum.c.label).where(*where))}
    counted = {
        (r.quantum, r.failure_class): r.n
        for r in connection.execute(
            sa.select(outcome.c.quantum, outcome.c.failure_class, sa.func.count().label("n"))
            .where(among(outcome.c.quantum, mine), outcome.c.state == "failed", ~outcome.c.forgiven)
            .group_by(outcome.c.quantum, outcome.c.failure_class)
        )
    }
    found = {}
    for one in failed:
        if one.quantum not in mine:
            continue
        failure = FailureClass(one.failure_class or FailureClass.INFRASTRUCTURE)
        found[one.quantum] = Case(
            step=job.step,
            label=mine[one.quantum],
            failure=failure,
            error=one.error,
            failures=counted[one.quantum, failure.value],
            memory_mb=job.memory_mb,
        )
    return found


def _note_passive(work: Work, connection: Connection, step: str, findings: Iterable[tuple[str, Passive, Verdict, str]]) -> None:
    """Count what passive rules would have done: a row for each kind of difference, however many quanta."""
    counts: Counter[tuple[Any, ...]] = Counter()
    examples: dict[tuple[Any, ...], str] = {}
    for label, opinion, verdict, one in findings:
        key = (label, opinion.rule, str(opinion.would), str(verdict))
        counts[key] += 1
        examples.setdefault(key, one)
    t = passive_finding.c
    for (label, rule, would, instead_of), n in counts.items():
        names = {"campaign": work.name, "step": step, "label": label, "rule": rule, "would": would, "instead_of": instead_of}
        row = {**names, "count": 0, "example": examples[label, rule, would, instead_of]}
        work.context.ledger.insert_new(connection, passive_finding, [row])
        where = (t[name] == value for name, value in names.items())
        connection.execute(passive_finding.update().where(*where).values(count=t.count + n))


def move(work: Work, connection: Connection, event: str, ids: Sequence[str], **values: Any) -> None:
    """Move quanta by the table, in one statement; those in another state by now are left alone."""
    if ids:
        before, after = sources(QUANTUM_TABLE, event)
        where = (work.context.ledger.among(quantum.c.id, ids), quantum.c.state.in_(before))
        connection.execute(quantum.update().where(*where).values(state=after, job=None, **values))


def give_back(work: Work, connection: Connection, ids: Sequence[str], **values: Any) -> None:
    """Let quanta be dispatched again."""
    move(work, connection, "give_back", ids, **values)


def prune(work: Work, connection: Connection, ended: Sequence[str]) -> None:
    """Give up all descendants of quanta that failed for good."""
    if not ended:
        return
    among = work.context.ledger.among
    below = sa.select(edge.c.child).where(among(edge.c.parent, ended)).cte("below", recursive=True)
    below = below.union(sa.select(edge.c.child).join(below, edge.c.parent == below.c.child))
    before, after = sources(QUANTUM_TABLE, "prune")
    connection.execute(
        quantum.update()
        .where(quantum.c.id.in_(sa.select(below.c.child)), quantum.c.state.in_(before))
        .values(state=after, job=None)
    )
