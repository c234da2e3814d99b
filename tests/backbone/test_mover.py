"""The mover on folders, with endpoints that fail and lie, and a clock turned by hand."""

import os
import shutil
import time

import pytest

from backbone import transfers
from backbone.errors import AccessRefused, ConflictError, ObjectAbsent, TransientError
from backbone.files import NewFile
from backbone.links import LinkHolds
from backbone.mover import Mover
from backbone.settings import Link, MoverSettings

QUICK = MoverSettings(retry_min_s=1, attempts=3)
TWO = (Link(source="base", target="ncsa"), Link(source="base", target="ccin2p3"), Link(source="ncsa", target="ccin2p3", cost=5))


class Clock:
    """Monotonic time that passes when somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def moving(make_place, sqlite_template, faulty, tmp_path):
    """A place whose endpoints may be made to fail, and its mover: time passes for both when `pass_s` says so."""
    path = tmp_path / "catalog.sqlite3"
    shutil.copyfile(sqlite_template, path)
    yield from move(make_place(f"sqlite:///{path}", links=TWO, mover=QUICK), faulty)


@pytest.fixture
def moving_on_each(make_place, catalog_url, faulty):
    """The same with a catalog of each kind."""
    yield from move(make_place(catalog_url, links=TWO, mover=QUICK), faulty)


def move(place, faulty):
    place.ends = {name: faulty(place.backbone.endpoint(name)) for name in place.settings.endpoints}
    place.backbone._endpoints = place.ends
    place.clock = Clock()

    def pass_s(seconds):
        place.time += seconds
        place.clock.now += seconds

    place.pass_s = pass_s
    with Mover(place.backbone, clock=place.clock, sleep=place.clock.sleep) as mover:
        place.mover = mover
        yield place


def wanted(place, *keys, at="ncsa", **more):
    place.backbone.require(f"want-{at}-{'-'.join(keys)}", keys, at, by=place.time + 3600, actor="tester", **more)


def rounds(place, seconds=0.0, count=20):
    """Rounds with time in between; how many files arrived."""
    files = 0
    for _ in range(count):
        files += place.mover.round().files
        place.pass_s(seconds)
    return files


def states(place):
    return {(row.key, row.target): row for row in transfers.transfers(place.catalog)}


def test_what_is_asked_for_arrives_with_what_it_is_about(moving_on_each):
    moving = moving_on_each
    for n in range(30):
        moving.put(f"k/{n}", os.urandom(n * 10), owner="anna")
    moving.put("k/large", os.urandom(3 << 20))
    keys = [f"k/{n}" for n in range(30)] + ["k/large"]
    wanted(moving, *keys)
    done = moving.mover.round()
    assert (done.files, done.failed) == (31, 0)
    assert moving.backbone.present(keys, "ncsa") == set(keys)
    for key in keys:
        assert moving.ends["ncsa"].get(key) == moving.ends["base"].get(key)
    assert NewFile.from_about("k/7", moving.ends["ncsa"].info("k/7").about).owner == "anna"
    assert moving.mover.round().idle


def test_a_failure_is_tried_again_and_says_why_meanwhile(moving):
    moving.put("k")
    moving.ends["ncsa"].plan("put", "503")
    wanted(moving, "k")
    assert moving.mover.round().failed == 1
    assert moving.states("k") == {"base": "AVAILABLE", "ncsa": "COPYING"}
    assert "503" in states(moving)["k", "ncsa"].reason
    assert rounds(moving, seconds=1, count=4) == 1
    assert moving.states("k") == {"base": "AVAILABLE", "ncsa": "AVAILABLE"}


@pytest.mark.parametrize("fault", ["wrong bytes", "partial"])
def test_a_source_that_gives_other_bytes_once_is_read_again(moving, fault):
    moving.put("k", b"content of k")
    moving.ends["base"].plan("get", fault)
    wanted(moving, "k")
    assert rounds(moving, seconds=2, count=3) == 1
    assert moving.ends["ncsa"].inner.get("k") == b"content of k"
    assert moving.states("k")["base"] == "AVAILABLE"


def test_a_bad_source_is_marked_and_another_one_is_taken(moving):
    moving.put("k", b"content of k")
    wanted(moving, "k")
    assert rounds(moving, count=2) == 1
    moving.ends["base"].inner.put("k", b"something else")
    wanted(moving, "k", at="ccin2p3")
    assert rounds(moving, seconds=2, count=4) >= 1
    assert moving.states("k")["base"] == "BAD"
    assert moving.ends["ccin2p3"].get("k") == b"content of k"


def test_a_source_that_is_gone_is_lost_and_another_one_is_taken(moving):
    moving.put("k", b"content of k")
    wanted(moving, "k")
    assert rounds(moving, count=2) == 1
    moving.ends["base"].inner.delete("k")
    wanted(moving, "k", at="ccin2p3")
    assert rounds(moving, seconds=2, count=4) >= 1
    assert moving.states("k")["base"] == "LOST"
    assert moving.ends["ccin2p3"].get("k") == b"content of k"


@pytest.mark.parametrize("known_by", ["settings", "the place", "nobody"])
def test_a_place_that_lies_is_found_out_where_it_does_not_prove_its_copies(
    make_place, sqlite_template, tmp_path, faulty, known_by
):
    shutil.copyfile(sqlite_template, tmp_path / "catalog.sqlite3")
    settings = MoverSettings(read_back=known_by == "settings", retry_min_s=1)
    place = make_place(f"sqlite:///{tmp_path}/catalog.sqlite3", mover=settings)
    place.backbone._endpoints = {name: faulty(place.backbone.endpoint(name)) for name in place.settings.endpoints}
    keys = ["k", "large"]
    place.put("k", b"content of k")
    place.put("large", b"x" * (2 << 20))
    ncsa = place.backbone.endpoint("ncsa")
    ncsa.plan("put", "wrong bytes", "partial")
    ncsa.proves = lambda: known_by != "the place"
    wanted(place, *keys)
    with Mover(place.backbone) as mover:
        first = mover.round()
        if known_by == "nobody":
            assert first.files == 2, "it is taken at its word: a scrub finds it"
            return
        assert (first.files, first.failed) == (0, 2)
        assert {place.states(key)["ncsa"] for key in keys} == {"COPYING"}
        place.time += 5
        assert mover.round().files == 2
    assert [ncsa.get(key) for key in keys] == [b"content of k", b"x" * (2 << 20)]


def test_a_file_that_cannot_be_stored_is_stuck_with_its_reason_and_goes_on_when_told(moving):
    moving.put("good", b"good")
    moving.put("bad", b"bad")
    moving.ends["ncsa"].inner.put = _refusing(moving.ends["ncsa"].inner.put, "bad")
    wanted(moving, "good", "bad")
    assert rounds(moving, count=2) == 1
    stuck = states(moving)["bad", "ncsa"]
    assert (stuck.state, moving.states("good")["ncsa"]) == ("STUCK", "AVAILABLE")
    assert "nobody wants this one" in stuck.reason
    progress = moving.backbone.progress(["want-ncsa-good-bad"])["want-ncsa-good-bad"]
    assert (progress.ok, progress.stuck) == (1, 1)
    assert "nobody wants this one" in progress.first_reason
    assert rounds(moving, seconds=600, count=3) == 0, "nothing but a person helps"
    del moving.ends["ncsa"].inner.put
    assert transfers.retry(moving.catalog, actor="anna", now=moving.time) == 1
    assert rounds(moving, seconds=1, count=2) == 1


def _refusing(put, refused):
    def refuse(key, *args, **more):
        if key == refused:
            raise ConflictError("nobody wants this one")
        return put(key, *args, **more)

    return refuse


def test_a_cut_link_is_asked_rarely_makes_nothing_stuck_and_catches_up_by_itself(moving):
    for n in range(10):
        moving.put(f"k/{n:02d}", b"content")
    wanted(moving, *(f"k/{n:02d}" for n in range(10)))
    moving.ends["ncsa"].plan("put", "timeout*")
    rounds(moving, seconds=1, count=5)
    (cut,) = moving.mover.round().cut
    assert cut.startswith("base→ncsa: put k/")
    before = len(moving.ends["ncsa"].asked)
    rounds(moving, seconds=10, count=15)
    assert len(moving.ends["ncsa"].asked) - before <= 15, "one at a time, ever more rarely"
    assert {row.state for row in states(moving).values()} <= {"PENDING", "WAITING"}
    moving.ends["ncsa"].plan("put")
    came = next(count for count in range(1, 10) if rounds(moving, seconds=10, count=1) == 10)
    assert came <= 3, "when the first has passed, none of the others waits for its next attempt any longer"
    assert not moving.mover.round().cut


@pytest.mark.parametrize("fault", ["403*", "full*"])
def test_refused_keys_and_a_full_place_stop_the_link_but_harm_no_file(moving, fault):
    for n in range(6):
        moving.put(f"k/{n}", b"content")
    wanted(moving, *(f"k/{n}" for n in range(6)))
    moving.ends["ncsa"].plan("put", fault)
    rounds(moving, seconds=30, count=8)
    assert moving.mover.round().cut
    assert "STUCK" not in {row.state for row in states(moving).values()}
    moving.ends["ncsa"].plan("put")
    assert rounds(moving, seconds=60, count=20) == 6


def test_most_urgent_goes_first_and_a_link_that_is_behind_takes_the_newest_of_them(moving_on_each):
    moving = moving_on_each
    for n in range(5):
        moving.put(f"old/{n}", b"content")
    wanted(moving, *(f"old/{n}" for n in range(5)), priority=50)
    moving.pass_s(600)
    for n in range(3):
        moving.put(f"new/{n}", b"content")
    wanted(moving, *(f"new/{n}" for n in range(3)), priority=50)
    moving.put("urgent", b"content")
    wanted(moving, "urgent", priority=90)
    route = next(route for route in moving.mover._routes if route.link.name == "base→ncsa")
    route._batch = 100
    moving.mover._ready()
    assert [transfer.file.key for transfer in route._take(5)] == ["urgent", "new/2", "new/1", "new/0", "old/4"]


def test_after_a_cut_new_data_flows_first_and_the_backlog_drains_at_twice_the_nominal_rate(
    make_place, sqlite_template, tmp_path, faulty
):
    """Done-when 5, by the clock: five files a second are made, the link carries 22, it is cut for eight seconds.

    Its time is used in whole seconds, so that a link that carries just three times what is made would be too narrow here.
    """
    made_per_s, size, cut_s = 5, 1000, 8
    shutil.copyfile(sqlite_template, tmp_path / "catalog.sqlite3")
    link = Link(source="base", target="ncsa", concurrent=1, bytes_per_s=4.5 * made_per_s * size)
    mover_settings = MoverSettings(retry_min_s=1, behind_s=2, batch=made_per_s)
    place = make_place(f"sqlite:///{tmp_path}/catalog.sqlite3", places=("base", "ncsa"), links=(link,), mover=mover_settings)
    place.backbone._endpoints = {name: faulty(place.backbone.endpoint(name)) for name in place.settings.endpoints}
    ncsa, clock, start = place.backbone.endpoint("ncsa"), Clock(), place.time
    place.backbone.now = lambda: start + clock.now
    made, arrived = {}, {}

    def make():
        second = int(clock.now)
        keys = [f"s{second:03d}/{n}" for n in range(made_per_s)]
        for key in keys:
            place.put(key, os.urandom(size), created=place.backbone.now())
            made[key] = clock.now
        place.backbone.require(keys[0], keys, "ncsa", by=place.backbone.now() + 3600, actor="tester")

    real = ncsa.inner.put

    def put(key, *args, **more):
        arrived[key] = clock.now
        return real(key, *args, **more)

    ncsa.inner.put = put
    ncsa.plan("put", "timeout*")
    with Mover(place.backbone, clock=clock, sleep=clock.sleep) as mover:
        while len(arrived) < len(made) or not made:
            end = int(clock.now) + 1
            if clock.now >= cut_s:
                ncsa.plan("put")
            make()
            while clock.now < end and not (done := mover.round(limit_s=end - clock.now)).idle:
                assert done.files
            clock.now = max(clock.now, float(end))
            assert clock.now < 10 * cut_s, f"{len(made) - len(arrived)} are still waiting"
    backlog = [key for key, when in made.items() if when < cut_s]
    mended = min(arrived.values())
    drained_s = max(arrived[key] for key in backlog) - mended
    assert len(backlog) / drained_s >= 2 * made_per_s, "at no less than twice the nominal rate"
    fresh = [arrived[key] - when for key, when in made.items() if when > mended]
    assert fresh
    assert max(fresh) <= 2.0, "what is new waits for no backlog"
    assert mended - cut_s <= 8, "a link that works again is found soon"


def test_a_killed_mover_holds_nothing_when_its_lease_ends(moving):
    moving.put("k")
    wanted(moving, "k")
    assert len(moving.take("base", "ncsa", worker="dead")) == 1
    assert moving.mover.round().files == 0
    moving.pass_s(61)
    assert moving.mover.round().files == 1


def test_deletion_waits_for_the_grace_and_never_goes_below_the_floor(moving_on_each):
    moving = moving_on_each
    moving.put("k")
    wanted(moving, "k")
    assert moving.mover.round().files == 1
    moving.backbone.release("want-ncsa-k", "tester")
    assert rounds(moving, count=1) == 0
    assert moving.states("k")["ncsa"] == "AVAILABLE"
    moving.pass_s(moving.settings.grace_s + 700)
    moving.ends["ncsa"].plan("delete", "503")
    rounds(moving, seconds=30, count=1)
    assert moving.states("k") == {"base": "AVAILABLE", "ncsa": "DELETING"}
    rounds(moving, seconds=120, count=2)
    assert moving.states("k") == {"base": "AVAILABLE"}
    with pytest.raises(ObjectAbsent):
        moving.ends["ncsa"].get("k")
    assert moving.ends["base"].get("k") == b"content"


def test_the_catalog_is_told_when_it_answers_again(moving, monkeypatch):
    import backbone.route as route

    moving.put("k")
    wanted(moving, "k")
    real, silent = route.done, [True, True, True]

    def done(*args, **more):
        if silent:
            silent.pop()
            raise TransientError("the database did not answer")
        return real(*args, **more)

    monkeypatch.setattr(route, "done", done)
    assert moving.mover.round().files == 1
    assert [action for action, _ in moving.ends["ncsa"].asked] == ["put"], "copied once"


def test_a_limited_link_has_one_mover_at_a_time_and_another_takes_over(moving_on_each):
    moving = moving_on_each
    ids = moving.catalog.endpoint_id("base"), moving.catalog.endpoint_id("ncsa")
    first, second = LinkHolds(moving.catalog), LinkHolds(moving.catalog)
    assert first.hold(*ids)
    assert first.hold(*ids)
    assert not second.hold(*ids)
    assert second.hold(ids[1], ids[0])
    first.close()
    until = time.monotonic() + 10  # PostgreSQL lets go of the lock when it has noticed the end of the connection
    while not second.hold(*ids):
        assert time.monotonic() < until
    second.close()


def test_an_access_rule_is_kept_though_the_bytes_are_at_hand(moving):
    """Done-when 6: a user reading what the access rule forbids is refused, and that is in the history."""
    from backbone.access import Principal

    moving.put("secret", access="owner", owner="anna")
    with pytest.raises(AccessRefused, match="secret"):
        moving.backbone.locate(["secret"], who=Principal(name="bo"))
    assert moving.backbone.locate(["secret"], who=Principal(name="anna"))
