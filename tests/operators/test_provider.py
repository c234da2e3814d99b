import json
from importlib.metadata import files
from pkgutil import resolve_name

import jsonschema
import pytest

from operators.htcondor.settings import PoolSettings
from operators.provider import get_provider_info


def test_provider_info_is_as_airflow_wants_it():
    schema = next(f for f in files("apache-airflow-core") if f.name == "provider_info.schema.json")
    jsonschema.validate(get_provider_info(), json.loads(schema.locate().read_text()))


def test_what_it_names_can_be_imported():
    names = get_provider_info()["extra-links"]
    assert all(resolve_name(name) for name in names)


@pytest.mark.filterwarnings("ignore:ProvidersManager.hooks is deprecated")
def test_airflow_offers_the_connection_with_its_form_and_the_links():
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()  # what the web UI's form is made of; tasks have another of their own
    hook = manager.hooks["htcondor"]
    assert (hook.hook_name, hook.connection_testable) == ("HTCondor", True)
    fields = {name.removeprefix("extra__htcondor__") for name in manager.connection_form_widgets if "__htcondor__" in name}
    assert fields == set(PoolSettings.model_fields) - {"collector", "token"}
    assert "Token" in manager.field_behaviours["htcondor"]["relabeling"]["password"]
    assert set(get_provider_info()["extra-links"]) <= set(manager.extra_links_class_names)
