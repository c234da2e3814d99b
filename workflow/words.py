"""Operators' words about sites and machines: for a campaign, one of its steps, or one group; a newer word replaces the older."""

from __future__ import annotations

import re
from collections.abc import Sequence

import sqlalchemy as sa

from workflow.broker import Word
from workflow.context import Context
from workflow.errors import ConflictError, UnknownCampaign
from workflow.ledger import tables
from workflow.ledger.store import record
from workflow.ledger.tables import site_word
from workflow.models import nearest

_HOST = re.compile(r"[A-Za-z0-9_.-]+")


def say(context: Context, campaign: str, word: Word, *, actor: str, step: str = "", group: str = "", why: str = "") -> None:
    """Note the word: from the engine's next round on, no group of that scope goes where it forbids. Jobs that run are left alone.

    ConflictError for a site there is not, what is no host name, or where no site would be left; UnknownCampaign for what the
    ledger does not have.
    """
    names = [site.name for site in context.settings.sites]
    for site in (*word.only, *word.never):
        if site not in names:
            raise ConflictError(f"campaign {campaign}: there is no site {site!r}; {nearest(site, names)}")
    for machine in (*word.only_machines, *word.never_machines):
        if not _HOST.fullmatch(machine):
            raise ConflictError(f"campaign {campaign}: {machine!r} is no host name: letters, digits and _ . - alone")
    if not any(word.allows(name) for name in names):
        raise ConflictError(f"campaign {campaign}: no site would be left of {', '.join(names)}")
    if group and not step:
        raise ConflictError(f"campaign {campaign}: group {group!r} of which step? name it too")
    values = {
        "only_sites": list(word.only),
        "never_sites": list(word.never),
        "only_machines": list(word.only_machines),
        "never_machines": list(word.never_machines),
        "actor": actor,
        "why": why,
        "at": context.clock.now(),
    }
    with context.ledger.begin() as connection:
        _check(connection, campaign, step)
        scope = (site_word.c.campaign == campaign, site_word.c.step == step, site_word.c.group_ == group)
        connection.execute(site_word.delete().where(*scope))
        connection.execute(site_word.insert().values(campaign=campaign, step=step, group_=group, **values))
        what = f"sites{f' of {step}' if step else ''}{f' {group}' if group else ''}: {in_words(word)}"
        record(connection, at=context.clock.now(), actor=actor, campaign=campaign, what=what, why=why)


def in_words(word: Word) -> str:
    """A word as people read it."""
    parts: list[tuple[str, Sequence[str]]] = [
        ("only", word.only),
        ("never", word.never),
        ("only machines", word.only_machines),
        ("never machines", word.never_machines),
    ]
    return "; ".join(f"{what} {', '.join(names)}" for what, names in parts if names) or "anywhere"


def _check(connection: sa.Connection, campaign: str, step: str) -> None:
    if connection.execute(sa.select(tables.campaign.c.name).where(tables.campaign.c.name == campaign)).first() is None:
        raise UnknownCampaign(f"the ledger has no campaign {campaign!r}; `pachon campaign list` shows those it has")
    steps = list(connection.execute(sa.select(tables.step.c.name).where(tables.step.c.campaign == campaign)).scalars())
    if step and step not in steps:
        raise UnknownCampaign(f"campaign {campaign} has no step {step!r}; {nearest(step, steps)}")
