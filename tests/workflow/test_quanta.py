"""One quantum: what is known of it, run again and compared, with the software that a hot fix bound it to."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from workflow import quanta, rerun
from workflow.accounting import mixed
from workflow.cli_quantum import quantum
from workflow.ledger import tables as t
from workflow.quanta import UnknownQuantum
from workflow.rerun import RerunError
from workflow.selection import Selection


def one(world, label="second", **more):
    return quanta.find(world.context, campaign="c1", selection=Selection(label=label, **more))


def cli(world, *words, code=0):
    result = CliRunner().invoke(quantum, [*words, "--home", str(world.home)])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def environment(folder: Path) -> str:
    """Another Python, which has all of this one's packages and one more; returns its interpreter."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    here = next(p for p in sys.path if p.endswith("site-packages"))
    (packages / "more.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    (packages / "tiny_soft-2.0.dist-info").mkdir()
    return str(folder / "bin" / "python")


def as_pools_do(message: Path) -> int:
    return subprocess.run([sys.executable, "-m", "payloads.runner", str(message)], check=False).returncode


@pytest.mark.slow
def test_a_hot_fix_of_software_is_told_by_the_jobs_themselves_and_a_quantum_runs_again_the_same(make_world, tmp_path):
    world = make_world(exposures=1, detectors=2)
    site = world.settings.sites[0].model_copy(update={"software": {"w_2": environment(tmp_path / "w_2")}})
    world.context.settings = world.settings = world.settings.model_copy(update={"sites": (site,)})
    world.settings.write()
    world.start({"subset": "pair"})
    world.finish()
    world.pool._run = as_pools_do
    fix = Selection(label="second", where="detector = 1")
    world.campaigns.hotfix("c1", fix, software="w_2", actor="me", reason="new code")
    world.finish()
    found = world.campaigns.report("c1").accounting["versions"]
    assert mixed(found) == ["pair/second"]
    assert {(v["generation"], v["bound"], v["differs"].get("tiny-soft")) for v in found if v["label"] == "second"} == {
        (1, None, None),
        (2, "w_2", "2.0"),
    }
    assert one(world, version="tiny-soft=2.0").id == one(world, where="detector = 1").id
    assert one(world, version="tiny-soft!=2.0").id == one(world, where="detector = 0").id

    shown = json.loads(cli(world, "show", "--campaign", "c1", "--label", "second", "--data-id", "detector=1", "--json"))
    assert (shown["generation"], shown["run"], shown["hotfix"]["software"]) == (2, "c1/pair/2", "w_2")
    assert [(r["dataset_type"], r["run"]) for r in shown["inputs"]] == [("tiny_mid", "c1/pair/1")]
    (attempt,) = shown["attempts"]
    assert attempt["versions"]["tiny-soft"] == "2.0"
    assert attempt["accepted"]
    assert attempt["host"]
    outputs = {w["dataset_type"]: w for o in attempt["outcomes"] for w in o["outputs"]}
    assert set(outputs) == {"tiny_out", "second_metadata", "second_log"}
    assert outputs["tiny_out"]["sha256"] == world.context.archive.info(outputs["tiny_out"]["key"]).sha256
    assert "c1/pair/2" in cli(world, "show", shown["id"])

    before = set(world.context.archive.list("_a/"))
    again = json.loads(cli(world, "rerun", shown["id"], "--compare", "--json"))
    assert {o["dataset_type"]: o["verdict"] for o in again["outputs"]} == {
        "tiny_out": "identical",
        "second_metadata": "volatile",
        "second_log": "volatile",
    }
    assert set(world.context.archive.list("_a/")) == before  # nothing is left, nothing is changed


def test_another_result_is_a_difference_and_says_where(make_world, monkeypatch):
    world = make_world(exposures=1, detectors=1)
    world.start({"subset": "pair"})
    world.finish()
    row = one(world, "first")

    def run_here(endpoint, message):
        path = world.home / "again.json"
        path.write_text(message.model_dump_json())
        world.do(path)
        segment = json.loads(endpoint.get(f"_a/{message.attempt}/segments/00000.json"))
        return rerun.Outcome.model_validate(segment["outcomes"][0])

    monkeypatch.setattr(rerun, "_run", run_here)
    assert rerun.rerun(world.context, row).same
    monkeypatch.setenv("TINY_ADD", "5")
    done = rerun.rerun(world.context, row)
    assert not done.same
    (mid,) = [o for o in done.outputs if o.dataset_type == "tiny_mid"]
    assert (mid.verdict, mid.words) == ("different", "/value: 1, now 5")
    declared = rerun.rerun(world.context, row, volatile={**rerun.VOLATILE, "tiny_*": ["/value"]})
    assert declared.same


def test_the_log_of_each_attempt_and_how_it_failed(make_world, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lsst")  # as the runner's entry point does
    world = make_world(exposures=1, detectors=1, values={(1, 0): {"do": "raise", "mark": str(tmp_path / "once")}})
    world.start({"subset": "pair", "retries": {"science": 1}})
    world.finish()
    first, second = quanta.logs(world.context, one(world, "first"))
    assert "the sky is falling" in first["errors"][0]
    assert second["errors"] == []
    assert any("Execution of task 'first'" in line for line in second["lines"]), second
    text = cli(world, "log", "--campaign", "c1", "--label", "first")
    assert text.count("attempt ") >= 2
    assert "science: ValueError: the sky is falling" in text


def test_a_question_that_means_no_quantum_or_several_is_answered_with_a_sentence(world):
    world.pool._run = lambda message: None
    world.start({"subset": "pair"})
    world.campaigns.advance("c1")
    for words, message in (
        ({"name": "x"}, "is no id of a quantum"),
        ({"name": "6f9619ff-8b86-d011-b42d-00c04fc964ff"}, "the ledger has no quantum"),
        ({}, "Give its id, or --campaign"),
        ({"campaign": "c1", "selection": Selection(label="first")}, "several quanta: first .* and more"),
        ({"campaign": "c1", "selection": Selection(label="third")}, "means no quantum"),
    ):
        with pytest.raises(UnknownQuantum, match=message):
            quanta.find(world.context, **words)
    row = world.rows(sa.select(t.quantum).limit(1))[0]
    with pytest.raises(RerunError, match="has no accepted attempt"):
        rerun.rerun(world.context, row)
