"""The same steps by plain photutils and reproject: `python benchmarks/prompt_peers.py SCENE`; CPU seconds as JSON to stdout.

Bounded: on a square of the frame, and scaled by the number of pixels; `square_px` says which.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.nddata import NDData
from photutils.background import Background2D, MedianBackground
from photutils.detection import DAOStarFinder
from photutils.psf import PSFPhotometry
from photutils.psf.image_models import ImagePSF
from reproject import reproject_interp

from payloads.prompt.detector import process_detector

sys.path.insert(0, str(Path(__file__).parent))
import prompt_scenes

SQUARE_PX = 1000


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """CPU seconds and what came of it."""
    begin = time.process_time()
    found = work()
    return time.process_time() - begin, found


def main() -> None:
    """Time."""
    warnings.simplefilter("ignore")
    visit = prompt_scenes.read(Path(sys.argv[1]))
    result = process_detector([visit.raw], visit.preloaded, processed_mjd_tai=60_000.0)
    ny, nx = result.science.data.shape
    side = min(SQUARE_PX, ny, nx)
    scale = ny * nx / side**2
    square = np.s_[:side, :side]
    data = result.science.data[square].astype(float)
    sigma = result.quality.sky_noise_electron
    background, _ = timed(lambda: Background2D(data, 128, bkg_estimator=MedianBackground()).background)
    detection, found = timed(lambda: DAOStarFinder(threshold=8 * sigma, fwhm=result.psf.fwhm_px)(data))
    stamp = result.psf.at(side / 2, side / 2)
    stars = found[np.argsort(-found["peak"])[:200]]
    positions = {"x": "x_centroid", "y": "y_centroid"} if "x_centroid" in found.colnames else {"x": "xcentroid", "y": "ycentroid"}
    start = stars[list(positions.values())]
    start.rename_columns(list(positions.values()), ["x_init", "y_init"])
    photometry, _ = timed(lambda: PSFPhotometry(ImagePSF(stamp), (11, 11), aperture_radius=5)(data, init_params=start))
    (patch,) = visit.preloaded.template
    warp, _ = timed(
        lambda: reproject_interp(
            NDData(patch.plane.data, wcs=patch.wcs), result.wcs[square], shape_out=(side, side), return_footprint=False
        )
    )
    print(
        json.dumps(
            {
                "square_px": side,
                "photutils_background": round(scale * background, 2),
                "photutils_detection": round(scale * detection, 2),
                "photutils_psf_per_1000": round(1000 / max(len(stars), 1) * photometry, 2),
                "reproject_interp": round(scale * warp, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
