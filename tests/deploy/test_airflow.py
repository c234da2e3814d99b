import json

import pytest
import yaml

from deploy import airflow
from deploy.airflow import AirflowSettings, AirflowUnusable, load_roles


@pytest.fixture
def settings(tmp_path):
    return AirflowSettings(tmp_path, tmp_path / "dags", "sqlite")


def test_environment_is_ours_alone(settings):
    made = settings.environment({"AIRFLOW__CORE__FERNET_KEY": "theirs", "AIRFLOW_HOME": "/theirs", "HOME": "/root"})
    assert made["AIRFLOW_HOME"] == str(settings.airflow_home)
    assert made["AIRFLOW__CORE__FERNET_KEY"] != "theirs"
    assert made["HOME"] == "/root"
    assert made["PACHON_HOME"] == str(settings.home)


def test_environment_is_the_same_each_time(settings):
    assert settings.environment({}) == settings.environment({})


def test_everything_listens_on_loopback(settings):
    made = settings.environment({})
    assert made["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert all("--skip-serve-logs" in airflow.COMPONENTS[name] for name in ("scheduler", "triggerer"))


def test_dags_are_the_bundle(settings):
    (bundle,) = json.loads(settings.environment({})["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"])
    assert bundle["kwargs"] == {"path": str(settings.dags)}


def test_every_option_is_one_that_this_airflow_knows(settings):
    from importlib.metadata import files

    core = next(f for f in files("apache-airflow-core") if f.name == "config.yml").locate()
    known = {f"{s}.{o}" for s, body in yaml.safe_load(core.read_text()).items() for o in body["options"]}
    asked = {name for name in settings._options() if not name.startswith("fab.")}
    assert asked - known == set()


def test_chosen_database_stays(tmp_path, monkeypatch):
    auto = AirflowSettings(tmp_path, tmp_path)
    monkeypatch.setattr(airflow.postgres, "available", lambda: False)
    assert not auto.uses_postgres
    auto.airflow_home.mkdir()
    (auto.airflow_home / "airflow.db").touch()
    monkeypatch.setattr(airflow.postgres, "available", lambda: True)
    assert not auto.uses_postgres
    assert AirflowSettings(tmp_path, tmp_path, "postgresql").uses_postgres


def test_postgresql_is_fetched_before_the_first_start_and_never_where_something_else_was_chosen(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(airflow.postgres, "obtained", lambda say: asked.append(say) or True)
    AirflowSettings(tmp_path, tmp_path).obtain(print)
    assert asked == [print]
    AirflowSettings(tmp_path, tmp_path, "sqlite").obtain(print)
    (tmp_path / "airflow").mkdir()
    (tmp_path / "airflow" / "airflow.db").touch()
    AirflowSettings(tmp_path, tmp_path).obtain(print)
    assert asked == [print]


def test_observatory_may_start_the_night_the_daily_calibrations_and_their_check_and_nothing_else():
    permissions = {tuple(p) for p in load_roles()["roles"]["OCS"]["permissions"]}
    allowed = {f"{what}:{dag}" for what in ("DAG", "DAG Run") for dag in ("nightly", "calibration_daily", "calibration_check")}
    assert {r for a, r in permissions if a in {"can_create", "can_edit", "can_delete"}} == allowed


def test_user_with_an_unknown_role_is_refused(tmp_path):
    path = tmp_path / "roles.yaml"
    path.write_text("roles: {OCS: {permissions: []}}\nusers: {x: OSC}\n")
    with pytest.raises(AirflowUnusable, match="user x has the role OSC"):
        load_roles(path)


def test_password_of_every_user_goes_to_the_bootstrap_and_into_a_file(settings):
    request = airflow.bootstrap_request(settings)
    assert {u["name"] for u in request["users"]} == set(load_roles()["users"])
    for user in request["users"]:
        assert (settings.home / "secrets" / f"user-{user['name']}").read_text() == user["password"]
