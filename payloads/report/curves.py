"""Figures of numbers: a light curve, the track of something that moved, and how well fluxes repeat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from payloads.report.field import cut
from payloads.report.products import Products
from payloads.report.story import Story, frame
from payloads.report.style import BANDS, GREY, INK, MOVING, bare, figure, save, styled, symmetric_limit
from payloads.report.truth import Truth


def band_color(band: str) -> str:
    """A colour for a band; grey ink for unknown ones."""
    return BANDS.get(band, INK)


@styled
def draw_light_curves(story: Story, out: Path, truth: Truth | None = None, count: int = 4) -> str | None:
    """Difference fluxes of the objects seen most often, with the truth where there is one."""
    names = story.objects().index.tolist()[:count]
    if not names:
        return None
    lines = -(-len(names) // 2)
    fig = figure(9.6, 2.5 * lines + 0.2)
    for k, name in enumerate(names):
        mine = story.sources[story.sources["diaObjectId"] == name].sort_values("midpointMjdTai")
        begin = mine["midpointMjdTai"].min()
        ax = fig.add_subplot(lines, min(2, len(names)), k + 1)
        for band, points in mine.groupby("band"):
            hours = 24 * (points["midpointMjdTai"] - begin)
            ax.errorbar(hours, points["psfFlux"] / 1e3, points["psfFluxErr"] / 1e3, fmt="o", ms=4.5, lw=1,
                        color=band_color(band), label=str(band), capsize=0)  # fmt: skip
        if truth is not None:
            _draw_truth(ax, mine, truth, begin)
        ax.axhline(0, color=GREY, lw=0.6)
        ax.set_xlabel(f"hours after MJD {begin:.4f} (TAI)")
        ax.set_ylabel("difference flux (µJy)")
        ax.set_title(f"{mine['ra'].mean():.5f}  {mine['dec'].mean():+.5f}", fontsize=9)
        ax.legend(loc="best", ncols=3, handletextpad=0.2, columnspacing=0.8)
    return save(fig, out / "light_curves.png")


def _draw_truth(ax, mine: pd.DataFrame, truth: Truth, begin: float) -> None:
    """True difference fluxes of whatever is at that place, as open rings."""
    for kind in ("transient", "variable"):
        epochs = frame(truth.epochs[kind])
        near = np.hypot(
            (epochs["ra"] - mine["ra"].mean()) * np.cos(np.radians(mine["dec"].mean())), epochs["dec"] - mine["dec"].mean()
        )
        here = epochs[(near < 2 / 3600) & epochs["exposure"].isin(mine["visit"])]
        if len(here):
            ax.plot(24 * (here["mjd"] - begin), here["difference_njy"] / 1e3, "o", mfc="none", mec=GREY, ms=9, mew=0.8,
                    label=f"truth ({kind})")  # fmt: skip
            return


@styled
def draw_track(products: Products, story: Story, out: Path) -> str | None:
    """The longest tracklet: its places on the sky, the line through them, and its stamps in the differences."""
    moving = story.moving()
    if not moving:
        return None
    track = story.sources[story.sources["trackletId"] == moving[0]].sort_values("midpointMjdTai")
    cosine = np.cos(np.radians(track["dec"].mean()))
    hours = 24 * (track["midpointMjdTai"] - track["midpointMjdTai"].min()).to_numpy()
    east = (track["ra"] - track["ra"].iloc[0]).to_numpy() * 3600 * cosine
    north = (track["dec"] - track["dec"].iloc[0]).to_numpy() * 3600
    fits = [np.polyfit(hours, values, 1) for values in (east, north)]
    rate = float(np.hypot(fits[0][0], fits[1][0]))
    rest = np.hypot(east - np.polyval(fits[0], hours), north - np.polyval(fits[1], hours))
    count = min(len(track), 8)
    fig = figure(9.6, 3.4)
    left, right = fig.subfigures(1, 2, width_ratios=(1.0, 1.15))
    ax = left.add_subplot()
    span = np.array([hours.min(), hours.max()])
    ax.plot(np.polyval(fits[0], span), np.polyval(fits[1], span), color=MOVING, lw=1.2, zorder=1)
    dots = ax.scatter(east, north, c=hours, cmap="viridis", s=34, zorder=2)
    ax.set_xlabel("east (arcsec)")
    ax.set_ylabel("north (arcsec)")
    ax.invert_xaxis()
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_title(f"{rate:.1f}″ per hour, {len(track)} sources, {rest.std():.2f}″ about the line", fontsize=9)
    bar = left.colorbar(dots, ax=ax, fraction=0.04, pad=0.02)
    bar.set_label("hours", fontsize=8)
    bar.outline.set_visible(False)
    lines = 2 if count > 4 else 1
    columns = -(-count // lines)
    for k, (_, source) in enumerate(track.head(count).iterrows()):
        image = products.find("difference", products.prompt, visit=int(source["visit"]), detector=int(source["detector"]))
        if image is None:
            continue
        stamp = cut(np.asarray(image.data, float), source["x"], source["y"], 15)
        limit = symmetric_limit(stamp, 8.0)
        ax = right.add_subplot(lines, columns, k + 1)
        ax.imshow(-stamp, cmap="gray", vmin=-limit, vmax=limit)
        bare(ax)
        ax.set_title(f"+{hours[k]:.2f} h", fontsize=8)
    return save(fig, out / "track.png")


@styled
def draw_repeatability(products: Products, out: Path) -> str | None:
    """Scatter of each star's forced fluxes over its frames, against its brightness, and what its errors promise."""
    objects = frame(products.table("object", products.releases))
    forced = frame(products.table("forced_source", products.releases))
    if not len(objects) or not len(forced):
        return None
    stars = set(objects[objects["isStar"] & (objects["flags"] == 0)]["objectId"])
    mine = forced[forced["objectId"].isin(stars) & np.isfinite(forced["psfFlux"]) & (forced["maskBits"] & 0b11111 == 0)]
    grouped = mine.groupby(["objectId", "band"]).agg(
        n=("psfFlux", "size"), flux=("psfFlux", "median"), scatter=("psfFlux", _robust), error=("psfFluxErr", "median")
    )
    grouped = grouped[(grouped["n"] >= 4) & (grouped["flux"] > 0)].reset_index()
    if not len(grouped):
        return None
    fig = figure(9.6, 3.2)
    ax = fig.add_subplot()
    ax.grid(True, which="major")
    for band, points in grouped.groupby("band"):
        mag = 31.4 - 2.5 * np.log10(points["flux"])
        color = band_color(band)
        ax.semilogy(mag, 1086 * points["scatter"] / points["flux"], "o", ms=3, alpha=0.6, color=color, label=f"{band}, measured")
        order = np.argsort(mag.to_numpy())
        ax.semilogy(mag.to_numpy()[order], (1086 * points["error"] / points["flux"]).to_numpy()[order], "-", lw=1,
                    color=color, label=f"{band}, from errors")  # fmt: skip
    ax.set_xlabel("AB magnitude")
    ax.set_ylabel("scatter over frames (mmag)")
    ax.set_title(f"{grouped['objectId'].nunique()} stars measured in every frame", fontsize=9)
    ax.legend(loc="upper left", ncols=2)
    return save(fig, out / "repeatability.png")


def _robust(values: pd.Series) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))
