"""Commands: `pachon backbone scrub`, `repair`, `recover`, `quarantine`, `cache`, `archive`: care of what is there."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from backbone.archive import ArchiveEndpoint
from backbone.backbone import Backbone
from backbone.cache import Cache
from backbone.cli import console, plain, print_json, progress_bar, with_actor, with_home, with_json
from backbone.errors import PermanentError
from backbone.home import open_backbone
from backbone.identity import seen_to
from backbone.page import date_text, size_text
from backbone.quarantine import discard_quarantined, quarantined
from backbone.recover import EndpointRecovery, is_moving, recover_catalog, recover_endpoint, still_missing
from backbone.repair import Repair
from backbone.scrub import Scrub, ScrubReport
from backbone.usage import overview

POLL_S = 1.0


def _names(opened: Backbone, endpoint: str | None) -> list[str]:
    if endpoint is None:
        return list(opened.endpoints)
    opened.endpoint(endpoint)
    return [endpoint]


def _show(found: list[Any], as_json: bool, *columns: str) -> None:
    if as_json:
        print_json(found)
        return
    table = Table(*(c.upper().replace("_", " ") for c in columns))
    for one in found:
        values = plain(one)
        table.add_row(*(_cell(values[c]) for c in columns))
    console().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "; ".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@click.command()
@click.option("--endpoint", help="Default: all, one after another.")
@click.option("--rate", "mb_per_s", type=click.FloatRange(min=0, min_open=True), help="MB/s to read at most; default: no limit.")
@click.option("--minutes", type=click.FloatRange(min=0), help="Stop after so long; the next run goes on from there.")
@click.option("--restart", is_flag=True, help="Begin a new round.")
@with_actor
@with_home
@with_json
def scrub(
    endpoint: str | None, mb_per_s: float | None, minutes: float | None, restart: bool, actor: str, home: Path, as_json: bool
) -> None:
    """Read objects again and compare their checksums; what is bad or missing is made again from good copies.

    Exit code 2 if anything was found.
    """
    opened = open_backbone(home)
    names = _names(opened, endpoint)
    limit_s = None if minutes is None else minutes * 60 / len(names)
    rate = None if mb_per_s is None else mb_per_s * 1e6
    sizes = {place.name: place.size_bytes for place in overview(opened).places}
    with progress_bar() as bar:

        def care(name: str) -> ScrubReport:
            task = bar.add_task(f"scrub {name}", total=sizes[name])
            scrubber = Scrub(opened.catalog, opened.endpoint(name), actor=actor, bytes_per_s=rate)
            return scrubber.run(
                limit_s=limit_s, restart=restart, say=lambda report: bar.update(task, completed=report.size_bytes)
            )

        found, refused = seen_to(names, care)
    _show(found, as_json, "endpoint", "files", "size_bytes", "bad", "lost", "right", "unknown", "finished", "reason")
    if refused is not None:
        raise refused
    if any(report.bad or report.lost for report in found):
        sys.exit(2)


@click.command()
@click.option("--endpoint", help="Default: all.")
@with_actor
@with_home
@with_json
def repair(endpoint: str | None, actor: str, home: Path, as_json: bool) -> None:
    """Look at every damaged replica again: right after all, asked for again, or without any good copy left (exit code 2)."""
    opened = open_backbone(home)
    found, refused = seen_to(
        _names(opened, endpoint), lambda name: Repair(opened.catalog, opened.endpoint(name), actor=actor).run()
    )
    _show(found, as_json, "endpoint", "damaged", "right", "asked", "hopeless", "unknown", "examples")
    if refused is not None:
        raise refused
    if any(report.hopeless for report in found):
        sys.exit(2)


@click.command()
@click.option("--endpoint", help="An endpoint whose objects are lost.")
@click.option("--catalog", "whole_catalog", is_flag=True, help="The catalog is lost.")
@click.option("--wait", is_flag=True, help="Until the movers have brought everything that can be brought.")
@with_actor
@with_home
@with_json
def recover(endpoint: str | None, whole_catalog: bool, wait: bool, actor: str, home: Path, as_json: bool) -> None:
    """After a disaster: fill an endpoint from the others, or an empty catalog from the objects. May be run again at any time."""
    if (endpoint is None) == (not whole_catalog):
        raise PermanentError("say which is lost: --endpoint NAME or --catalog")
    opened = open_backbone(home)
    if endpoint is None:
        with progress_bar(of="files") as bar:
            task = bar.add_task("files found", total=None)
            report = recover_catalog(opened, actor=actor, say=lambda r: bar.update(task, completed=r.files))
        columns = ("files", "replicas", "unknown", "conflicts", "took_s", "examples")
        print_json(report) if as_json else _show([report], False, *columns)
        return
    with progress_bar(of="files") as bar:
        task = bar.add_task("files compared", total=None)
        found = recover_endpoint(opened, endpoint, actor=actor, say=lambda r: bar.update(task, completed=r.files))
    left = _wait(opened, found) if wait else still_missing(opened, endpoint)
    answer = {**plain(found), "still_missing": left}
    print_json(answer) if as_json else _show(
        [answer], False, "endpoint", "files", "lost", "lost_bytes", "still_missing", "took_s"
    )


def _wait(opened: Backbone, found: EndpointRecovery) -> int:
    """Until nothing moves to the endpoint any more; returns how many replicas are missing for good."""
    with progress_bar(of="files") as bar:
        task = bar.add_task(f"files back at {found.endpoint}", total=found.lost)
        while True:
            left = still_missing(opened, found.endpoint)
            bar.update(task, completed=max(found.lost - left, 0))
            if not left or not is_moving(opened, found.endpoint):
                return left
            time.sleep(POLL_S)


@click.command()
@click.option("--endpoint", help="Default: all.")
@click.option("--discard", is_flag=True, help="Remove what is kept aside.")
@with_home
@with_json
def quarantine(endpoint: str | None, discard: bool, home: Path, as_json: bool) -> None:
    """Bad copies that are kept aside."""
    opened = open_backbone(home)
    names = _names(opened, endpoint)
    if discard:
        count = sum(discard_quarantined(opened.endpoint(name)) for name in names)
        print_json({"discarded": count}) if as_json else click.echo(f"{count} bad copies discarded")
        return
    found = [
        {**plain(one), "endpoint": name, "at": date_text(one.at)} for name in names for one in quarantined(opened.endpoint(name))
    ]
    _show(found, as_json, "endpoint", "key", "found", "expected", "at", "aside")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--max-gb", type=click.FloatRange(min=0, min_open=True), required=True, help="The bound that its users keep to.")
@click.option("--free-gb", type=click.FloatRange(min=0), default=0.0, help="Evict until so much is free in it.")
@click.option("--keep", "keys", multiple=True, help="Bring this file in and pin it; may be repeated.")
@click.option("--from", "source", help="With --keep: the endpoint to bring it from.")
@click.option("--hours", type=click.FloatRange(min=0), default=12.0, show_default=True, help="With --keep: for so long.")
@click.option("--holder", default="operator", show_default=True, help="With --keep: whose pins these are.")
@click.option("--let-go", "over", help="Give back all pins of this holder.")
@click.option("--home", envvar="PACHON_HOME", type=click.Path(path_type=Path), help="With --keep: home directory.")
@with_json
def cache(
    folder: Path,
    max_gb: float,
    free_gb: float,
    keys: tuple[str, ...],
    source: str | None,
    hours: float,
    holder: str,
    over: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Clean a cache folder: take back what killed fills left, evict what is over the bound; then say what it holds."""
    opened = Cache(folder, max_bytes=int(max_gb * 1e9))
    if over is not None:
        opened.unpin(over)
    if keys:
        _keep(opened, keys, source, home, holder=holder, for_s=hours * 3600)
    opened.clean(int(free_gb * 1e9))
    used = opened.usage()
    print_json(used) if as_json else click.echo(
        f"{used.objects} objects, {size_text(used.size_bytes)} of {size_text(used.max_bytes)}, {used.pinned_objects} pinned"
    )


def _keep(opened: Cache, keys: tuple[str, ...], source: str | None, home: Path | None, *, holder: str, for_s: float) -> None:
    if source is None or home is None:
        raise PermanentError("--keep brings files in: say --from ENDPOINT, and --home DIR (else PACHON_HOME)")
    endpoint = open_backbone(home).endpoint(source)
    with progress_bar(of="files") as bar:
        for key in bar.track(keys, description=f"from {source}"):
            opened.pin(key, holder, for_s=for_s)
            with opened.reading(endpoint, key):
                pass


@click.command()
@click.option("--endpoint", required=True, help="An endpoint with `archive:` in its settings.")
@click.option("--recall", "keys", multiple=True, help="Queue a recall of this file; may be repeated.")
@click.option("--work", is_flag=True, help="Work the queue off until it is empty.")
@with_home
@with_json
def archive(endpoint: str, keys: tuple[str, ...], work: bool, home: Path, as_json: bool) -> None:
    """The recall queue of an archive."""
    tier = open_backbone(home).endpoint(endpoint)
    if not isinstance(tier, ArchiveEndpoint):
        raise PermanentError(f"endpoint {endpoint} is no archive: there is nothing to recall, its objects are at hand")
    tier.request(keys)
    while work and tier.queue():
        if not tier.recall():
            time.sleep(min(POLL_S, tier.settings.mount_s or 0.05))
    found = [{**plain(one), "asked": date_text(one.asked), "ready_at": date_text(one.ready_at)} for one in tier.queue()]
    _show(found, as_json, "key", "size", "asked", "ready_at", "reason")
