"""Where the engine is: the home of this Airflow's installation, and its campaigns."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from backbone.errors import PermanentError

if TYPE_CHECKING:
    from workflow.campaigns import Campaigns


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


def campaigns() -> Campaigns:
    """The campaigns of this Airflow's home."""
    return open_campaigns(home())
