"""What Airflow is told about this package (entry point `apache_airflow_provider`)."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from operators.htcondor.settings import CONNECTION_TYPE, form_fields


def get_provider_info() -> dict[str, Any]:
    """Named by the entry point; read by every component at its start, so nothing heavy is imported here."""
    return {
        "package-name": "pachon",
        "name": "Pachón",
        "description": "Productions of a sky survey: campaigns, steps, gates; HTCondor pools for anybody",
        "versions": [version("pachon")],
        "integrations": [
            {
                "integration-name": "HTCondor",
                "external-doc-url": "https://htcondor.readthedocs.io/",
                "tags": ["software"],
            }
        ],
        "operators": [
            {"integration-name": "HTCondor", "python-modules": ["operators.htcondor.operator"]},
        ],
        "hooks": [{"integration-name": "HTCondor", "python-modules": ["operators.htcondor.hook"]}],
        "triggers": [{"integration-name": "HTCondor", "python-modules": ["operators.htcondor.trigger"]}],
        "connection-types": [
            {
                "connection-type": CONNECTION_TYPE,
                "hook-class-name": "operators.htcondor.hook.HTCondorHook",
                "hook-name": "HTCondor",
                "conn-fields": form_fields(),
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login", "extra"],
                    "relabeling": {"host": "Collector", "port": "Collector's port", "password": "Token (IDTOKEN)"},
                    "placeholders": {"host": "cm.example.org", "port": "9618", "token_directory": "/etc/condor/tokens.d"},
                },
            }
        ],
        "extra-links": [
            "operators.links.CampaignLink",
            "operators.htcondor.links.JobLogLink",
            "operators.htcondor.links.ClassAdLink",
        ],
    }
