from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.table import Table, vstack
from click.testing import CliRunner
from lsst.sphgeom import HtmPixelization, LonLat, UnitVector3d

from payloads.cli import refcat as command
from payloads.htm import htm_index
from payloads.refcat import RefcatError, ingest_refcat, read_refcat
from payloads.repository import open_repository


def catalogue(n: int = 300, **columns: Any) -> Table:
    rng = np.random.default_rng(1)
    base = {
        "id": np.arange(n),
        "ra": 150 + rng.uniform(-1, 1, n),
        "dec": 2 + rng.uniform(-1, 1, n),
        "mag_r": rng.uniform(14, 20, n),
    }
    return Table({k: v for k, v in (base | columns).items() if v is not None})


def write(table: Table, folder: Path, ending: str = "parquet") -> Path:
    path = folder / f"cat.{ending}"
    table.write(path, format={"parquet": "parquet", "csv": "ascii.csv", "fits": "fits"}[ending], overwrite=True)
    return path


def stored(home: Path) -> dict[int, Table]:
    butler = open_repository(home / "repo")
    return {int(r.dataId["htm7"]): butler.get(r) for r in butler.query_datasets("ref_cat", "refcats", explain=False)}


def test_index_of_many_points_is_that_of_sphgeom() -> None:
    rng = np.random.default_rng(2)
    ra = np.concatenate([rng.uniform(0, 360, 2000), [0, 90, 180, 270, 0, 0, 45, 360]])
    dec = np.concatenate([np.degrees(np.arcsin(rng.uniform(-1, 1, 2000))), [0, 0, 0, 0, 90, -90, 0, 1]])
    for level in (0, 3, 7):
        one = HtmPixelization(level)
        expected = [one.index(UnitVector3d(LonLat.fromDegrees(a, d))) for a, d in zip(ra, dec, strict=True)]
        np.testing.assert_array_equal(htm_index(ra, dec, level), expected)


def test_catalogue_is_cut_into_shards_that_hold_every_source_once(home: Path, tmp_path: Path) -> None:
    table = catalogue()
    report = ingest_refcat(home, write(table, tmp_path))
    shards = stored(home)
    assert report.sources == 300
    assert report.bands == ("r",)
    assert report.shards == len(shards) > 4
    together = vstack(list(shards.values()))
    together.sort("id")
    for column in table.colnames:
        np.testing.assert_array_equal(together[column], table[column])
    for key, shard in shards.items():
        assert (htm_index(shard["ra"], shard["dec"]) == key).all()


def test_same_catalogue_again_changes_nothing(home: Path, tmp_path: Path) -> None:
    table = catalogue()
    first = ingest_refcat(home, write(table, tmp_path))
    again = ingest_refcat(home, write(table[::-1], tmp_path))
    assert (first.already, again.already) == (0, first.shards)


def test_other_catalogue_of_the_same_field_is_refused(home: Path, tmp_path: Path) -> None:
    ingest_refcat(home, write(catalogue(), tmp_path))
    before = {key: len(shard) for key, shard in stored(home).items()}
    with pytest.raises(RefcatError, match="other content"):
        ingest_refcat(home, write(catalogue(n=301), tmp_path))
    assert {key: len(shard) for key, shard in stored(home).items()} == before


@pytest.mark.parametrize("ending", ["parquet", "csv", "fits"])
def test_every_kind_of_file_is_read_alike(tmp_path: Path, ending: str) -> None:
    table = catalogue(mag_g=np.where(np.arange(300) % 7 == 0, np.nan, 18.0), extra=np.arange(300))
    table["ra"].unit = u.deg
    read = read_refcat(write(table, tmp_path, ending))
    assert read.colnames == ["id", "ra", "dec", "mag_g", "mag_r"]
    assert read["id"].dtype == np.int64
    np.testing.assert_allclose(read["mag_r"], table["mag_r"])
    np.testing.assert_array_equal(np.isnan(read["mag_g"]), np.arange(300) % 7 == 0)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"dec": None}, "no column dec; it has id, ra, mag_r"),
        ({"mag_r": None}, "no column mag_<band>"),
        ({"n": 0}, "no rows"),
        ({"ra": np.where(np.arange(300) == 7, np.nan, 150.0)}, "1 rows without a position on the sky, first row 7"),
        ({"dec": np.full(300, 95.0)}, "300 rows without a position"),
        ({"id": np.r_[0, 0, np.arange(298)]}, "id 0 is there 3 times"),
        ({"id": np.arange(300) + 0.5}, "must be integers"),
        ({"mag_r": np.array(["bright"] * 300)}, "column mag_r must be numbers"),
    ],
)
def test_catalogue_that_cannot_be_used_says_why(tmp_path: Path, columns: dict[str, Any], says: str) -> None:
    with pytest.raises(RefcatError, match=says):
        read_refcat(write(catalogue(**columns), tmp_path))


def test_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no table")
    for name, says in (
        ("a.parquet", "cannot be read as parquet"),
        ("b.parquet", "no such file"),
        ("c.txt", "not a kind of table"),
    ):
        with pytest.raises(RefcatError, match=says):
            read_refcat(tmp_path / name)


def test_command_says_what_it_did(home: Path, tmp_path: Path) -> None:
    path = write(catalogue(n=5, ra=np.full(5, 150.0), dec=np.full(5, 2.0)), tmp_path)
    run = [CliRunner().invoke(command, ["--home", str(home), str(path)], catch_exceptions=False).stdout for _ in range(2)]
    assert run == ["5 sources in r: 1 shards\n", "5 sources in r: 1 shards, 1 of them there already\n"]
