"""Every production in dags/productions: a new one is covered at once."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from workflow.production import Production

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "dags" / "productions").glob("*.yaml"))


@pytest.fixture(params=FILES, ids=lambda p: p.stem)
def production(request):
    return Production.load(request.param)


def test_there_are_productions():
    assert {"calibration_daily", "template", "nightly", "offline", "release"} <= {f.stem for f in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_production_is_named_as_its_file(path):
    assert Production.load(path).production == path.stem


def test_every_parameter_says_what_it_is(production):
    assert all(p.description for p in production.parameters.values())


def test_every_step_asks_for_one_instrument_and_brings_its_outputs_somewhere(production):
    asked = ("instrument='{instrument}'", "instrument='{auxtel}'")
    assert all(sum(words in step.where for words in asked) == 1 for step in production.steps)
    assert production.steps[-1].finish, "the last step's outputs would be found by nobody"


def test_every_pipeline_and_subset_exists(production):
    for step in production.steps:
        uri = urlsplit(step.pipeline)
        assert uri.scheme == "resource", f"{step.name}: the wheel must bring its pipelines"
        path = ROOT / uri.netloc / uri.path.lstrip("/")
        assert path.is_file(), f"{step.name}: no {path.name}"
        if uri.fragment:
            names = yaml.safe_load(path.read_text())
            known = set(names.get("subsets", {})) | set(names["tasks"])
            assert set(uri.fragment.split(",")) <= known, f"{step.name}: {path.name} has {sorted(known)}"


def test_sibling_takes_the_parameters_that_its_dag_gives(production):
    name, found, _ = production.production.partition("_unregistered")
    base = Production.load(ROOT / "dags" / "productions" / f"{name}.yaml")
    assert (production.parameters, production.kind) == (base.parameters, base.kind)
    assert bool(found) == (production != base)
