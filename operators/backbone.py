"""The data backbone in DAGs: ask for files at a place and wait, scrub, sweep, let expire, and say what is stuck.

Thin: each calls the backbone of the home. Movers do the moving, whether Airflow runs or not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk import BaseOperator, BaseSensorOperator
from airflow.sdk.exceptions import AirflowFailException

from backbone.errors import PermanentError
from operators import conf, engine
from operators.backbone_triggers import Code, RulesEvent, RulesTrigger, judge
from operators.campaign import actor_of

if TYPE_CHECKING:
    from airflow.sdk import Context

_log = logging.getLogger(__name__)
T = TypeVar("T")


def _finish(event: RulesEvent, names: Sequence[str]) -> dict[str, Any]:
    if event.code != Code.DONE:
        raise AirflowFailException(
            f"rules {', '.join(names)}: {event.code}, {event.ok} of {event.total} files are there, {event.stuck} stuck: "
            f"{event.reason or 'no reason given'}. Next: `pachon backbone transfers --state STUCK`, mend, `--retry`, clear"
        )
    return event.payload()


class RulesSensor(BaseSensorOperator):  # type: ignore[misc]
    """Waits, without holding a slot, until every file of the named rules is whole where it should be; fails if the rest is stuck.

    Any number of these cost one query a tick.
    """

    template_fields: Sequence[str] = ("rules",)

    def __init__(self, *, rules: Any, poll_s: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rules = rules
        self.poll_s = poll_s

    def execute(self, context: Context) -> dict[str, Any]:
        """Look once, then defer."""
        names = [self.rules] if isinstance(self.rules, str) else list(self.rules)
        try:
            event = judge(engine.open_backbone(engine.home()).progress(names).values())
        except PermanentError as error:
            raise AirflowFailException(str(error)) from error
        if event is not None:
            return _finish(event, names)
        self.defer(trigger=RulesTrigger(engine.home(), names, self.poll_s), method_name="resume")
        return {}

    def resume(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """After the trigger."""
        return _finish(RulesEvent.read(event), [self.rules] if isinstance(self.rules, str) else list(self.rules))


class ReplicateOperator(RulesSensor):
    """Asks for files at an endpoint by a deadline, as a rule of its own, and waits until they are there."""

    template_fields: Sequence[str] = ("rules", "keys", "at")

    def __init__(self, *, rule: str, keys: Any, at: str, within_s: float = 3600.0, priority: int = 70, **kwargs: Any) -> None:
        super().__init__(rules=rule, **kwargs)
        self.keys, self.at, self.within_s, self.priority = keys, at, within_s, priority

    def execute(self, context: Context) -> dict[str, Any]:
        """Ask (twice is once), then wait."""
        backbone = engine.open_backbone(engine.home())
        try:
            by = backbone.now() + self.within_s
            backbone.require(self.rules, list(self.keys), self.at, by=by, priority=self.priority, actor=actor_of(context))
        except PermanentError as error:
            raise AirflowFailException(f"rule {self.rules}: {error}") from error
        return super().execute(context)


class _Care(BaseOperator):  # type: ignore[misc]
    """Looks after the endpoint that the run's conf names, or after all."""

    def asked(self, context: Context) -> conf.Care:
        """The run's conf."""
        try:
            return conf.read_care(context["dag_run"].dag_id, dict(context["params"]))
        except PermanentError as error:
            raise AirflowFailException(str(error)) from error


class SweepOperator(_Care):
    """Finds and settles what does not fit: objects without a row, rows without an object, puts that broke off."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """One sweep of each endpoint."""
        backbone = engine.open_backbone(engine.home())

        def sweep(name: str) -> dict[str, Any]:
            # Below `_a/` are the attempts of running jobs, which the engine registers or sweeps itself.
            report = asdict(backbone.sweep(name, ignore=lambda key: key.startswith("_a/"), actor=actor_of(context)))
            _log.info("%s: %s", name, report)
            return {"endpoint": name, **report}

        return _of_each(_names(backbone, self.asked(context)), sweep)


class RepairOperator(_Care):
    """Asks again for what is damaged, and fails where no good copy is left of something."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """One look at each damaged replica."""
        from backbone.repair import Repair

        backbone = engine.open_backbone(engine.home())
        names = _names(backbone, self.asked(context))
        actor = actor_of(context)
        found = _of_each(names, lambda name: Repair(backbone.catalog, backbone.endpoint(name), actor=actor).run())
        for report in found:
            _log.info("%s", report)
        hopeless = [example for report in found for example in report.examples if report.hopeless]
        if hopeless:
            raise AirflowFailException(f"of {sum(r.hopeless for r in found)} files no whole copy is left: {'; '.join(hopeless)}")
        return [asdict(report) for report in found]


class ScrubOperator(_Care):
    """Reads objects again at a set pace, from where the last run stopped; what is damaged is made again from good copies."""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """A run's share of scrubbing, the time divided among the endpoints."""
        from backbone.scrub import Scrub

        asked = self.asked(context)
        if not isinstance(asked, conf.Scrubbing):
            raise AirflowFailException("the DAG of a ScrubOperator has the conf of backbone_scrub")
        backbone = engine.open_backbone(engine.home())
        names = _names(backbone, asked)
        bytes_per_s, limit_s = asked.mb_per_s * 1e6, asked.minutes * 60 / len(names)

        def scrub(name: str) -> dict[str, Any]:
            scrubber = Scrub(backbone.catalog, backbone.endpoint(name), actor=actor_of(context), bytes_per_s=bytes_per_s)
            report = scrubber.run(limit_s=limit_s)
            _log.info("%s", report)
            return asdict(report)

        return _of_each(names, scrub)


class ExpireOperator(_Care):
    """Works off what has come of age: copies asked for from an age on, copies whose time is over. Movers delete."""

    def execute(self, context: Context) -> dict[str, int]:
        """By due dates, never a scan."""
        copied, expired = engine.open_backbone(engine.home()).work_off_ages()
        _log.info("%d copies asked for, %d due for deletion", copied, expired)
        return {"copies_asked_for": copied, "copies_due_for_deletion": expired}


class BacklogReportOperator(_Care):
    """What is on its way, by link, and what is stuck; fails when something is, so that a person looks."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Read, print, judge."""
        from backbone.page import verdict
        from backbone.usage import overview

        seen = overview(engine.open_backbone(engine.home()))
        for link in seen.links:
            _log.info("%s", link)
        wanted = self.asked(context).endpoint
        stuck = [x for x in seen.stuck if wanted in ("", x.target)]
        if stuck:
            reasons = "; ".join(sorted({f"{x.target}: {x.reason}" for x in stuck}))
            raise AirflowFailException(
                f"{len(stuck)} transfers are stuck: {reasons}. Mend, then `pachon backbone transfers --retry`"
            )
        return {"verdict": verdict(seen), "pending": sum(link.pending for link in seen.links)}


def _of_each(names: Sequence[str], care: Callable[[str], T]) -> list[T]:
    """What came of each endpoint. One that is not the place that the catalog knows fails the task, after the others."""
    from backbone.identity import seen_to

    found, refused = seen_to(names, care)
    if refused is not None:
        raise refused
    return found


def _names(backbone: Any, asked: conf.Care) -> list[str]:
    if not asked.endpoint:
        return list(backbone.endpoints)
    try:
        backbone.endpoint(asked.endpoint)
    except PermanentError as error:
        raise AirflowFailException(str(error)) from error
    return [asked.endpoint]
