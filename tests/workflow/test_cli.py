"""The commands, as a person gives them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from backbone.errors import TransientError
from workflow.campaigns import Campaigns
from workflow.cli import campaign, engine
from workflow.loop import Pace, Stop, run_engine
from workflow.selection import Selection, SelectionError


@pytest.fixture
def cli(world):
    def run(*words, ok=True):
        result = CliRunner().invoke(campaign, [*words, "--home", str(world.home)])
        assert (result.exit_code == 0) is ok, (result.output, result.exception)
        return result

    world.path = world.home / "tiny_production.yaml"
    text = world.production({"subset": "pair"}, parameters={"detector": {"type": "integer"}})
    text["steps"][0]["where"] = "instrument='TinyCam' AND detector={detector}"
    world.path.write_text(yaml.safe_dump(text))
    return run


@pytest.mark.slow
def test_a_campaign_runs_in_one_command_and_is_reported(cli, world):
    """With the pool of this machine and its real job processes."""
    words = ["start", str(world.path), "--name", "c1", "--param", "detector=1", "--local", "--json", "--actor", "me"]
    status = json.loads(cli(*words).stdout)
    assert (status["state"], status["steps"][0]["published"], status["owner"]) == ("SUCCEEDED", 4, "me")
    text = cli("report", "c1").output
    assert "EXPECTED" in text
    assert "pair/first" in text
    assert "│ TOTAL" in text
    report = json.loads(cli("report", "c1", "--json").stdout)
    assert [(row["label"], row["expected"]) for row in report["labels"]] == [("first", 2), ("second", 2)]
    assert not list((world.home / "run" / "jobs" / "local").iterdir())


def test_commands_change_the_campaign_and_say_what_it_is_then(cli, world):
    start = ["start", str(world.path), "--name", "c1", "--param", "detector=1", "--hold-steps", "--json"]
    assert json.loads(cli(*start).stdout)["steps"][0]["released"] is False
    assert json.loads(cli("release", "c1", "pair", "--json").stdout)["steps"][0]["released"] is True
    assert "PAUSED" in cli("pause", "c1", "--reason", "clouds").output
    assert json.loads(cli("resume", "c1", "--json").stdout)["state"] == "RUNNING"
    assert "nothing failed: there is nothing to run again" in cli("retry", "c1").output
    assert "CANCELLED" in cli("cancel", "c1").output
    assert json.loads(cli("backlog", "--json").stdout) == []
    assert [s["name"] for s in json.loads(cli("list", "--json").stdout)] == ["c1"]
    assert json.loads(cli("list", "--live", "--json").stdout) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["start", "PATH", "--name", "c1", "--param", "detektor=1"], "did you mean 'detector'?"),
        (["start", "PATH", "--name", "c1"], "needs detector"),
        (["start", "PATH", "--name", "a/b", "--param", "detector=1"], "campaign name 'a/b'"),
        (["start", "PATH", "--name", "c1", "--param", "detector"], "write NAME=VALUE"),
        (["status", "c9"], "no campaign 'c9'"),
        (["release", "c9", "x"], "no step 'x'"),
        (["retry", "c9"], "no campaign 'c9'"),
    ],
)
def test_a_mistake_is_answered_with_a_sentence(cli, world, words, message):
    result = cli(*[str(world.path) if w == "PATH" else w for w in words], ok=False)
    assert message in str(result.exception)


def test_the_engine_advances_every_live_campaign_and_stops_when_told(world):
    world.start({"subset": "pair", "where": "instrument='TinyCam' AND detector=1"}, name="a")
    world.start({"subset": "pair", "where": "instrument='TinyCam' AND detector=2"}, name="b")
    stop = Stop()

    class Clock:
        rounds = 0

        def sleep(self, seconds):
            self.rounds += 1
            stop.asked = not world.campaigns.live() or self.rounds > 20

    run_engine(world.campaigns, stop=stop, pace=Pace(0.2, 2), clock=Clock())
    assert {s.name: s.state.value for s in world.campaigns.every()} == {"a": "SUCCEEDED", "b": "SUCCEEDED"}


def test_one_campaigns_error_does_not_stop_the_others(world, monkeypatch, caplog):
    world.start({"subset": "pair"}, name="a")
    world.start({"subset": "pair"}, name="b")
    stop, seen = Stop(), []

    def advance(self, name):
        seen.append(name)
        stop.asked = name == "b"
        raise RuntimeError("a is broken")

    monkeypatch.setattr(Campaigns, "advance", advance)
    run_engine(world.campaigns, stop=stop, pace=Pace(0.2, 2), clock=world.clock)
    assert seen == ["a", "b"]
    assert "a is broken" in caplog.text


def test_a_ledger_that_is_away_for_a_while_does_not_end_the_engine(world, monkeypatch, caplog):
    world.start({"subset": "pair"}, name="a")
    stop, asked, seen, live = Stop(), [], [], Campaigns.live

    def away_at_first(self):
        asked.append(1)
        if len(asked) < 4:
            raise TransientError("the ledger did not answer; is the database up?")
        return live(self)

    def advance(self, name):
        seen.append(name)
        stop.asked = True

    monkeypatch.setattr(Campaigns, "live", away_at_first)
    monkeypatch.setattr(Campaigns, "advance", advance)
    run_engine(world.campaigns, stop=stop, pace=Pace(0.2, 2), clock=world.clock)
    assert seen == ["a"]
    assert caplog.text.count("is the database up?") == 3


def test_the_pace_slows_down_while_nothing_happens_and_no_further_than_asked():
    pace = Pace(0.2, 2.0)
    waits = [pace.after(moved=False) for _ in range(20)]
    assert waits == sorted(waits)
    assert waits[-1] == 2.0
    assert pace.after(moved=True) == 0.2


@pytest.mark.slow
def test_the_engine_process_ends_well_when_asked_to(world):
    code = "from workflow.cli import engine; engine()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--home", str(world.home), "--verbose"], stderr=subprocess.PIPE, text=True, env=os.environ
    )
    world.start({"subset": "pair", "where": "instrument='TinyCam' AND detector=99"})
    try:
        for line in process.stderr:
            if "is FAILED" in line:
                break
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=30)[1]
    finally:
        process.kill()
    assert process.returncode == 0
    assert "it was told to" in rest
    assert engine.name == "engine"


def test_a_state_that_is_none_is_an_error_of_ours_and_no_traceback():
    with pytest.raises(SelectionError, match="SUCCEEDED"):
        Selection.said(states=("DONE",))
    assert Selection.said(label=None, where="", states=()) == Selection()
