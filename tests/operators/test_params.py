import jsonschema
import pytest

from operators.conf import SCHEMAS, read
from operators.params import params_of


@pytest.mark.parametrize("dag", SCHEMAS)
def test_form_has_every_key_of_the_conf_and_no_other(dag):
    params = params_of(dag)
    assert set(params) == set(SCHEMAS[dag].model_fields)
    assert all(p.description and p.schema["title"] for p in params.values())


@pytest.mark.parametrize("dag", [dag for dag, model in SCHEMAS.items() if model.scheduled])
def test_scheduled_run_needs_to_say_nothing(dag):
    assert read(dag, {name: p.resolve() for name, p in params_of(dag).items()}).instrument == "SimCam"


@pytest.mark.parametrize(
    ("name", "value"), [("day_obs", "today"), ("instrument", "x' OR 1=1"), ("instrument", ""), ("serial", 0), ("version", 2)]
)
def test_schema_that_the_api_checks_refuses_what_the_model_refuses(name, value):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, params_of("nightly")[name].schema)


def test_key_without_default_must_be_given():
    params = params_of("nightly")
    assert [name for name, p in params.items() if not p.has_value] == ["instrument", "day_obs"]
