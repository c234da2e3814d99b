"""Orbits into the repository: what is taken, what is set aside, and which catalogue is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner

from payloads.cli import orbits as command
from payloads.orbit_catalogue import OrbitsError, ingest_orbits, newest_orbits, read_orbits
from payloads.repository import ORBITS_CHAIN, open_repository

N = 40


def catalogue(**columns: Any) -> Table:
    rng = np.random.default_rng(1)
    base = {
        "ssObjectId": 1000 + np.arange(N),
        "semi_major_axis_au": rng.uniform(2.1, 3.3, N),
        "eccentricity": rng.uniform(0, 0.25, N),
        "inclination_deg": rng.uniform(0, 20, N),
        "node_deg": rng.uniform(0, 360, N),
        "perihelion_deg": rng.uniform(-180, 180, N),
        "mean_anomaly_deg": rng.uniform(0, 360, N),
        "epoch_mjd": np.full(N, 61_000.0),
        "absolute_mag": rng.uniform(12, 18, N),
    }
    return Table({k: v for k, v in (base | columns).items() if v is not None})


def with_value(column: str, value: Any, row: int = 7) -> np.ndarray:
    values = np.array(catalogue()[column])
    values[row] = value
    return values


def write(table: Table, folder: Path, name: str = "orbits.parquet") -> Path:
    path = folder / name
    table.write(path, format={"parquet": "parquet", "csv": "ascii.csv", "fits": "fits"}[path.suffix[1:]], overwrite=True)
    return path


def read_back(home: Path) -> tuple[list[int], list[float]]:
    """Bodies and their errors in the catalogue that is read."""
    with open_repository(home / "repo") as butler:
        found = newest_orbits(butler)
    assert found is not None
    parts = list(found)
    return [i for orbits, _ in parts for i in orbits.id.tolist()], [e for _, errors in parts for e in errors.tolist()]


@pytest.mark.parametrize("ending", ["parquet", "csv", "fits"])
def test_every_kind_of_file_is_read_alike(tmp_path: Path, ending: str) -> None:
    table = catalogue(extra=np.arange(N))
    good, refused = read_orbits(write(table[::-1], tmp_path, f"orbits.{ending}"))
    assert not len(refused)
    assert good.colnames == [*table.colnames[:-1], "error_arcsec"]
    for column in table.colnames[:-1]:
        np.testing.assert_allclose(good[column], table[column], rtol=1e-12)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("eccentricity", 0.995, "eccentricity 0.995 is not within 0 and 0.99"),
        ("eccentricity", -0.1, "eccentricity"),
        ("semi_major_axis_au", -2.0, "semi_major_axis_au -2"),
        ("semi_major_axis_au", np.inf, "semi_major_axis_au inf"),
        ("inclination_deg", 181.0, "inclination_deg"),
        ("node_deg", np.nan, "node_deg nan"),
        ("perihelion_deg", 400.0, "perihelion_deg"),
        ("mean_anomaly_deg", np.nan, "mean_anomaly_deg"),
        ("epoch_mjd", 2_461_000.5, "epoch_mjd"),
        ("absolute_mag", np.nan, "absolute_mag"),
        ("ssObjectId", 0, "ssObjectId is not above 0"),
    ],
)
def test_row_that_cannot_be_used_is_refused_with_its_reason_and_the_rest_is_taken(
    tmp_path: Path, column: str, value: float, says: str
) -> None:
    good, refused = read_orbits(write(catalogue(**{column: with_value(column, value)}), tmp_path))
    assert len(good) == N - 1
    assert refused["row"].tolist() == [7]
    assert says in refused["reason"][0]


def test_of_rows_about_the_same_body_none_is_believed(tmp_path: Path) -> None:
    good, refused = read_orbits(write(catalogue(ssObjectId=with_value("ssObjectId", 1000)), tmp_path))
    assert len(good) == N - 2
    assert refused["row"].tolist() == [0, 7]
    assert set(refused["reason"]) == {"ssObjectId is there 2 times"}


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"epoch_mjd": None}, "no column epoch_mjd"),
        ({"ssObjectId": None}, "no column ssObjectId"),
        ({"ssObjectId": np.arange(N) + 0.5}, "must be integers"),
        ({"absolute_mag": np.array(["bright"] * N)}, "column absolute_mag must be numbers"),
        ({"eccentricity": np.full(N, 1.0)}, "no orbit that can be used; row 0: eccentricity 1 is"),
    ],
)
def test_catalogue_that_cannot_be_used_says_why(tmp_path: Path, columns: dict[str, Any], says: str) -> None:
    with pytest.raises(OrbitsError, match=says):
        read_orbits(write(catalogue(**columns), tmp_path))


def test_refused_rows_are_listed_in_the_homes_aside(home: Path, tmp_path: Path) -> None:
    report = ingest_orbits(home, write(catalogue(eccentricity=with_value("eccentricity", 1.2)), tmp_path))
    assert [(r.row, r.id) for r in report.refused] == [(7, 1007)]
    listed = Table.read(report.aside, format="ascii.csv")
    assert report.aside.parent == home / "aside"
    assert (listed["eccentricity"][0], listed["reason"][0]) == (1.2, report.refused[0].reason)
    assert read_back(home)[0] == [i for i in range(1000, 1000 + N) if i != 1007]


def test_an_error_that_is_not_given_is_that_of_a_well_known_body(home: Path, tmp_path: Path) -> None:
    errors = np.full(N, 1.5)
    errors[3] = np.nan
    ingest_orbits(home, write(catalogue(error_arcsec=errors), tmp_path))
    assert read_back(home)[1] == [1.5, 1.5, 1.5, 0.2, *[1.5] * (N - 4)]


def test_the_newest_catalogue_is_read_and_older_ones_stay(home: Path, tmp_path: Path) -> None:
    with open_repository(home / "repo") as butler:
        assert newest_orbits(butler) is None
    first, second = write(catalogue(), tmp_path, "a.parquet"), write(catalogue()[:10], tmp_path, "b.parquet")
    reports = [ingest_orbits(home, path) for path in (first, second)]
    assert read_back(home)[0] == list(range(1000, 1010))
    with open_repository(home / "repo") as butler:
        assert butler.collections.get_info(ORBITS_CHAIN).children == (reports[1].run, reports[0].run)
    # An older one that somebody brings again is what he wants to be read.
    assert not ingest_orbits(home, first).already
    assert len(read_back(home)[0]) == N


def test_the_same_content_again_changes_nothing(home: Path, tmp_path: Path) -> None:
    first = ingest_orbits(home, write(catalogue(), tmp_path, "a.parquet"))
    again = ingest_orbits(home, write(catalogue()[::-1], tmp_path, "b.csv"))
    assert (first.already, again.already, again.run) == (False, True, first.run)
    with open_repository(home / "repo") as butler:
        assert butler.collections.get_info(ORBITS_CHAIN).children == (first.run,)
        assert len(butler.query_datasets("orbits", f"{ORBITS_CHAIN}/*", find_first=False)) == 1


def test_command_says_what_it_did(home: Path, tmp_path: Path) -> None:
    path = write(catalogue(eccentricity=with_value("eccentricity", 1.2)), tmp_path)
    run = [CliRunner().invoke(command, ["--home", str(home), str(path)], catch_exceptions=False) for _ in range(2)]
    assert run[0].stdout == "orbits of 39 bodies, 1 rows set aside\n"
    assert "row 7, ssObjectId 1007: eccentricity 1.2 is not within" in run[0].stderr
    assert run[1].stdout == "orbits of 39 bodies, there already, 1 rows set aside\n"
