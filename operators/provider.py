"""What Airflow is told about this package (entry point `apache_airflow_provider`)."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Named by the entry point; read by every component at its start, so nothing heavy is imported here."""
    return {
        "package-name": "pachon",
        "name": "Pachón",
        "description": "Productions of a sky survey: campaigns, steps, gates",
        "versions": [version("pachon")],
        "extra-links": ["operators.links.CampaignLink"],
    }
