"""Sites as files: each that comes with Pachón is a site, and a home takes them over."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from deploy.cli import cli
from deploy.servers import servers
from deploy.site_files import known_sites, load_site, use_sites
from workflow.errors import SettingsError
from workflow.settings import Settings


@pytest.fixture
def home(tmp_path):
    Settings(home=tmp_path).write()
    return tmp_path


@pytest.mark.parametrize("name", known_sites())
def test_each_site_that_comes_with_pachon_is_one(name):
    site = load_site(name)
    assert site.name == name
    assert site.pool.kind == "htcondor"
    assert site.pool.reserved < site.pool.slots


def test_a_home_takes_sites_over_and_its_pools_are_started_by_up(home):
    after = CliRunner().invoke(cli, ["sites", "--home", str(home), "use", "ncsa", "ccin2p3"])
    assert after.exit_code == 0, after.output
    settings = Settings.load(home)
    assert [site.name for site in settings.sites] == ["ncsa", "ccin2p3"]
    assert len({settings.endpoint_uri(site.name) for site in settings.sites}) == 1
    assert [server.name for server in servers(home, with_postgres=False)] == ["condor-ncsa", "condor-ccin2p3"]
    shown = CliRunner().invoke(cli, ["sites", "--home", str(home)])
    assert "started here" in shown.output


def test_a_site_on_a_real_cluster_is_a_file_and_nothing_is_started_for_it(home, tmp_path):
    path = tmp_path / "far.yaml"
    path.write_text("name: far\npool: {kind: htcondor, slots: 900, collector: 'condor.example:9618', files: spool}\n")
    use_sites(home, [path])
    assert Settings.load(home).sites[0].pool.collector == "condor.example:9618"
    assert servers(home, with_postgres=False) == []


def test_a_home_with_a_local_pool_starts_no_server(home):
    assert servers(home, with_postgres=False) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\npool: {kind: htcondor, slot: 3}\n", "did you mean 'slots'"),
        ("name: a\npool: {kind: htcondor, slots: 2, reserved: 2}\n", "leave at least one to others"),
        ("name: a\npool: {kind: slurm}\n", "slurm"),
        ("name: [\n", "not readable as YAML"),
    ],
)
def test_what_is_wrong_in_a_site_is_named(tmp_path, text, words):
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=words):
        load_site(path)


def test_an_unknown_site_names_the_nearest():
    with pytest.raises(SettingsError, match="did you mean 'ncsa'"):
        load_site("nsca")
