"""What people see of the backbone says what is there, what is stuck and why; the page loads nothing from elsewhere."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from backbone import flow, transfers
from backbone.backbone import Backbone
from backbone.page import page, reasons, size_text, span_text, verdict
from backbone.settings import BackboneSettings
from backbone.transfers import TransferState
from backbone.usage import Totals, overview


@pytest.fixture
def backbone(tmp_path):
    settings = BackboneSettings.model_validate({"endpoints": {name: {"uri": name} for name in ("base", "ncsa", "dac-us")}})
    found = Backbone.open(settings, tmp_path)
    for n in range(3):
        about = {"dataset_type": "raw", "collection": "r", "created": 1.0}
        found.put("base", f"raw/<b>{n}</b>", bytes(1000), about, "tester")
    yield found
    found.close()


def one_of_each(backbone):
    """One copy made, one that failed for good, one that waits; one replica gone."""
    backbone.require("r", [f"raw/<b>{n}</b>" for n in range(3)], "ncsa", by=backbone.now() + 60, actor="tester")
    ids = [backbone.catalog.endpoint_id(name) for name in ("base", "ncsa")]
    taken = transfers.take(backbone.catalog, *ids, limit=3, worker="m", lease_s=60, now=backbone.now())
    backbone.endpoint("ncsa").put(taken[0].file.key, bytes(1000))
    transfers.done(backbone.catalog, taken[:1], now=backbone.now())
    transfers.failed(backbone.catalog, taken[1], reason="403 <refused>", delay_s=0, now=backbone.now(), stuck=True)
    transfers.failed(backbone.catalog, taken[2], reason="timed out", delay_s=60, now=backbone.now())
    backbone.mark([taken[0].file.key], "ncsa", "LOST", actor="tester", why="gone")


def test_an_orderly_backbone_is_said_to_be_so(backbone):
    seen = overview(backbone)
    assert (seen.files, seen.size_bytes, seen.stuck) == (3, 3000, ())
    assert seen.places[0].replicas == {"AVAILABLE": 3}
    assert verdict(seen) == "everything is where it should be"
    assert json.loads(json.dumps(seen.as_json()))["places"][0]["name"] == "base"


def test_what_is_stuck_waiting_or_damaged_is_counted_with_its_reason(backbone):
    one_of_each(backbone)
    seen = overview(backbone)
    assert verdict(seen).startswith("1 stuck; 1 replica damaged")
    assert reasons(seen.stuck) == [("403 <refused>", "ncsa", 1, seen.stuck[0].key)]
    assert [x.reason for x in seen.waiting] == ["timed out"]
    (ncsa,) = (place for place in seen.places if place.name == "ncsa")
    assert (ncsa.damaged, ncsa.arriving) == (1, {"STUCK": 1, "WAITING": 1, "PENDING": 1})


def test_one_reason_is_one_line_though_its_words_name_each_file():
    about = {"source": "base", "target": "ncsa", "state": "STUCK", "priority": 1, "deadline": 0.0, "attempts": 8, "due": None}
    stuck = [TransferState(key=f"raw/{n}", reason=f"put raw/{n} at ncsa: refused", **about) for n in range(5)]
    assert reasons(stuck) == [("put … at ncsa: refused", "ncsa", 5, "raw/0")]


@pytest.mark.parametrize(("noted", "eta_s"), [(False, None), (True, 6000 / 50)])
def test_a_backlog_too_long_to_be_added_up_has_an_eta_from_what_movers_note(place, monkeypatch, noted, eta_s):
    monkeypatch.setattr(flow, "_ADDED_UP", 3)
    files = [replace(file, size=1000) for file in place.files(8)]
    keys = [file.key for file in files]
    place.backbone.register("base", files, "tester")
    place.backbone.require("r", keys, "ncsa", by=place.time + 60, actor="tester")

    def eta():
        (coming,) = (r for r in place.backbone.locate(keys[-1:])[keys[-1]] if r.endpoint == "ncsa")
        return coming.eta_s

    place.time += 100
    transfers.done(place.catalog, place.take("base", "ncsa", limit=2), now=place.time)
    if noted:
        assert flow.note_backlog(place.catalog, now=place.time)
    assert eta() == eta_s, "at 2000 bytes in the 40 s since that minute began"


@pytest.mark.parametrize(("seconds", "text"), [(None, "not known"), (0.4, "0 s"), (90, "90 s"), (7200, "2 h"), (4e5, "5 d")])
def test_spans_are_readable(seconds, text):
    assert span_text(seconds) == text


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.tags = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data


def test_page_shows_places_links_and_reasons_and_escapes_them(backbone):
    one_of_each(backbone)
    text = page(overview(backbone), refresh_s=10)
    read = Page(text)
    assert "403 <refused>" in read.words
    assert "raw/<b>1</b>" in read.words
    assert "<b>1</b>" not in text
    assert len([tag for tag, _ in read.tags if tag == "circle"]) == 3
    assert len([1 for tag, attrs in read.tags if tag == "path" and attrs.get("class") == "stuck"]) == 1


def test_page_is_self_contained(backbone):
    text = page(overview(backbone))
    assert not re.search(r"""(src|href)=|url\((?!#)|@import|https?://""", text)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_number_of_places_is_drawn_apart_and_inside(tmp_path, count):
    settings = BackboneSettings.model_validate({"endpoints": {f"p{n}": {"uri": f"p{n}"} for n in range(count)}})
    found = Backbone.open(settings, tmp_path)
    circles = [attrs for tag, attrs in Page(page(overview(found))).tags if tag == "circle"]
    found.close()
    centres = [(float(c["cx"]), float(c["cy"])) for c in circles]
    assert all(46 <= x <= 854 and 46 <= y <= 474 for x, y in centres)
    assert all(a == b or (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 > 92**2 for a in centres for b in centres)


def test_totals_that_are_kept_are_not_counted_again(backbone):
    totals = Totals(backbone.catalog, keep_s=3600)
    first = overview(backbone, totals).places[0].replicas
    backbone.put("base", "more", b"x", {"dataset_type": "raw", "collection": "r", "created": 1.0}, "tester")
    assert overview(backbone, totals).places[0].replicas == first
    assert overview(backbone).places[0].replicas == {"AVAILABLE": 4}


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e11, "250 GB"), (9e18, "9000 PB")])
def test_sizes_are_readable(size, text):
    assert size_text(size) == text
