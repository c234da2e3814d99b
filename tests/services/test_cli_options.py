"""Options that commands share."""

import click
import pytest
from click.testing import CliRunner

from services.cli_options import night_options


@click.command()
@night_options
def told(instrument, day_obs):
    click.echo(f"{instrument} {day_obs + 0}")


NONE = "is no day of the calendar"


@pytest.mark.parametrize(("day", "says", "code"), [("20260301", "SimCam 20260301", 0), ("20261399", NONE, 2), ("1", NONE, 2)])
def test_a_day_is_one_of_the_calendar(day, says, code):
    done = CliRunner().invoke(told, ["--instrument", "SimCam", "--day-obs", day])
    assert (done.exit_code, says in done.output) == (code, True)
