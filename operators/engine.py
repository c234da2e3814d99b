"""Where the engine is: the home of this Airflow's installation, its campaigns and its data backbone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from backbone.errors import PermanentError

if TYPE_CHECKING:
    from backbone.backbone import Backbone
    from workflow.campaigns import Campaigns
    from workflow.night.nights import Nights


class HomeUnknown(PermanentError):
    """The component was started without PACHON_HOME."""


def home() -> str:
    """The installation's home: `PACHON_HOME`, read when a task runs, never at import."""
    found = os.environ.get("PACHON_HOME")
    if not found:
        raise HomeUnknown("PACHON_HOME is not set for this Airflow component: start it with `pachon up --home DIR`, or set it")
    return found


def open_campaigns(home: str) -> Campaigns:
    """The campaigns of a home. Imported when first needed: DAG files import the operators, and must be read within a second."""
    from workflow.campaigns import Campaigns

    return Campaigns.open(home)


def open_nights(home: str) -> Nights:
    """The nights of a home, imported when first needed."""
    from workflow.night.nights import Nights

    return Nights.open(home)


def open_backbone(home: str) -> Backbone:
    """The data backbone of a home; NoBackbone if it has none. Imported when first needed, as above."""
    from backbone.home import open_backbone as opened

    return opened(Path(home))


def campaigns() -> Campaigns:
    """The campaigns of this Airflow's home."""
    return open_campaigns(home())


def nights() -> Nights:
    """The nights of this Airflow's home."""
    return open_nights(home())
