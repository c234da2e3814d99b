"""Options that many commands have, and where tables go."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

F = TypeVar("F", bound=Callable[..., Any])


def home_option(function: F) -> F:
    """--home."""
    return click.option(
        "--home", envvar="PACHON_HOME", required=True, type=click.Path(path_type=Path), help="Home directory; else PACHON_HOME."
    )(function)


def json_option(function: F) -> F:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def actor_option(function: F) -> F:
    """--actor."""
    return click.option("--actor", default=getpass.getuser, show_default="your name", help="Who does this, for the audit.")(
        function
    )


def reason_option(function: F) -> F:
    """--reason."""
    return click.option("--reason", default="", help="Why, for the audit.")(function)


def yes_option(function: F) -> F:
    """--yes."""
    return click.option("--yes", is_flag=True, help="Do it; without this it is only shown what would be done.")(function)


def console() -> Console:
    """Wide where nobody watches: a pipe must not get folded tables."""
    return Console(width=None if sys.stdout.isatty() else 200)
