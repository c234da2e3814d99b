"""A tiny simulated survey, made once for all tests of whole installations."""

import pytest


@pytest.fixture(scope="session")
def survey(tmp_path_factory):
    """Frames of the preset `tiny`: one small detector, one filter, a template night and a night."""
    from deploy.demo.prepare import simulated

    return simulated(tmp_path_factory.mktemp("survey"), "tiny", None, print, jobs=1)
