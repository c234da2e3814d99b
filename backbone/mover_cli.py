"""`pachon backbone mover`: a mover as a process; ended by SIGTERM or SIGINT, after what it is copying."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import click

from backbone.backbone import Backbone
from backbone.errors import PermanentError, TransientError
from backbone.home import open_backbone
from backbone.models import nearest
from backbone.mover import Mover, Round

_log = logging.getLogger(__name__)
_OPEN_AGAIN_S = 1.0


def _say(done: Round) -> None:
    """A line for each round in which something happened: the log is what an operator sees first."""
    sys.stdout.write(json.dumps(asdict(done)) + "\n")
    sys.stdout.flush()


def _opened(home: Path, stop: threading.Event) -> Backbone | None:
    """The backbone, as soon as its catalog answers: a mover may be started before the database is up. None: told to stop."""
    while not stop.is_set():
        try:
            return open_backbone(home)
        except TransientError as error:
            _log.warning("%s", error)
            stop.wait(min(error.delay_s, _OPEN_AGAIN_S))
    return None


def _check_links(backbone: Backbone, links: Iterable[tuple[str, str]]) -> None:
    known = [f"{link.source}:{link.target}" for link in backbone.settings.all_links()]
    for source, target in links:
        if f"{source}:{target}" not in known:
            raise PermanentError(f"there is no link {source}:{target}; {nearest(f'{source}:{target}', known)}")


@click.command()
@click.option(
    "--home", envvar="PACHON_HOME", required=True, type=click.Path(path_type=Path), help="Home directory; else PACHON_HOME."
)
@click.option("--once", is_flag=True, help="End as soon as nothing can be done now.")
@click.option("--link", "links", multiple=True, help="Only this link, SOURCE:TARGET; may be repeated.")
def mover(home: Path, once: bool, links: tuple[str, ...]) -> None:
    """Copy what policies and rules ask for, and delete what they let go; any number of movers may run."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    chosen = frozenset((a, b) for a, _, b in (link.partition(":") for link in links)) or None
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    backbone = open_backbone(home) if once else _opened(home, stop)
    if backbone is None:
        return
    try:
        _check_links(backbone, chosen or ())
        with Mover(backbone, links=chosen) as worker:
            if not once:
                worker.run(stop, say=_say)
            while once and not stop.is_set() and not (done := worker.round()).idle:
                _say(done)
    finally:
        backbone.close()
