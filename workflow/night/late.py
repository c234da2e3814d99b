"""What a night left undone, handed to offline: a campaign of its own, and its backlog in the ledger's table."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import sqlalchemy as sa

from backbone.messages.prompt import Mode
from workflow.campaigns import Campaigns
from workflow.errors import ProductionError
from workflow.ledger.nights import part, visit
from workflow.ledger.tables import backlog
from workflow.night import books
from workflow.night.nights import Nights
from workflow.night.states import PART_LEFT

STEP = "prompt"
"""Stands in the backlog for a step: these were no quanta yet."""
_DETECTORS = 1000
_NAMES = uuid.UUID("6d0f2f1e-54b5-5c0f-8a53-3a2f5e6f6a11")


def late_campaign(night: str) -> str:
    """Name of the campaign that does what a night left."""
    return f"{night}_late"


def part_number(visit: int, detector: int) -> int:
    """A visit on one detector as one number, as the production's queries make it."""
    if not 0 <= detector < _DETECTORS:
        raise ProductionError(f"detector {detector}: nights are handed over for detectors 0 to {_DETECTORS - 1}")
    return visit * _DETECTORS + detector


def hand_over(nights: Nights, campaigns: Campaigns, name: str, production: Path, actor: str) -> str | None:
    """Hand the visits that a closed night left to offline; None if it left nothing. Twice is the same as once.

    The campaign is made, released by nobody yet (the DAG `offline` does), then its backlog and the hand-over in the prompt ledger
    are written in one transaction.
    """
    status = nights.status(name)
    if not status.ended:
        raise ProductionError(
            f"night {name} is {status.state}: only a closed one can be handed over; `pachon night drain {name}`"
        )
    left = _left(nights, name)
    if not left:
        return None
    campaign = late_campaign(name)
    parameters = {
        "instrument": status.instrument,
        "day_obs": status.day_obs,
        "skymap": nights.rows(name)[0].skymap,
        "parts": sorted({part_number(exposure, row.detector) for row in left for exposure in row.exposures}),
    }
    campaigns.start(production, name=campaign, parameters=parameters, actor=actor, release="none")
    now = nights.clock.now()
    new = [row for row in left if row.handed != campaign]  # what was handed may be done by now
    if not new:
        return campaign
    with nights.ledger.begin() as connection:
        nights.ledger.insert_new(connection, backlog, [_entry(row, campaign, actor, now) for row in new])
        for row in new:
            where = sa.and_(part.c.night == name, part.c.visit == row.visit, part.c.detector == row.detector)
            connection.execute(part.update().where(where).values(handed=campaign))
        books.tell(connection, name, now, "handed", f"{len(new)} parts of visits handed to offline, campaign {campaign}")
    return campaign


def settle(nights: Nights, campaign: str) -> None:
    """The campaign of a hand-over has succeeded: what was handed is no backlog any more."""
    with nights.ledger.begin() as connection:
        connection.execute(backlog.delete().where(backlog.c.campaign == campaign, backlog.c.step == STEP))


def _left(nights: Nights, name: str) -> list[books.Row]:
    """Calibration exposures are left to the calibration productions, which take every frame."""
    query = (
        sa.select(part, visit.c.exposures)
        .join(visit, sa.and_(visit.c.night == part.c.night, visit.c.visit == part.c.visit))
        .where(part.c.night == name, part.c.state.in_([s.value for s in PART_LEFT]), visit.c.mode != Mode.CALIBRATION.value)
        .order_by(part.c.visit, part.c.detector)
    )
    return nights.ledger.all(query)


def _entry(row: books.Row, campaign: str, actor: str, now: float) -> dict[str, object]:
    data_id = {"visit": row.visit, "detector": row.detector}
    return {
        "quantum": str(uuid.uuid5(_NAMES, f"{row.night}/{row.visit}/{row.detector}")),
        "campaign": campaign,
        "owner": actor,
        "step": STEP,
        "label": row.stage or "waiting",
        "visit": row.visit,
        "detector": row.detector,
        "data_id": json.dumps(data_id),
        "reason": row.reason,
        "at": now,
    }
