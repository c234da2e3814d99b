"""Productions as people write them: typos named, values safe in queries."""

from __future__ import annotations

import copy

import pytest
import yaml

from workflow.errors import ProductionError
from workflow.production import Production, filled

GOOD = {
    "production": "calibration_daily",
    "kind": "cpp",
    "parameters": {
        "instrument": {"type": "string"},
        "day_obs": {"type": "integer"},
        "filters": {"type": "list", "default": ["r", "g"]},
    },
    "steps": [
        {
            "name": "bias",
            "pipeline": "resource://payloads/pipelines/calibration.yaml#bias",
            "inputs": ["{instrument}/defaults"],
            "where": "instrument='{instrument}' AND band IN ({filters}) AND exposure.day_obs={day_obs}",
            "finish": [
                {"certify": {"dataset_types": ["bias"], "into": "{instrument}/calib", "begin": "{day_obs}"}},
                {"chain": "x"},
            ],
        }
    ],
}


def changed(path, value):
    data = copy.deepcopy(GOOD)
    place = data
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return data


def test_a_good_production_gives_typed_values_and_filled_texts():
    production = Production.load(GOOD)
    values = production.values({"instrument": "TinyCam", "day_obs": "20270101"})
    assert values == {"instrument": "TinyCam", "day_obs": 20270101, "filters": ["r", "g"]}
    where = filled(production.steps[0].where, campaign="c", step="bias", values=values)
    assert where == "instrument='TinyCam' AND band IN ('r','g') AND exposure.day_obs=20270101"
    assert production.retries.infrastructure == 3


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["steps", 0, "grup_by"], [], "steps.0: unknown key 'grup_by'; did you mean 'group_by'?"),
        (["step"], [], "unknown key 'step'; did you mean 'steps'?"),
        (["retries"], {"sience": 1}, "unknown key 'sience'; did you mean 'science'?"),
        (["steps", 0, "finish"], [{"certfy": {}}], "did you mean 'certify'?"),
        (["steps", 0, "finish"], [{"chain": "x", "backlog": True}], "is one of certify, chain, backlog, metrics"),
        (["steps", 0, "where"], "instrument='{instrment}'", "names {instrment}; did you mean 'instrument'?"),
        (["steps", 0, "on_failure"], "stahp", "'stop' or 'continue'"),
        (["kind"], "nitely", "nightly"),
        (["parameters", "day_obs", "type"], "int", "integer"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_the_nearest_right_word(path, value, words):
    with pytest.raises(ProductionError) as caught:
        Production.load(changed(path, value))
    assert words in str(caught.value)


@pytest.mark.parametrize("evil", ["x' OR 1=1", "a b", "x\\", 'x"', "a;b", "../..", "é", "a\nb", "{day_obs}"])
def test_text_that_could_leave_its_quotes_is_refused(evil):
    production = Production.load(GOOD)
    with pytest.raises(ProductionError, match="parameter instrument"):
        production.values({"instrument": evil, "day_obs": 1})
    with pytest.raises(ProductionError, match="parameter filters"):
        production.values({"instrument": "x", "day_obs": 1, "filters": ["r", evil]})


@pytest.mark.parametrize("value", ["tonight", 1.5, True, None, "1 OR 1=1"])
def test_a_value_of_another_type_is_refused(value):
    with pytest.raises(ProductionError, match=r"parameter day_obs: .* is no integer"):
        Production.load(GOOD).values({"instrument": "x", "day_obs": value})


def test_missing_and_unknown_parameters_are_named():
    production = Production.load(GOOD)
    with pytest.raises(ProductionError, match=r"needs instrument, day_obs: give --param instrument=VALUE"):
        production.values({})
    with pytest.raises(ProductionError, match=r"no parameter 'dayobs'; did you mean 'day_obs'"):
        production.values({"dayobs": 1})


def test_the_digest_is_of_values_not_of_their_spelling():
    production = Production.load(GOOD)
    a = production.digest(production.values({"instrument": "x", "day_obs": "1"}))
    assert a == production.digest(production.values({"day_obs": 1, "instrument": "x"}))
    assert a != production.digest(production.values({"day_obs": 2, "instrument": "x"}))


def test_a_file_that_cannot_be_read_or_parsed_says_which(tmp_path):
    with pytest.raises(ProductionError, match=r"nothing.yaml: cannot be read"):
        Production.load(tmp_path / "nothing.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ProductionError, match=r"bad.yaml: not readable as YAML"):
        Production.load(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("[]")
    with pytest.raises(ProductionError, match="expected keys and values, found list"):
        Production.load(tmp_path / "list.yaml")


def test_a_relative_pipeline_is_found_beside_its_production(tmp_path):
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(changed(["steps", 0, "pipeline"], "tiny.yaml#pair")))
    assert Production.load(tmp_path / "p.yaml").steps[0].pipeline == f"{tmp_path}/tiny.yaml#pair"


def test_what_the_ledger_keeps_of_a_production_is_the_same_production():
    production = Production.load(GOOD)
    again = Production.load(production.model_dump(mode="json", exclude_unset=True))
    assert again == production
    assert not again.parameters["filters"].required
    assert again.parameters["day_obs"].required


def test_config_takes_parameters_with_their_type_and_knows_no_others():
    steps = [{**GOOD["steps"][0], "config": {"combineBias": {"minimum": 3, "clip": "{day_obs}", "text": "of {day_obs}"}}}]
    production = Production.load({**GOOD, "steps": steps})
    assert production.steps[0].settings("c1", production.values({"instrument": "c", "day_obs": 20270101})) == (
        ("combineBias", "minimum", 3),
        ("combineBias", "clip", 20270101),
        ("combineBias", "text", "of 20270101"),
    )
    steps[0]["config"]["combineBias"]["clip"] = "{day_ob}"
    with pytest.raises(ProductionError, match="day_obs"):
        Production.load({**GOOD, "steps": steps})


def test_a_pipeline_beside_its_production_is_found_from_anywhere_and_the_null_payload_is_no_file(tmp_path):
    steps = [{"name": "one", "pipeline": "null:5"}, {"name": "two", "pipeline": "mine.yaml#all"}]
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump({"production": "p", "kind": "cpp", "steps": steps}))
    assert [step.pipeline for step in Production.load(path).steps] == ["null:5", f"{tmp_path}/mine.yaml#all"]
