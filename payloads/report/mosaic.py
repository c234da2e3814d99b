"""Patches of a coadd put together again, for looking at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from payloads.mask import Mask, any_set
from payloads.report.products import Products
from payloads.skymap import SkyMap

_LARGEST_PX = 3000


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """An image (NaN without data) with the WCS of its pixels, and what it shows."""

    data: NDArray[np.float32]
    wcs: WCS
    title: str


def field_picture(products: Products) -> Picture | None:
    """The deepest picture there is of the first field: its deep coadd, else its template, else a frame."""
    for dataset_type, collections in (("deep_coadd", products.releases), ("template_coadd", products.templates)):
        refs = products.refs(dataset_type, collections)
        if refs:
            tract = min(ref.dataId["tract"] for ref in refs)
            here = [ref for ref in refs if ref.dataId["tract"] == tract and ref.dataId["skymap"] == refs[0].dataId["skymap"]]
            bands = sorted({ref.dataId["band"] for ref in here}, key=lambda band: ("rigzyu".find(band), band))
            return _assemble(products, [ref for ref in here if ref.dataId["band"] == bands[0]], dataset_type)
    for ref in products.refs("calexp", products.frames):
        image = products.get(ref)
        if image.wcs is not None:
            return Picture(data=image.data, wcs=image.wcs, title=f"frame {ref.dataId['visit']}")
    return None


def _assemble(products: Products, refs: list, dataset_type: str) -> Picture:
    sky_map = SkyMap.load(products.butler, refs[0].dataId["skymap"])
    tract, inner, border = refs[0].dataId["tract"], sky_map.patch_inner_px, sky_map.patch_border_px
    t = sky_map.tract(tract)
    data = np.full((t.patches_y * inner, t.patches_x * inner), np.nan, np.float32)
    inputs = 0
    for ref in refs:
        coadd = products.get(ref)
        column, row = sky_map.cell(tract, ref.dataId["patch"])
        part = slice(border, border + inner)
        seen = ~any_set(coadd.mask, Mask.NO_DATA, coadd.data.shape)
        inputs = max(inputs, int(coadd.meta["NINPUT"]))
        data[row * inner : (row + 1) * inner, column * inner : (column + 1) * inner] = np.where(seen, coadd.data, np.nan)[
            part, part
        ]
    rows, columns = (np.flatnonzero(np.isfinite(data).any(axis=axis)) for axis in (1, 0))
    cut = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if rows.size else (slice(None), slice(None))
    step = max(1, -(-max(data[cut].shape) // _LARGEST_PX))
    wcs = sky_map.tract_wcs(tract)[cut[0], cut[1]]
    kind = "Deep coadd" if dataset_type == "deep_coadd" else "Template"
    title = f"{kind}, tract {tract}, band {refs[0].dataId['band']}, up to {inputs} frames"
    return Picture(data=data[cut][::step, ::step], wcs=wcs[::step, ::step], title=title)
