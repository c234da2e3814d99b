"""The approval of a release: a person says Approve or Reject in the web UI or through REST, and the ledger learns who."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator

from operators import conf

if TYPE_CHECKING:
    from airflow.sdk import Context

_log = logging.getLogger(__name__)
UNATTENDED = "demo"
"""Who approved, where the conf said auto_approve."""


class ApprovalGate(ApprovalOperator):  # type: ignore[misc]
    """Waits for a person; returns who approved, for the operators that follow. Rejected, it fails: nothing after it may run.

    No timeout: a release waits for its reviewer. With `auto_approve` in the run's conf nobody is asked and the approver is
    `demo`.
    """

    def __init__(self, *, conf_of: str, **kwargs: Any) -> None:
        super().__init__(fail_on_reject=True, **kwargs)
        self.conf_of = conf_of

    def execute(self, context: Context) -> str:
        """Ask, unless the conf says that nobody needs to be asked."""
        asked = conf.read(self.conf_of, dict(context["params"]), context["dag_run"].run_after)
        if getattr(asked, "auto_approve", False):
            _log.warning("approved without a person, since the run's conf says auto_approve; approver: %s", UNATTENDED)
            return UNATTENDED
        super().execute(context)
        raise AssertionError("the operator of Airflow waits by raising")

    def execute_complete(self, context: Context, event: dict[str, Any]) -> str:
        """The answer: raises on Reject, else the name of who approved."""
        answer = super().execute_complete(context, event)
        name = str((answer["responded_by_user"] or {}).get("name", "unknown"))
        _log.info("approved by %s", name)
        return name
