"""Figures of images: the field with what was found in it, stamps of alerts, a whole difference, the masters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from payloads.report.mosaic import field_picture
from payloads.report.products import Products
from payloads.report.story import Story, ab_mag, frame
from payloads.report.style import GREY, INK, MOVING, STAR, TRANSIENT, bare, figure, save, sky_stretch, styled, symmetric_limit

_STAMP_PX = 20


@styled
def draw_field(products: Products, story: Story, out: Path) -> str | None:
    """The deepest picture of the field; rings: stars, transients and variables, and the tracks of what moved."""
    picture = field_picture(products)
    if picture is None:
        return None
    ny, nx = picture.data.shape
    fig = figure(9.0, 9.0 * ny / nx + 0.5)
    ax = fig.add_subplot()
    ax.imshow(1 - sky_stretch(picture.data), cmap="gray", vmin=0, vmax=1)
    handles = []
    stars = frame(products.table("object", products.releases))
    if len(stars):
        stars = stars[stars["isStar"]].nlargest(150, "snr")
        handles.append(_rings(ax, picture.wcs, stars, (ny, nx), STAR, 7, 0.6, f"{len(stars)} brightest stars of the release"))
    objects = story.objects()
    if len(objects):
        handles.append(
            _rings(
                ax, picture.wcs, objects, (ny, nx), TRANSIENT, 14, 1.4, f"{len(objects)} sources that changed, seen twice or more"
            )
        )
    moving = story.moving()
    for number in moving:
        track = story.sources[story.sources["trackletId"] == number].sort_values("midpointMjdTai")
        x, y = picture.wcs.world_to_pixel_values(track["ra"], track["dec"])
        ax.plot(x, y, "-", color=MOVING, lw=1.2)
        ax.plot(x, y, "o", mfc="none", mec=MOVING, ms=6, mew=1.0)
    if moving:
        handles.append(Line2D([], [], color=MOVING, marker="o", mfc="none", lw=1.2, ms=6, label=f"{len(moving)} that moved"))
    _scale_bar(ax, picture.wcs, nx)
    ax.set_xlim(-0.5, nx - 0.5)
    ax.set_ylim(-0.5, ny - 0.5)
    bare(ax)
    ax.set_title(picture.title)
    if handles:
        fig.legend(handles=handles, loc="outside lower left", ncols=3)
    return save(fig, out / "field.png")


def _rings(
    ax: Axes, wcs: Any, table: pd.DataFrame, shape: tuple[int, int], color: str, size: float, width: float, label: str
) -> Line2D:
    x, y = wcs.world_to_pixel_values(table["ra"], table["dec"])
    on = (x > 0) & (x < shape[1]) & (y > 0) & (y < shape[0])
    ax.plot(x[on], y[on], "o", mfc="none", mec=color, ms=size, mew=width)
    return Line2D([], [], ls="", marker="o", mfc="none", mec=color, ms=min(size, 10), mew=width, label=label)


def _scale_bar(ax: Axes, wcs: Any, nx: int) -> None:
    """A bar of a round number of arcseconds, near a fifth of the width."""
    arcsec_per_px = float(np.sqrt(wcs.proj_plane_pixel_area().to_value("arcsec2")))
    wanted = 0.2 * nx * arcsec_per_px
    length = max((v for v in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600) if v <= wanted), default=1)
    pixels = length / arcsec_per_px
    label = f"{length}″" if length < 60 else f"{length // 60}′"
    ax.plot([0.03 * nx, 0.03 * nx + pixels], [0.03 * nx] * 2, color=INK, lw=2.5, solid_capstyle="butt")
    ax.text(0.03 * nx + pixels / 2, 0.04 * nx, label, ha="center", va="bottom", fontsize=9, color=INK, weight="bold",
            bbox={"facecolor": "white", "alpha": 0.75, "lw": 0, "pad": 1.5})  # fmt: skip


def cut(image: NDArray[np.floating], x: float, y: float, half: int = _STAMP_PX) -> NDArray[np.floating]:
    """A stamp (2 half + 1 square) around a pixel, NaN off the image."""
    column, row = round(x), round(y)
    stamp = np.full((2 * half + 1, 2 * half + 1), np.nan)
    rows = slice(max(0, row - half), max(0, min(image.shape[0], row + half + 1)))
    columns = slice(max(0, column - half), max(0, min(image.shape[1], column + half + 1)))
    part = image[rows, columns]
    top, left = rows.start - (row - half), columns.start - (column - half)
    stamp[top : top + part.shape[0], left : left + part.shape[1]] = part
    return stamp


@styled
def draw_triplets(products: Products, story: Story, out: Path, count: int = 6) -> str | None:
    """Science, template and difference around the best alerts."""
    best = story.best_alerts(count)
    rows = []
    for _, source in best.iterrows():
        data_id = {"visit": int(source["visit"]), "detector": int(source["detector"])}
        images = [products.find(name, products.frames, **data_id) for name in ("calexp", "warped_template", "difference")]
        if all(image is not None for image in images):
            rows.append((source, [cut(np.asarray(image.data, float), source["x"], source["y"]) for image in images]))
    if not rows:
        return None
    lines = -(-len(rows) // 2)
    fig = figure(9.6, 1.95 * lines)
    cells = fig.subfigures(lines, 2, wspace=0.04, squeeze=False)
    for cell, (source, stamps) in zip(cells.ravel(), rows, strict=False):
        cell.suptitle(_caption(source), fontsize=8, x=0.015, ha="left")
        limit = symmetric_limit(stamps[2], 8.0)
        for j, (stamp, name) in enumerate(zip(stamps, ("science", "template", "difference"), strict=True)):
            ax = cell.add_subplot(1, 3, j + 1)
            if j < 2:
                ax.imshow(1 - sky_stretch(stamp, like=stamps[0]), cmap="gray", vmin=0, vmax=1)
            else:
                ax.imshow(-stamp, cmap="gray", vmin=-limit, vmax=limit)
            bare(ax)
            ax.set_xlabel(name, fontsize=7, color=GREY, labelpad=2)
    return save(fig, out / "triplets.png")


def _caption(source: pd.Series) -> str:
    kind = "moving" if source["trackletId"] else "in place"
    mag = ab_mag(float(source["psfFlux"]))
    return f"{kind} · {source['band']} {mag:.2f} · S/N {source['snr']:.0f} · reliability {source['reliability']:.2f}"


@styled
def draw_difference(products: Products, story: Story, out: Path) -> str | None:
    """A whole frame: science, template and difference, and what was detected on it."""
    good = story.good
    refs = products.refs("difference", products.prompt)
    if not refs:
        return None
    counts = good.groupby(["visit", "detector"]).size() if len(good) else pd.Series(dtype=int)
    ref = max(refs, key=lambda r: counts.get((r.dataId["visit"], r.dataId["detector"]), 0))
    data_id = {"visit": ref.dataId["visit"], "detector": ref.dataId["detector"]}
    images = [
        products.find("calexp", products.frames, **data_id),
        products.find("warped_template", products.frames, **data_id),
        products.get(ref),
    ]
    if any(image is None for image in images):
        return None
    ny, nx = images[2].data.shape
    fig = figure(9.6, 9.6 / 3 * ny / nx + 0.45)
    titles = (
        f"Frame {data_id['visit']}, detector {data_id['detector']}",
        "Template on its grid",
        "Difference, and what was found",
    )
    for k, (image, title) in enumerate(zip(images, titles, strict=True)):
        ax = fig.add_subplot(1, 3, k + 1)
        if k < 2:
            ax.imshow(1 - sky_stretch(np.asarray(image.data, float)), cmap="gray", vmin=0, vmax=1)
        else:
            limit = symmetric_limit(np.asarray(image.data, float), 5.0)
            ax.imshow(-np.asarray(image.data), cmap="gray", vmin=-limit, vmax=limit)
            here = good[(good["visit"] == data_id["visit"]) & (good["detector"] == data_id["detector"])] if len(good) else good
            for moving, color in ((False, TRANSIENT), (True, MOVING)):
                mine = here[(here["trackletId"] != 0) == moving] if len(here) else here
                if len(mine):
                    ax.plot(mine["x"], mine["y"], "o", mfc="none", mec=color, ms=9, mew=1.1)
        ax.set_xlim(-0.5, nx - 0.5)
        ax.set_ylim(-0.5, ny - 0.5)
        bare(ax)
        ax.set_title(title, fontsize=9)
    return save(fig, out / "difference.png")


@styled
def draw_masters(products: Products, out: Path) -> str | None:
    """The newest master bias, dark and flat of the first detector."""
    shown = []
    for name, unit in (("bias", "ADU"), ("dark", "ADU/s"), ("flat", "relative response")):
        refs = products.calibrations(name)
        if refs:
            shown.append((refs[0], name, unit))
    if not shown:
        return None
    fig = figure(9.6, 3.4)
    for k, (ref, name, unit) in enumerate(shown):
        image = np.asarray(products.get(ref).data, float)
        low, high = np.nanpercentile(image, [1, 99])
        ax = fig.add_subplot(1, len(shown), k + 1)
        drawn = ax.imshow(image, cmap="viridis", vmin=low, vmax=high if high > low else low + 1)
        bare(ax)
        band = f", {ref.dataId['physical_filter']}" if name == "flat" else ""
        ax.set_title(f"Master {name}{band}, detector {ref.dataId['detector']}", fontsize=9)
        bar = fig.colorbar(drawn, ax=ax, orientation="horizontal", fraction=0.05, pad=0.03, aspect=30)
        bar.set_label(unit, fontsize=8)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
    return save(fig, out / "masters.png")
