"""From a year's calibrations to the release that follows: its conf and run id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from operators import conf

if TYPE_CHECKING:
    from airflow.sdk import Context


class ReleaseConfOperator(BaseOperator):  # type: ignore[misc]
    """Returns `run_id` and `conf` of the release; skipped, with all that follows, where the run names no release."""

    def execute(self, context: Context) -> dict[str, Any]:
        """From this run's own conf."""
        run = context["dag_run"]
        try:
            asked = conf.read(run.dag_id, dict(context["params"]), run.run_after)
            if not isinstance(asked, conf.Year) or not asked.release:
                raise AirflowSkipException("this run names no release: none follows")
            release = conf.read("release", asked.release_conf())
        except conf.ConfError as error:
            raise AirflowFailException(str(error)) from error
        return {"run_id": release.run_id("release"), "conf": release.model_dump(mode="json", exclude_defaults=True)}
