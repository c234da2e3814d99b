"""Commands on certified calibrations: `pachon calib list | show | approve | withdraw`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from backbone.page import date_text
from backbone.qc.certifications import Certification, Certifications, Product
from workflow.campaigns import Campaigns
from workflow.cli_options import actor_option, console, home_option, json_option, reason_option, yes_option
from workflow.errors import ProductionError
from workflow.withdrawal import Which, Withdrawal


@click.command("list")
@click.option("--instrument", help="Only of its chain INSTRUMENT/calib.")
@home_option
@json_option
def list_(instrument: str | None, home: Path, as_json: bool) -> None:
    """What was certified, newest first, and who approved it."""
    found = Certifications.open(home).every(f"{instrument}/calib" if instrument else None)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found]))
        return
    table = Table("COLLECTION", "STATE", "VALID FROM (TAI)", "CERTIFIED", "APPROVED BY", "DIGEST", "WHY")
    for one in found:
        table.add_row(one.collection, str(one.state), one.begin, date_text(one.at), one.approved_by, one.digest[:12], one.why)
    console().print(table)


@click.command()
@click.argument("collection")
@home_option
@json_option
def show(collection: str, home: Path, as_json: bool) -> None:
    """The products of a certification: certified, refused and why, withdrawn by whom."""
    books = Certifications.open(home)
    one, products = books.find(collection), books.products(collection)
    if as_json:
        click.echo(json.dumps({**asdict(one), "products": [asdict(p) for p in products]}))
        return
    console().print(_products(f"{one.collection}: {one.state}, digest {one.digest}, approved by {one.approved_by}", products))


@click.command()
@click.argument("collection")
@click.option("--digest", help="The digest (or its beginning) that you looked at: another is refused.")
@reason_option
@actor_option
@home_option
@json_option
def approve(collection: str, digest: str | None, reason: str, actor: str, home: Path, as_json: bool) -> None:
    """Sign a certification: from now on it is what everybody reads."""
    done = Campaigns.open(home).approve_calibrations(collection, actor=actor, why=reason, digest=digest)
    _say(done, as_json)


@click.command()
@click.argument("collection")
@click.option("--type", "types", multiple=True, help="A dataset type; repeatable. Default: all.")
@click.option("--where", "pairs", multiple=True, metavar="DIMENSION=VALUE", help="detector=3; repeatable.")
@click.option("--derived", is_flag=True, help="Also the certified products that were made with them.")
@yes_option
@click.option("--reason", required=True, help="What is wrong with them.")
@actor_option
@home_option
@json_option
def withdraw(
    collection: str,
    types: tuple[str, ...],
    pairs: tuple[str, ...],
    derived: bool,
    yes: bool,
    reason: str,
    actor: str,
    home: Path,
    as_json: bool,
) -> None:
    """Take bad products out of use and list what was processed with them. Shows it; --yes does it."""
    for pair in pairs:
        if "=" not in pair:
            raise ProductionError(f"--where {pair}: write DIMENSION=VALUE")
    which = Which(dataset_types=types, values=dict(pair.split("=", 1) for pair in pairs))
    found = Campaigns.open(home).withdraw_calibrations(
        collection, which, actor=actor, why=reason, derived=derived, dry_run=not yes
    )
    if as_json:
        click.echo(json.dumps(found.as_json()))
        return
    _show(found)


def _show(found: Withdrawal) -> None:
    verb = "withdrawn" if found.done else "would be withdrawn (--yes)"
    console().print(_products(f"{verb} from {found.collection}", found.products))
    if found.derived:
        table = Table("COLLECTION", "PRODUCT", "DATA ID", title="made with them", title_justify="left")
        for collection, p in found.derived:
            table.add_row(collection, p.dataset_type, json.dumps(dict(p.data_id)))
        console().print(table)
    table = Table("CAMPAIGN", "STEP", "TASK", "DATA ID", "STATE", "USED", title="processed with them", title_justify="left")
    for user in found.users:
        table.add_row(user.campaign, user.step, user.label, user.data_id, user.state, user.dataset_type)
    console().print(table)


def _products(title: str, products: Any) -> Table:
    table = Table("PRODUCT", "DATA ID", "STATE", "WHY", "BY", "DATASET", title=title, title_justify="left")
    product: Product
    for product in products:
        words = [str(product.state), product.why, product.withdrawn_by or ""]
        table.add_row(product.dataset_type, json.dumps(dict(product.data_id)), *words, product.dataset)
    return table


def _say(done: Certification, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(done)))
    else:
        when = date_text(done.approved_at)
        click.echo(f"{done.collection} is {done.state}, signed by {done.approved_by} on {when}, digest {done.digest}")


COMMANDS = (list_, show, approve, withdraw)
