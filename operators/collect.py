"""What a night's processing found, to where others wait for it: sources to the repository, alerts to their subscribers."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from operators import conf, engine, science
from operators.asked import asked

if TYPE_CHECKING:
    from airflow.sdk import Context

_log = logging.getLogger(__name__)
SOURCES, ALERTS = ("night", "collect"), ("alerts", "collect")


class CollectOperator(BaseOperator):  # type: ignore[misc]
    """Runs `pachon COMMAND` for the instrument and day of this run; returns the numbers it prints. Twice is the same as once."""

    template_fields: Sequence[str] = ("command",)

    def __init__(self, *, command: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.command = tuple(command)

    def execute(self, context: Context) -> dict[str, Any]:
        """See the class."""
        day = asked(context, conf.Day, "an observing day")
        words = ("--home", engine.home(), "--instrument", day.instrument, "--day-obs", str(day.day_obs), "--json")
        found: dict[str, Any] = json.loads(science.ask(*self.command, *words).splitlines()[-1])
        if found.get("unknown"):
            _log.warning("visits without raw frames in the repository, left out: %s; `pachon ingest` them, then again", found)
        for one in found.get("withheld", ()):
            _log.warning(
                "%d alerts of %d frames of %s are withheld: %s told these frames; `pachon alerts withheld` lists them",
                *(one[name] for name in ("alerts", "frames", "origin", "told_by")),
            )
        for words in found.get("damaged", ()):
            _log.error("alerts that cannot be read are left out: %s", words)
        return found
