"""What a DAG run was asked: its conf, read and of the kind that an operator understands."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from airflow.sdk.exceptions import AirflowFailException

from operators import conf

if TYPE_CHECKING:
    from airflow.sdk import Context

Kind = TypeVar("Kind", bound=conf.Conf)


def asked(context: Context, kind: type[Kind], about: str) -> Kind:
    """The conf of this run; the task fails for good, with the reason, where it is wrong or not `about` what `kind` is."""
    run = context["dag_run"]
    try:
        found = conf.read(run.dag_id, dict(context["params"]), run.run_after)
    except conf.ConfError as error:
        raise AirflowFailException(str(error)) from error
    if not isinstance(found, kind):
        raise AirflowFailException(f"{run.dag_id} is not about {about}")
    return found
