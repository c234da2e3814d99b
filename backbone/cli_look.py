"""Commands: `pachon backbone policy`, `history`, `page`: why files are where they are."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from backbone.backbone import Backbone
from backbone.cli import coloured, console, plain, print_json, progress_bar, with_actor, with_home, with_json
from backbone.errors import PermanentError
from backbone.explain import Explanation
from backbone.history import history_of, recent
from backbone.home import open_backbone
from backbone.page import date_text, size_text
from backbone.page import page as page_of
from backbone.policy_change import Effect
from backbone.usage import overview


@click.group()
def policy() -> None:
    """Which rule asks for which copy; what a change would do."""


@policy.command()
@click.argument("key", required=False)
@with_home
@with_json
def check(key: str | None, home: Path, as_json: bool) -> None:
    """For a file KEY: which rule asks for what, and what is missing. Without: are the policies' files right, and in force?"""
    opened = open_backbone(home)
    if key is None:
        effect = opened.effect(opened.policies_as_written())
        _show_effect(opened, effect, as_json)
        return
    found = opened.explain(key)
    if as_json:
        print_json(found)
    else:
        _explain(found)


def _explain(found: Explanation) -> None:
    public = "never" if found.public_at is None else date_text(found.public_at)
    title = f"{found.key}: {found.dataset_type} in {found.collection}, {found.owner}'s, access {found.access}, public {public}"
    table = Table("AT", "STATE", "ASKED BY", "PRIORITY", "FROM", "UNTIL", "LACKING", title=title, title_justify="left")
    for ask in found.asks:
        dates = ["" if ask.begins is None else date_text(ask.begins), "for ever" if ask.until is None else date_text(ask.until)]
        table.add_row(
            ask.endpoint, coloured(ask.state), ", ".join(ask.by) or "nobody", str(ask.priority or ""), *dates, ask.lacking
        )
    console().print(table)


@policy.command()
@with_home
@with_json
def show(home: Path, as_json: bool) -> None:
    """The policies in force."""
    found = open_backbone(home).policies_in_force()
    if as_json:
        print_json([p.model_dump(mode="json") for p in found])
        return
    table = Table("POLICY", "COPIES", "FLOOR", "DESCRIPTION")
    for p in found:
        table.add_row(p.name, " ".join(copy.at for copy in p.copies), str(p.floor), p.description)
    console().print(table)


@policy.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--yes", is_flag=True, help="Do it; without, only the effect is shown.")
@with_actor
@with_home
@with_json
def apply(files: tuple[Path, ...], yes: bool, actor: str, home: Path, as_json: bool) -> None:
    """Put policies in force in place of all others: those of FILES, or of the settings."""
    opened = open_backbone(home)
    written = opened.policies_as_written([path.absolute() for path in files] or None)
    if not yes:
        _show_effect(opened, opened.effect(written), as_json)
        return
    with progress_bar(of="files") as bar:
        task = bar.add_task("files gone through", total=None)
        effect = opened.apply_policies(
            written, actor, say=lambda walked: bar.update(task, total=walked.of, completed=walked.files)
        )
    _show_effect(opened, effect, as_json, done=True)


def _show_effect(opened: Backbone, effect: Effect, as_json: bool, *, done: bool = False) -> None:
    if as_json:
        print_json({**plain(effect), "applied": done, "in_force": [p.name for p in opened.policies_in_force()]})
        return
    parts = [f"{word}: {', '.join(names)}" for word in ("added", "changed", "removed") if (names := getattr(effect, word))]
    verb = "in force now" if done else "would change"
    click.echo(f"{verb}: {'; '.join(parts)} ({effect.cohorts} kinds of files)" if parts else "what is written is in force")
    if parts:
        table = Table("AT", "COPIES TO MAKE", "BYTES", "COPIES TO DELETE", "BYTES ")
        for e in effect.endpoints:
            table.add_row(e.endpoint, str(e.copies), size_text(e.copy_bytes), str(e.deletions), size_text(e.deletion_bytes))
        console().print(table)
        if not done:
            click.echo("to put them in force: pachon backbone policy apply --yes")


@click.command()
@click.argument("key", required=False)
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Without KEY: so many of the last events."
)
@with_home
@with_json
def history(key: str | None, limit: int, home: Path, as_json: bool) -> None:
    """Who did what, when and why: with a file, or last of all."""
    catalog = open_backbone(home).catalog
    found = recent(catalog, limit=limit) if key is None else history_of(catalog, key)
    if as_json:
        print_json(found)
        return
    table = Table("WHEN", "WHO", "WHAT", "AT", "WHY")
    for event in found:
        table.add_row(date_text(event.at), event.actor, event.what, event.endpoint or "", event.why)
    console().print(table)


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@with_home
def page(out: Path, home: Path) -> None:
    """Write the backbone's page to OUT, one file that needs no other."""
    if not out.parent.is_dir():
        raise PermanentError(f"{out.parent} is no folder: the page cannot be written to {out}")
    part = out.with_name(f".{out.name}.part")
    part.write_text(page_of(overview(open_backbone(home))), encoding="utf-8")
    part.replace(out)
    click.echo(str(out))
