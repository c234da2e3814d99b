"""Where the groups of a step go, as the ledger has it: decided once (workflow/broker.py), waiting until the inputs are there."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from workflow import staging
from workflow.broker import Decision, SiteFacts, Word, choose, shares
from workflow.campaign import Work
from workflow.ledger import tables
from workflow.ledger.tables import placement, site_word

_LOG = logging.getLogger(__name__)
_HELPLESS = 10  # times as many groups as are staged ahead are looked at though nothing can be done for them


def newest(context: Any, campaign: str, group_row: Any) -> Any:
    """The placement of a group that counts; None if it has none."""
    where = (
        placement.c.campaign == campaign,
        placement.c.step == group_row.step,
        placement.c.generation == group_row.generation,
        placement.c.group_ == group_row.name,
    )
    rows = context.ledger.all(sa.select(placement).where(*where).order_by(placement.c.ordinal.desc()).limit(1))
    return rows[0] if rows else None


class Words:
    """What the production and operators say about sites and machines, read once a round."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def of(self, step: str, group: str) -> Word:
        """About one group: what is said of all first, the narrowest word last."""
        production, sites = self._work.production, [site.name for site in self._work.context.settings.sites]
        word = Word(
            only=tuple(site for site in production.only_sites if site in sites),
            never=production.never_sites,
            only_machines=production.only_machines,
            never_machines=production.never_machines,
        )
        for scope in (("", ""), (step, ""), (step, group)):
            word += self._said.get(scope, Word())
        return word

    @cached_property
    def _said(self) -> dict[tuple[str, str], Word]:
        rows = self._work.context.ledger.all(sa.select(site_word).where(site_word.c.campaign == self._work.name))
        return {
            (r.step, r.group_): Word(
                only=tuple(r.only_sites),
                never=tuple(r.never_sites),
                only_machines=tuple(r.only_machines),
                never_machines=tuple(r.never_machines),
            )
            for r in rows
        }


class Broker:
    """The sites of one step's groups, in one round of the engine."""

    def __init__(self, work: Work, step_row: Any, slots: Mapping[str, int]) -> None:
        self._work, self._step, self._slots = work, step_row, slots
        self._settings = work.context.settings
        self._sites = tuple(site.name for site in self._settings.sites)
        self._share = shares(work.production.share, self._sites)
        self._words = Words(work)
        self._waits: list[str] = []
        self._asked = 0
        """Groups that wait for inputs which are on their way."""
        self._helpless = 0
        """Groups whose inputs are stuck, or that no site may have."""

    @property
    def looks_ahead(self) -> bool:
        """Whether inputs may have to be moved, so that it is worth asking before there are slots."""
        return staging.moves_files(self._work.context)

    def look_ahead(self, group_rows: Iterable[Any]) -> None:
        """Place the next groups and have their inputs staged while others run."""
        for group_row in group_rows:
            if self.has_asked_enough:
                return
            self.sites_of(group_row)

    @property
    def has_asked_enough(self) -> bool:
        """Whether no further group will get a site in this round. What only a person can help keeps few others from theirs."""
        ahead = self._settings.broker.groups_ahead
        return self._asked >= ahead or self._helpless >= _HELPLESS * ahead

    def sites_of(self, group_row: Any) -> tuple[str, ...]:
        """Where a group's jobs may go now; none while its inputs are on their way, or no site is allowed."""
        word = self._words.of(group_row.step, group_row.name)
        if not (self._share or self.looks_ahead):
            return tuple(site for site in self._sites if word.allows(site))
        if self.has_asked_enough:
            return ()
        row = newest(self._work.context, self._work.name, group_row)
        if row is None or not word.allows(row.site) or row.site not in self._sites:
            row = self._place(group_row, word, row)
        if row is None:
            self._helpless += 1
            return ()
        return (row.site,) if self._is_staged(group_row, row) else ()

    def tell(self) -> None:
        """Say in the step's row what its groups wait for; nothing where none of them waits."""
        more = f" (and {len(self._waits) - 1} more groups)" if len(self._waits) > 1 else ""
        self._work.say(self._step, f"{self._waits[0]}{more}" if self._waits else "")

    @cached_property
    def _counts(self) -> dict[str, int]:
        """Groups of the campaign by the site where they are."""
        newer = placement.alias("newer")
        replaced = (
            sa.select(newer.c.ordinal)
            .where(
                *(newer.c[name] == placement.c[name] for name in ("campaign", "step", "generation", "group_")),
                newer.c.ordinal > placement.c.ordinal,
            )
            .correlate(placement)
            .exists()
        )
        query = (
            sa.select(placement.c.site, sa.func.count().label("n"))
            .where(placement.c.campaign == self._work.name, ~replaced)
            .group_by(placement.c.site)
        )
        return {r.site: r.n for r in self._work.context.ledger.all(query)}

    @cached_property
    def _groups_in_all(self) -> int:
        query = sa.select(sa.func.count()).select_from(tables.group).where(tables.group.c.campaign == self._work.name)
        return int(self._work.context.ledger.all(query)[0][0])

    def _place(self, group_row: Any, word: Word, before: Any) -> Any:
        """Decide and note it; None where no site is allowed."""
        context = self._work.context
        inputs = staging.read_inputs(context, group_row.graph_key) if self.looks_ahead else staging.Inputs(sizes={})
        facts = self._facts(inputs)
        decision = choose(facts, word=word, share=self._share, groups_in_all=self._groups_in_all, input_bytes=inputs.total_bytes)
        if decision.site is None:
            self._waits.append(f"group {group_row.name}: {decision.reason}")
            return None
        self._note(group_row, decision, 0 if before is None else before.ordinal + 1)
        self._counts[decision.site] = self._counts.get(decision.site, 0) + 1
        if before is not None:
            self._counts[before.site] = self._counts.get(before.site, 0) - 1
        _LOG.info("campaign %s, step %s: group %s goes to %s", self._work.name, group_row.step, group_row.name, decision.reason)
        return newest(context, self._work.name, group_row)

    def _facts(self, inputs: staging.Inputs) -> list[SiteFacts]:
        context, present = self._work.context, {}
        for name in self._sites:
            endpoint = self._settings.site(name).endpoint_name
            if not self.looks_ahead or endpoint == self._settings.archive_name:
                present[name] = inputs.total_bytes
            else:
                here = context.backbone.present(list(inputs.sizes), endpoint)
                present[name] = sum(inputs.sizes[key] for key in here)
        return [
            SiteFacts(
                name=name,
                groups=self._counts.get(name, 0),
                present_bytes=present[name],
                free_slots=max(0, self._slots.get(name, 0)),
            )
            for name in self._sites
        ]

    def _note(self, group_row: Any, decision: Decision, ordinal: int) -> None:
        row = {
            "campaign": self._work.name,
            "step": group_row.step,
            "generation": group_row.generation,
            "group_": group_row.name,
            "ordinal": ordinal,
            "site": decision.site,
            "reasons": decision.as_json(),
            "at": self._work.context.clock.now(),
            "rules": [],
        }
        with self._work.lock.begin() as connection:
            connection.execute(placement.insert(), [row])

    def _is_staged(self, group_row: Any, row: Any) -> bool:
        """Whether all that the group's jobs read is at its site, asking for it where that was not done yet."""
        if not self.looks_ahead or (row.staged is not None and row.ordinal == 0):
            return True
        context = self._work.context
        rules = list(row.rules)
        if row.staged is None and not rules:
            rules = staging.require_inputs(self._work, group_row, row.site, row.ordinal)
        words = ""
        if row.ordinal:
            more = staging.require_parents(self._work, group_row, row.site, row.ordinal)
            words = "jobs of it still run elsewhere" if more is None else ""
            rules += [name for name in more or () if name not in rules]
        words = words or staging.progress_words(context, rules)
        self._update(row, rules, words)
        if words:
            if staging.is_stuck(context, rules):
                self._helpless += 1
            else:
                self._asked += 1
            self._waits.append(f"group {group_row.name} at {row.site}: {words}")
        return not words

    def _update(self, row: Any, rules: Sequence[str], words: str) -> None:
        staged = None if words else row.staged or self._work.context.clock.now()
        if (list(row.rules), row.waits, row.staged) != (list(rules), words, staged):
            with self._work.lock.begin() as connection:
                values = {"rules": list(rules), "waits": words, "staged": staged}
                connection.execute(placement.update().where(*staging.same_placement(row)).values(**values))
