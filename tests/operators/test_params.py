import jsonschema
import pytest

from operators.conf import SCHEMAS, Care, ConfError, Morning, read, read_care, read_morning
from operators.params import params_of


@pytest.mark.parametrize("dag", SCHEMAS)
def test_form_has_every_key_of_the_conf_and_no_other(dag):
    params = params_of(dag)
    assert set(params) == set(SCHEMAS[dag].model_fields)
    assert all(p.description and p.schema["title"] for p in params.values())


@pytest.mark.parametrize("dag", [dag for dag, model in SCHEMAS.items() if model.scheduled])
def test_scheduled_run_needs_to_say_nothing(dag):
    given = {name: p.resolve() for name, p in params_of(dag).items()}
    if issubclass(SCHEMAS[dag], Care):
        assert read_care(dag, given).endpoint == ""
    elif issubclass(SCHEMAS[dag], Morning):
        assert read_morning(dag, given).instrument == ""
    else:
        assert read(dag, given).instrument == "SimCam"


def test_a_production_and_care_of_the_backbone_are_not_confused():
    with pytest.raises(ConfError, match="no production"):
        read("backbone_scrub", {})
    with pytest.raises(ConfError, match="look after"):
        read_care("calibration_monthly", {})
    with pytest.raises(ConfError, match="nothing of a day"):
        read_morning("calibration_monthly", {})
    with pytest.raises(ConfError, match="did you mean 'mb_per_s'"):
        read_care("backbone_scrub", {"mb_per_sec": 1})


@pytest.mark.parametrize(
    ("name", "value"), [("day_obs", "today"), ("instrument", "x' OR 1=1"), ("instrument", ""), ("serial", 0), ("version", 2)]
)
def test_schema_that_the_api_checks_refuses_what_the_model_refuses(name, value):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, params_of("nightly")[name].schema)


def test_key_without_default_must_be_given():
    params = params_of("nightly")
    assert [name for name, p in params.items() if not p.has_value] == ["instrument", "day_obs"]
