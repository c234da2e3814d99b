"""Settings: defaults, files, and mistakes in them."""

from __future__ import annotations

import stat

import pytest

from workflow.errors import SettingsError
from workflow.settings import EngineSettings, Settings


def test_an_empty_file_is_a_whole_embedded_installation(tmp_path):
    (tmp_path / "pachon.yaml").write_text("")
    settings = Settings.load(tmp_path)
    assert settings.ledger_url == f"sqlite:///{tmp_path}/ledger.sqlite3"
    assert settings.repo_uri == settings.endpoint_uri("local") == f"{tmp_path}/repo"


def test_what_is_written_is_read_back_and_is_nobody_elses_to_read(tmp_path):
    settings = Settings(home=tmp_path / "h", engine=EngineSettings(flush_s=1), ledger="postgresql+psycopg2://u@h/d")
    path = settings.write()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Settings.load(tmp_path / "h") == settings
    assert "poll_max_s" not in path.read_text()


def test_a_home_without_settings_says_how_to_make_one(tmp_path):
    with pytest.raises(SettingsError, match="is no home directory; make one with `pachon init"):
        Settings.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("engin: {}", "did you mean 'engine'"),
        ("engine: {fluhs_s: 1}", "did you mean 'flush_s'"),
        ("sites: []", "at least one site"),
        ("sites: [{name: a}, {name: a}]", "none twice"),
        ("ledger: postgresql://h/d", r"postgresql\+psycopg2"),
        ("archive: bse", "archive: no endpoint 'bse'"),
        ("sites: [{name: a, endpoint: bse}]\nbackbone: {endpoints: {base: {uri: x}}}", "no endpoint 'bse' .*'base'"),
        ("backbone: {endpoints: {base: {uri: x}}}", "with a backbone its endpoint is one of the backbone's, by name"),
        ("[]", "expected keys and values"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_a_mistake_in_settings_is_named(tmp_path, text, words):
    (tmp_path / "pachon.yaml").write_text(text)
    with pytest.raises(SettingsError, match=words):
        Settings.load(tmp_path)


def test_the_archive_is_the_first_sites_endpoint_unless_it_is_named(tmp_path):
    places = "backbone: {endpoints: {base: {uri: b}, a: {uri: a}}}"
    (tmp_path / "pachon.yaml").write_text(f"sites: [{{name: x, endpoint: a}}]\n{places}")
    assert Settings.load(tmp_path).archive_name == "a"
    assert Settings.load(tmp_path).has_one_endpoint
    (tmp_path / "pachon.yaml").write_text(f"archive: base\nsites: [{{name: x, endpoint: a}}]\n{places}")
    assert Settings.load(tmp_path).archive_name == "base"
    assert not Settings.load(tmp_path).has_one_endpoint
