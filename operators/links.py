"""The button `Campaign report` of a task, and where it leads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey

PREFIX = "/pachon"


def report_url(campaign: str) -> str:
    """Address of a campaign's page (operators/pages.py), below the API server's own."""
    return f"{PREFIX}/campaigns/{quote(campaign, safe='')}"


class CampaignLink(BaseOperatorLink):  # type: ignore[misc]
    """Leads to the report of the campaign that the operator names in its attribute `campaign`."""

    name = "Campaign report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Asked by Airflow in the task's own process when it ends; the web UI reads what was stored then."""
        campaign = getattr(operator, "campaign", "")
        return report_url(campaign) if isinstance(campaign, str) and campaign else ""


def persist_link(context: Context, campaign: str) -> None:
    """Store the link now, before waiting: Airflow itself would store it only when the task has ended."""
    ti: Any = context["ti"]
    ti.xcom_push(key=CampaignLink().xcom_key, value=report_url(campaign))


class NightLink(BaseOperatorLink):  # type: ignore[misc]
    """Leads to the live page of the night that the operator names in its attribute `night`."""

    name = "Night"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """As of CampaignLink."""
        night = getattr(operator, "night", "")
        return night_url(night) if isinstance(night, str) and night else ""


def night_url(night: str) -> str:
    """Address of a night's page (operators/night_pages.py)."""
    return f"{PREFIX}/nights/{quote(night, safe='')}"


def persist_night_link(context: Context, night: str) -> None:
    """As persist_link."""
    ti: Any = context["ti"]
    ti.xcom_push(key=NightLink().xcom_key, value=night_url(night))
