"""One round of the engine over one campaign. Killed anywhere, called twice, started elsewhere: the same end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from backbone.errors import PermanentError, TransientError
from workflow import nulls, planner, replan, stage_out, staging
from workflow.campaign import Work, load
from workflow.context import Context
from workflow.dispatch import dispatch, submit_prepared
from workflow.errors import EmptyGraph
from workflow.finish import finish
from workflow.jobs import follow_jobs, kill_jobs
from workflow.ledger import tables
from workflow.ledger.counts import fold, tallied
from workflow.ledger.store import record
from workflow.ledger.tables import group, outbox, quantum
from workflow.lock import LockLost, locked
from workflow.planner import Complaints
from workflow.publisher import RefCache, publish
from workflow.states import (
    CAMPAIGN_TABLE,
    CAMPAIGN_TERMINAL,
    QUANTUM_IN_JOB,
    QUANTUM_TABLE,
    STEP_TABLE,
    STEP_TERMINAL,
    CampaignState,
    QuantumState,
    StepState,
    follow,
    sources,
)
from workflow.sweep import sweep

_LOG = logging.getLogger(__name__)
_WAITING = (QuantumState.READY, QuantumState.UNREADY)


class Advancer:
    """Advances campaigns; keeps between rounds only what can be read again."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._refs = RefCache()

    def advance(self, name: str) -> bool:
        """One round; False where another engine holds the campaign. What may pass by itself is left to the next."""
        with locked(self._context.ledger, self._context.clock, name, self._context.engine.lock_s) as lock:
            if lock is None:
                return False
            try:
                self._round(load(self._context, lock))
            except LockLost:
                raise
            except TransientError as error:
                _LOG.warning("campaign %s: this round is not complete, the next will go on: %s", name, error)
        return True

    def _round(self, work: Work) -> None:
        if work.state is CampaignState.CANCELLED or (work.state is CampaignState.PAUSED and work.hold == "hold"):
            kill_jobs(work)
        else:
            submit_prepared(work)
        follow_jobs(work)
        publish(work, self._refs)
        if work.state is CampaignState.CANCELLED:
            _delete_rest(work)
        elif work.state is CampaignState.READY:
            _move(work, "advance")
            self._steps(replace(work, state=CampaignState.RUNNING))
        elif work.state is CampaignState.RUNNING:
            self._steps(work)
        self._refs.prepare()
        sweep(work)
        staging.release_ended(work)
        with work.lock.begin() as connection:
            fold(connection, work.name)

    def _steps(self, work: Work) -> None:
        """The first step that has not ended is the one to work on."""
        for row in work.step_rows():
            state = StepState(row.state)
            if state is StepState.SUCCEEDED:
                continue
            if state is StepState.FAILED:
                _move(work, "fail", f"step {row.name} failed: {row.reason}")
                return
            if state is StepState.UNREADY and row.released:
                with work.lock.begin() as connection:
                    state = work.move_step(connection, row, "ready")
                row = _again(work, row)
            if state is StepState.READY:
                state = _plan(work, row, self._refs)
                row = _again(work, row)
                if state is StepState.READY and row.generation == 1:  # the first groups run while the others are planned
                    _dispatch(work, row)
            if state is StepState.RUNNING:
                state = _run(work, row)
            if state is not StepState.SUCCEEDED:
                if state is StepState.FAILED:
                    _move(work, "fail", f"step {row.name} failed: {_again(work, row).reason}")
                return
        _move(work, "succeed")


def _again(work: Work, row: Any) -> Any:
    return next(r for r in work.step_rows() if r.name == row.name)


def _move(work: Work, event: str, reason: str = "") -> None:
    """Move the campaign, unless an operator has done something meanwhile that makes it wrong: the next round looks again."""
    state = follow(CAMPAIGN_TABLE, work.state, event)
    now = work.context.clock.now()
    with work.lock.begin() as connection:
        where = [tables.campaign.c.name == work.name, tables.campaign.c.state == work.state.value]
        if event == "succeed":
            unlike = (tables.step.c.campaign == work.name, tables.step.c.state != StepState.SUCCEEDED.value)
            where.append(~sa.exists().where(*unlike))
        moved = connection.execute(
            tables.campaign.update()
            .where(*where)
            .values(state=state.value, reason=reason, ended=now if state in CAMPAIGN_TERMINAL else None)
        ).rowcount
        if not moved:
            return
        record(connection, at=now, actor="engine", campaign=work.name, what=f"{event}: {state.value}", why=reason)
    _LOG.info("campaign %s is %s %s", work.name, state.value, reason)


def _plan(work: Work, row: Any, refs: RefCache) -> StepState:
    """Plan what is not planned yet, group by group; the step runs once all of it is in the ledger."""
    keys = None
    if row.generation > 1:
        if words := replan.waits(work, row):
            work.say(row, words)
            return StepState.READY
        replan.begin(work, row)
        keys = replan.wanted(work, row)
    plan = work.plan_of(row, work.runs_before(row.ordinal))
    complaints = Complaints()
    try:
        with complaints.listening():
            total, all_done = _plan_groups(work, plan, refs, keys)
        if not all_done:
            return StepState.READY
        if total or row.coverage:
            return _step_moves(work, row, "planned")
        error = planner.empty(plan, complaints.lines)
        if not work.step(row.name).allow_empty:
            raise error
        return _step_moves(work, row, "empty", f"nothing to do: {error}")
    except PermanentError as error:
        kind = "" if isinstance(error, EmptyGraph) else f"{type(error).__name__}: "
        return _step_moves(work, row, "fail", f"{kind}{error}")


def _plan_groups(
    work: Work, plan: planner.StepPlan, refs: RefCache, keys: dict[str, dict[replan.Key, Any]] | None = None
) -> tuple[int, bool]:
    """How many quanta the step's generation has by now, and whether that is all; with `keys` those alone, by group.

    Groups are planned for a while, and at least one of them; what the jobs of earlier groups report waits no longer than that.
    """
    context = work.context
    where = (group.c.campaign == plan.campaign, group.c.step == plan.step, group.c.generation == plan.generation)
    known = {r.name: r.quanta for r in context.ledger.all(sa.select(group.c.name, group.c.quanta).where(*where))}
    planned_now, first, until = False, not known, time.monotonic() + context.engine.plan_slice_s
    for one in nulls.groups(plan) if nulls.is_null(plan) else planner.groups(context.butler, plan):
        if one.name in known or (keys is not None and one.name not in keys):
            continue
        if planned_now and time.monotonic() > until:
            return sum(known.values()), False
        work.lock.renew()
        planned = _planned(context, plan, one, first=first)
        if planned is not None and keys is not None:
            planned = replan.narrowed(planned, keys[one.name])
        if planned is None:
            continue
        first = False
        staging.note_inputs(context, planned)
        with work.lock.begin() as connection:
            planner.write(context.ledger, connection, planned)
        if planned.graph is not None:
            refs.planned(planned.row["graph_key"], planned.graph)
        known[one.name], planned_now = planned.row["quanta"], True
        _LOG.info("campaign %s, step %s: group %s has %d quanta", plan.campaign, plan.step, one.name, known[one.name])
    return sum(known.values()), True


def _planned(context: Context, plan: planner.StepPlan, one: planner.Group, *, first: bool) -> planner.PlannedGroup | None:
    now = context.clock.now()
    if nulls.is_null(plan):
        return nulls.plan_group(plan, one, now=now)
    several = staging.moves_files(context)
    return planner.plan_group(context.butler, context.archive, plan, one, now=now, first=first, note_files=several)


def _step_moves(work: Work, row: Any, event: str, reason: str = "", *, unless: Iterable[QuantumState] = ()) -> StepState:
    """Move a step, `unless` a current quantum of it is in one of these states by now: an operator's retry may revive some at any
    moment, and what finishes a step takes its time.
    """
    with work.lock.begin() as connection:
        if any(connection.execute(_one(work, row, state)).first() for state in unless):
            return StepState(row.state)
        state = work.move_step(connection, row, event, reason)
        if event == "planned":
            replan.settle(work, connection, row)
        now = work.context.clock.now()
        what = f"step {row.name}: {event}: {state.value}"
        record(connection, at=now, actor="engine", campaign=work.name, what=what, why=reason)
    _LOG.info("campaign %s, step %s is %s %s", work.name, row.name, state.value, reason)
    return state


def _run(work: Work, row: Any) -> StepState:
    """Dispatch, or end the step when nothing of it is open and all that is accepted is published."""
    if _dispatch(work, row):
        return StepState.RUNNING
    if _any(work, row, QUANTUM_IN_JOB) or _unpublished(work):
        work.say(row, stage_out.outward_words(work))
        return StepState.RUNNING
    counts = _counts(work, row)
    failed = counts.get(QuantumState.FAILED, 0)
    if _stopping(work, row):
        waiting = sum(counts.get(state, 0) for state in _WAITING)
        pruned = counts.get(QuantumState.PRUNED, 0)
        return _step_moves(work, row, "fail", f"{failed} quanta failed, {pruned} pruned, {waiting} not begun; see the report")
    try:
        finish(work, row)
    except PermanentError as error:
        return _step_moves(work, row, "fail", f"{type(error).__name__}: {error}")
    words = f"{failed} quanta failed, as its rules allow" if failed else ""
    return _step_moves(work, row, "succeed", words, unless=(*_WAITING, *QUANTUM_IN_JOB))


def _dispatch(work: Work, row: Any) -> bool:
    """Send what can run; whether anything waits that may still be sent, now or later."""
    if not _any(work, row, _WAITING) or _stopping(work, row):
        return False
    dispatch(work, row)
    submit_prepared(work)
    return True


def _stopping(work: Work, row: Any) -> bool:
    """Whether the step's rules end it for what has failed."""
    return work.step(row.name).on_failure == "stop" and _any(work, row, (QuantumState.FAILED,))


def _any(work: Work, row: Any, states: Iterable[QuantumState]) -> bool:
    """Whether any current quantum of a step is in one of these states, none of which may be SUCCEEDED."""
    return any(work.context.ledger.all(_one(work, row, state)) for state in states)


def _one(work: Work, row: Any, state: QuantumState) -> sa.Select[Any]:
    """Of one state: a look at the beginning of a range of the index."""
    mine = (quantum.c.campaign == work.name, quantum.c.step == row.name, tables.UNFINISHED)
    return sa.select(quantum.c.id).where(*mine, quantum.c.state == state.value).limit(1)


def _counts(work: Work, row: Any) -> dict[QuantumState, int]:
    query = tallied(tables.tally.c.state).where(tables.tally.c.campaign == work.name, tables.tally.c.step == row.name)
    return {QuantumState(r.state): r.n for r in work.context.ledger.all(query)}


def _unpublished(work: Work) -> bool:
    where = (outbox.c.campaign == work.name, outbox.c.published.is_(None))
    return bool(work.context.ledger.all(sa.select(outbox.c.seq).where(*where).limit(1)))


def _delete_rest(work: Work) -> None:
    """Of a cancelled campaign: quanta that no job has, and steps that have not ended."""
    before, after = sources(QUANTUM_TABLE, "cancel")
    idle = [state for state in before if state not in QUANTUM_IN_JOB]
    with work.lock.begin() as connection:
        connection.execute(
            quantum.update().where(quantum.c.campaign == work.name, quantum.c.state.in_(idle)).values(state=after, job=None)
        )
        for row in connection.execute(sa.select(tables.step).where(tables.step.c.campaign == work.name)).all():
            if StepState(row.state) not in STEP_TERMINAL:
                state = follow(STEP_TABLE, StepState(row.state), "cancel")
                connection.execute(
                    tables.step.update()
                    .where(tables.step.c.campaign == work.name, tables.step.c.name == row.name)
                    .values(state=state.value)
                )
