"""Flats of any light from monochromatic ones."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.modeling.physical_models import BlackBody

from payloads.mono_flats import CubeError, black_body, even_photons, line_fringes, synthesise, tabulated, wavelength_weights

NM = np.arange(880.0, 921.0)
BOX = [(884.0, 0.0), (886.0, 1.0), (914.0, 1.0), (916.0, 0.0)]


def test_planes_count_by_photons_transmission_and_response() -> None:
    response = np.linspace(1.0, 0.5, len(NM))
    weights = wavelength_weights(NM, response, tabulated([(880, 1.0), (920, 3.0)]), BOX)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[NM < 884].sum() == weights[NM > 916].sum() == 0.0
    at = {nm: weights[int(nm - 880)] for nm in (890, 910)}
    assert at[910] / at[890] == pytest.approx((2.5 / 1.5) * (response[30] / response[10]))


def test_a_cube_that_ends_within_the_filter_is_refused_with_what_is_missing() -> None:
    with pytest.raises(CubeError, match=r"covers 880 to 920 nm, the filter passes 902 to 950 nm"):
        wavelength_weights(NM, np.ones(len(NM)), even_photons, [(900.0, 0.0), (902.0, 1.0), (950.0, 1.0)])


def test_a_black_body_is_that_of_physics() -> None:
    known = BlackBody(5800 * u.K)(NM * u.nm)  # energy per frequency: photons per wavelength are it over the wavelength
    photons = known.value / NM
    np.testing.assert_allclose(black_body(5800.0)(NM) / black_body(5800.0)(NM)[0], photons / photons[0], rtol=1e-6)


def test_fringes_of_a_line_are_those_of_its_plane_where_the_continuum_has_none() -> None:
    waves = 100 + np.linspace(0, 3, 300)[None, :] * np.ones((40, 1))
    cube = np.stack([1 + 0.05 * np.cos(2 * np.pi * waves * 900 / nm) for nm in NM]).astype(np.float32)
    continuum = wavelength_weights(NM, np.ones(len(NM)), even_photons, BOX)
    line = (NM == 900.0).astype(float)
    pattern = line_fringes(cube, line, continuum)
    expected = 0.05 * np.cos(2 * np.pi * waves)
    assert np.corrcoef(pattern.ravel(), expected.ravel())[0, 1] > 0.98
    assert np.std(pattern) == pytest.approx(np.std(expected), rel=0.15)
    flat = synthesise(cube, continuum)
    assert np.std(flat) < 0.3 * np.std(expected)
