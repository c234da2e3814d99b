"""One tiny survey, made once for all tests that only look at what was written; and surveys that live in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from payloads.simulator.config import SurveyConfig
from payloads.simulator.survey import simulate_survey

SMALL: dict[str, Any] = {
    "seed": 3,
    "camera": {"detectors": [1, 1], "size": [200, 240], "overscan_px": 8},
    "nights": {"count": 2, "templates": 1},
    "fields": [{"name": "small", "visits": {"r": 2}, "template_visits": {"r": 1}, "dither_arcsec": 2}],
    "stars": {"per_detector": 60},
    "galaxies": {"per_detector": 20},
    "transients": {"per_field": 6},
    "asteroids": {"per_field_night": 2},
    "calibrations": {"bias": 1, "dark": 1, "flat": 1},
}


def small(**changes: Any) -> SurveyConfig:
    """A survey that takes no time, with changes: a dict changes part of a section, anything else replaces it."""
    content = dict(SMALL)
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    return SurveyConfig.from_dict(content)


@pytest.fixture(scope="session")
def small_survey():
    return small


@pytest.fixture(scope="session")
def made_small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("survey") / "small"
    simulate_survey(small(), out)
    return out
