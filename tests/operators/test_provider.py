import json
from importlib.metadata import files
from pkgutil import resolve_name

import jsonschema

from operators.provider import get_provider_info


def test_provider_info_is_as_airflow_wants_it():
    schema = next(f for f in files("apache-airflow-core") if f.name == "provider_info.schema.json")
    jsonschema.validate(get_provider_info(), json.loads(schema.locate().read_text()))


def test_what_it_names_can_be_imported():
    names = get_provider_info()["extra-links"]
    assert all(resolve_name(name) for name in names)
