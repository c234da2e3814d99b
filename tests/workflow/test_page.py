"""The page of a campaign: says what needs attention, loads nothing, and believes no text it shows."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

from click.testing import CliRunner

from workflow import plots
from workflow.cli import campaign
from workflow.page import page
from workflow.selection import Selection

VOID = {"meta"}


class Nesting(HTMLParser):
    """Every element that opens is closed, in order."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.seen = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_says_what_needs_attention_and_loads_nothing(make_world, tmp_path):
    values = {
        (1, 0): {"do": "raise"},
        (1, 1): {"do": "slow", "s": 0.3},
        (1, 2): {"do": "raise", "mark": str(tmp_path / "once")},
    }
    world = make_world(exposures=1, detectors=6, values=values)
    rule = {"failure": "science", "retries": 0, "passive": True}
    world.start({"subset": "pair", "on_failure": "continue", "retries": {"science": 1}}, rules=[rule])
    world.finish()
    world.campaigns.hotfix("c1", Selection(where="detector = 3"), config={"first": {"add": 4}}, actor="<b>me</b>", reason="a < b")
    world.finish()
    out = world.home / "report.html"
    done = CliRunner().invoke(campaign, ["report", "c1", "--html", str(out), "--home", str(world.home)])
    assert done.exit_code == 0, done.output
    text = out.read_text()
    parser = Nesting()
    parser.feed(text)
    assert parser.open == []
    assert {"svg", "table", "details"} <= parser.seen
    assert not re.search(r"(src|href)=|url\(|@import|<script", text)
    assert "Quanta that failed for good: 1." in text
    assert "Quanta that will not run, since what they need failed: 1." in text
    assert "Versions are mixed in pair/first: see below" in text
    assert "by <b>&lt;b&gt;me&lt;/b&gt;</b>: a &lt; b" in text
    assert "the sky is falling" in text
    assert "Passive rules: what they would have done" in text
    assert "83.3 %" in text  # 10 of 12
    shown = CliRunner().invoke(campaign, ["report", "c1", "--home", str(world.home)]).output
    for words in ("mixed: pair/first", "payload", "BADPUT", "slowest attempts", "passive rules would have"):
        assert words in shown
    books = world.campaigns.report("c1")
    quiet = replace(
        books, accounting={**books.accounting, "wall_histogram": {}, "timeline": {"begin": None, "bin_s": 0, "bins": []}}
    )
    assert "<figure>" not in page(quiet, 0.0)


def test_bars_are_as_high_as_their_numbers():
    found = plots.classes((1.0, 10.0), {"a<b": [0, 50, 100]}, "s")
    assert "a&lt;b: 50 of 1–10 s" in found
    assert "&lt;1" not in found  # nothing there, not shown
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" fill', found)]
    assert heights[1] == 2 * heights[0]
    line = plots.over_time(0.0, 60.0, [{"succeeded": 3, "failed": 1}, {"succeeded": 0, "failed": 0}])
    good, bad = (float(h) for h in re.findall(r'height="([\d.]+)" fill', line))
    assert abs(good - 3 * bad) < 0.2
    assert "1970-01-01 00:02:00" in line
