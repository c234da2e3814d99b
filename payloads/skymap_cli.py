"""`pachon skymap …`: make the sky map that coadds, templates and objects are cut by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

    from payloads.skymap import SkyMap


@click.group()
def skymap() -> None:
    """Make and show sky maps."""


@skymap.command()
@click.option("--home", type=click.Path(path_type=Path, exists=True), required=True, envvar="PACHON_HOME", help="Home directory.")
@click.option("--name", required=True, help="Name of the map; a name always means the same map.")
@click.option("--from-visits", "instrument", required=True, metavar="INSTRUMENT", help="Cover all visits of this instrument.")
@click.option("--pixel-scale", type=click.FloatRange(min=0, min_open=True), help="arcsec per pixel  [default: the camera's]")
@click.option("--patch-px", type=click.IntRange(min=32), default=1000, show_default=True, help="Side of a patch's own area.")
@click.option("--border-px", type=click.IntRange(min=0), default=50, show_default=True, help="Border shared with its neighbours.")
def make(home: Path, name: str, instrument: str, pixel_scale: float | None, patch_px: int, border_px: int) -> None:
    """Make a sky map around the observed fields and register it. Making the same map twice is harmless."""
    from payloads.repository import open_repository
    from payloads.skymap import SkyMapError

    with open_repository(home / "repo", writeable=True) as butler:
        try:
            sky_map, new = make_from_visits(butler, name, instrument, pixel_scale, patch_px, border_px)
        except SkyMapError as error:
            raise click.ClickException(str(error)) from error
    patches = sum(len(tract.patches) for tract in sky_map.tracts)
    state = "made" if new else "was there already"
    click.echo(f"sky map {name} {state}: {len(sky_map.tracts)} tract(s), {patches} patch(es) of {patch_px} px, "
               f"{sky_map.pixel_scale_arcsec:g} arcsec/px")  # fmt: skip


def make_from_visits(
    butler: Butler, name: str, instrument: str, pixel_scale_arcsec: float | None = None, patch_px: int = 1000, border_px: int = 50
) -> tuple[SkyMap, bool]:
    """Make and register a map around an instrument's visits; (map, whether it was new). Scale: the camera's unless given."""
    from payloads.instrument import read_camera
    from payloads.skymap import SkyMap, SkyMapError, visit_regions

    regions = visit_regions(butler, instrument)
    if not regions:
        raise SkyMapError(f"sky map {name}: instrument {instrument} has no visits here; ingest on-sky exposures first")
    sky_map = SkyMap.cover(
        name,
        regions,
        pixel_scale_arcsec=pixel_scale_arcsec or read_camera(butler, instrument).pixel_scale_arcsec,
        patch_inner_px=patch_px,
        patch_border_px=border_px,
    )
    return sky_map, sky_map.register(butler)
