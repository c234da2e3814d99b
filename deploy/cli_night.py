"""The command `pachon night`: the books of nights are the engine's, what their workers found is the services'."""

from __future__ import annotations

from services.prompt.cli import COMMANDS
from workflow.night.cli import night

for _command in COMMANDS:
    night.add_command(_command)
