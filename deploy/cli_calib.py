"""The command `pachon calib`: the books of calibrations are the engine's, their order and their report the science room's."""

from __future__ import annotations

import click

from payloads import cli_calib as science
from workflow import cli_calib as books


@click.group()
def calib() -> None:
    """Calibrations: what is certified, approved, withdrawn, and what they look like."""


for _command in (*books.COMMANDS, *science.COMMANDS):
    calib.add_command(_command)
