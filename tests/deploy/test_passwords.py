"""Passwords of databases: kept in one private file, written nowhere else."""

from __future__ import annotations

import stat

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from deploy.passwords import password_file, without_password

URL = "postgresql+psycopg2://anna:s%3Acret@db.example:5433/ledger"


def test_the_url_that_is_kept_names_the_file_and_has_no_password(tmp_path):
    kept = without_password(URL, tmp_path)
    assert "s%3Acret" not in kept
    assert make_url(kept).password is None
    assert kept.startswith("postgresql+psycopg2://anna@db.example:5433/ledger?passfile=")
    path = password_file(tmp_path)
    assert path.read_text() == "db.example:5433:ledger:anna:s\\:cret\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_new_password_replaces_the_old_one_and_leaves_the_others(tmp_path):
    without_password(URL, tmp_path)
    other = without_password("postgresql+psycopg2://bo:x@/d?host=/run/pg", tmp_path)
    newer = URL.replace("s%3Acret", "new")
    assert without_password(newer, tmp_path) == without_password(newer, tmp_path)
    assert set(password_file(tmp_path).read_text().splitlines()) == {"db.example:5433:ledger:anna:new", "/run/pg:5432:d:bo:x"}
    assert "host=" in other


@pytest.mark.parametrize("url", ["sqlite:///ledger.sqlite3", "postgresql+psycopg2://anna@db.example/ledger"])
def test_a_url_without_a_password_is_left_as_it_is(tmp_path, url):
    assert without_password(url, tmp_path) == url
    assert not password_file(tmp_path).exists()


def test_libpq_knows_the_option(tmp_path):
    kept = without_password(URL, tmp_path)
    options = psycopg2.extensions.parse_dsn(kept.replace("postgresql+psycopg2", "postgresql"))
    assert options["passfile"] == str(password_file(tmp_path))
