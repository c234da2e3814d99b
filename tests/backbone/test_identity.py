"""A place that is not the one that the catalog knows, an unmounted disk or a new bucket of an old name, has lost nothing."""

import json
import shutil
import uuid

import pytest
import sqlalchemy as sa

from backbone import tables as t
from backbone.archive import ArchiveEndpoint, ArchiveSettings
from backbone.backbone import Backbone
from backbone.catalog import Catalog
from backbone.endpoints import open_endpoint
from backbone.errors import TransientError, WrongPlace
from backbone.folder import FolderEndpoint
from backbone.identity import IDENTITY, check_identity, identify, renew_identity
from backbone.mover import Mover
from backbone.recover import recover_catalog, recover_endpoint
from backbone.repair import Repair
from backbone.scrub import Scrub
from backbone.settings import BackboneEndpoint, BackboneSettings

KEYS = [f"a/{number}" for number in range(4)]
NAMES = ("base", "ncsa")


@pytest.fixture(params=["folder", "s3", "archive"])
def endpoint(request, tmp_path):
    """An endpoint named base of each kind."""
    if request.param == "s3":
        store, credentials = request.getfixturevalue("object_store"), request.getfixturevalue("credentials")
        with open_endpoint(store.uri("first", f"tests/{uuid.uuid4().hex}"), name="base", credentials=credentials) as opened:
            yield opened
        return
    near = FolderEndpoint(tmp_path / "near", name="base")
    if request.param == "folder":
        yield near
        return
    off_site = FolderEndpoint(tmp_path / "off-site", name="base off-site")
    yield ArchiveEndpoint(near, off_site, name="base", folder=tmp_path / "recall", settings=ArchiveSettings(mount_s=0.01))


@pytest.fixture
def catalog(tmp_path, sqlite_template):
    shutil.copyfile(sqlite_template, tmp_path / "catalog.sqlite3")
    opened = Catalog.open(f"sqlite:///{tmp_path / 'catalog.sqlite3'}")
    opened.set_up(BackboneSettings(endpoints={name: BackboneEndpoint(uri=name) for name in NAMES}))
    yield opened
    opened.close()


def known(catalog, name):
    with catalog.read() as connection:
        return connection.execute(sa.select(t.endpoint.c.identity).where(t.endpoint.c.name == name)).scalar_one()


def last_place(endpoint):
    return endpoint.off_site if isinstance(endpoint, ArchiveEndpoint) else endpoint


def test_an_endpoint_says_who_it_is_from_its_first_opening_on(catalog, endpoint):
    identify(catalog, endpoint)
    said = json.loads(last_place(endpoint).get(IDENTITY))
    assert said == {"endpoint": "base", "id": known(catalog, "base")}
    identify(catalog, endpoint)
    check_identity(catalog, endpoint)
    assert json.loads(last_place(endpoint).get(IDENTITY)) == said, "twice is once"


def test_a_place_without_its_identity_or_with_anothers_is_refused_until_it_is_taken_for_lost(catalog, endpoint):
    identify(catalog, endpoint)
    first = last_place(endpoint).get(IDENTITY)
    last_place(endpoint).delete(IDENTITY)
    with pytest.raises(WrongPlace, match=r"base: .* is not the place .*Mount the disk.*pachon backbone recover --endpoint base"):
        check_identity(catalog, endpoint)
    for other in (b'{"endpoint": "ncsa", "id": "1"}', b'{"endpoint": "base", "id": "1"}', b"[]", b"\xff"):
        last_place(endpoint).put(IDENTITY, other)
        with pytest.raises(WrongPlace, match=known(catalog, "base")):
            check_identity(catalog, endpoint)
    assert renew_identity(catalog, endpoint)
    check_identity(catalog, endpoint)
    assert not renew_identity(catalog, endpoint), "it is itself"
    last_place(endpoint).put(IDENTITY, first)
    with pytest.raises(WrongPlace):
        check_identity(catalog, endpoint)


def test_the_catalog_takes_over_what_a_place_says_but_not_another_endpoints(catalog, tmp_path):
    endpoint = FolderEndpoint(tmp_path / "near", name="base")
    endpoint.put(IDENTITY, b'{"endpoint": "base", "id": "7"}')
    identify(catalog, endpoint)
    assert known(catalog, "base") == "7"
    with pytest.raises(WrongPlace, match="endpoint base"):
        identify(catalog, FolderEndpoint(tmp_path / "near", name="ncsa"))
    assert known(catalog, "ncsa") is None


@pytest.fixture
def two_places(make_place, sqlite_template, tmp_path):
    """Files at both; `unmount` and `mount` are of the disk of ncsa."""
    shutil.copyfile(sqlite_template, tmp_path / "places.sqlite3")
    place = make_place(f"sqlite:///{tmp_path / 'places.sqlite3'}", places=NAMES)
    folder, disk = tmp_path / "home" / "ncsa", tmp_path / "disk"

    def unmount():
        folder.rename(disk)
        folder.mkdir()

    def mount():
        shutil.rmtree(folder)
        disk.rename(folder)

    place.unmount, place.mount = unmount, mount
    for key in KEYS:
        place.put(key, key.encode())
    place.backbone.require("both", KEYS, "ncsa", by=place.time + 60, actor="tester")
    assert place.move(real=True) == len(KEYS)
    return place


def everything(place):
    """All that the catalog says of replicas and of what is to be done."""
    return [place.catalog.all(sa.select(table)) for table in (t.replica, t.transfer, t.orphan, t.history, t.scrub)]


def scrub(place):
    Scrub(place.catalog, place.backbone.endpoint("ncsa"), clock=lambda: place.time).run()


CARE = {
    "sweep": lambda place: place.backbone.sweep("ncsa"),
    "scrub": scrub,
    "repair": lambda place: Repair(place.catalog, place.backbone.endpoint("ncsa"), actor="tester").run(),
}


def test_nothing_is_lost_while_a_disk_is_not_mounted(two_places, tmp_path):
    two_places.unmount()
    before = everything(two_places)
    for care in CARE.values():
        with pytest.raises(TransientError, match=r"endpoint ncsa: .* is not the place that the catalog knows"):
            care(two_places)
    two_places.backbone.fetch(KEYS[0], tmp_path / "copy", near="ncsa")
    assert (tmp_path / "copy").read_bytes() == KEYS[0].encode(), "of the other place"
    assert everything(two_places) == before
    assert list(two_places.backbone.endpoint("ncsa").list("")) == []
    two_places.mount()
    assert two_places.backbone.sweep("ncsa").lost == 0
    assert everything(two_places)[:2] == before[:2]


@pytest.mark.parametrize("care", ["sweep", "scrub"])
def test_a_disk_that_goes_while_it_is_looked_at_has_lost_nothing(two_places, monkeypatch, care):
    endpoint = two_places.backbone.endpoint("ncsa")
    asked = iter([endpoint.get(IDENTITY)])
    get = endpoint.get

    def unmounted_after_the_first_look(key):
        said = next(asked, None)
        if said is None:
            return get(key)
        two_places.unmount()
        return said

    monkeypatch.setattr(endpoint, "get", unmounted_after_the_first_look)
    with pytest.raises(WrongPlace):
        CARE[care](two_places)
    assert two_places.backbone.present(KEYS, "ncsa") == set(KEYS)


def test_a_mover_brings_nothing_to_a_place_that_is_not_mounted_and_believes_nothing_of_it(two_places):
    two_places.put("b/to", b"to", at="base")
    two_places.put("b/from", b"from", at="ncsa")
    two_places.backbone.require("to", ["b/to"], "ncsa", by=two_places.time + 60, actor="tester")
    two_places.backbone.require("from", ["b/from"], "base", by=two_places.time + 60, actor="tester")
    two_places.unmount()
    with Mover(two_places.backbone) as mover:
        done = mover.round()
        assert (done.files, done.failed) == (0, 2)
        assert list(two_places.backbone.endpoint("ncsa").list("")) == []
        assert two_places.backbone.present(["b/from"], "ncsa") == {"b/from"}
        two_places.mount()
        two_places.time += 3600
        assert mover.round().files == 2


def test_a_mover_does_not_take_for_deleted_what_is_on_a_disk_that_is_not_mounted(two_places):
    two_places.backbone.release("both", "tester")
    two_places.time += 10 * 86400
    two_places.backbone.work_off_ages()
    two_places.unmount()
    with Mover(two_places.backbone) as mover:
        assert mover.round().deleted == 0
        two_places.mount()
        two_places.time += 86400
        assert mover.round().deleted == len(KEYS)
    assert list(two_places.backbone.endpoint("ncsa").list("a/")) == []


def test_a_place_that_is_really_lost_is_recovered_and_is_another_from_then_on(two_places):
    first = known(two_places.catalog, "ncsa")
    two_places.unmount()
    two_places.time += 1
    assert recover_endpoint(two_places.backbone, "ncsa", actor="tester").lost == len(KEYS)
    assert known(two_places.catalog, "ncsa") not in (None, first)
    with Mover(two_places.backbone) as mover:
        assert mover.round().files == len(KEYS)
    assert two_places.backbone.sweep("ncsa").lost == 0
    two_places.mount()
    with pytest.raises(WrongPlace, match=first):
        two_places.backbone.sweep("ncsa")


def forget_identities(place, home):
    """As an older version left it."""
    with place.catalog.begin() as connection:
        connection.execute(t.endpoint.update().values(identity=None))
    for name in NAMES:
        (home / name / IDENTITY).unlink()


def opened_again(place, home):
    return Backbone.open(place.settings, home, now=lambda: place.time)


def test_a_home_of_an_older_version_gets_identities_at_its_next_opening(two_places, tmp_path):
    forget_identities(two_places, tmp_path / "home")
    again = opened_again(two_places, tmp_path / "home")
    assert known(again.catalog, "ncsa") in again.endpoint("ncsa").get(IDENTITY).decode()
    assert again.sweep("ncsa").lost == 0
    again.close()


def test_a_disk_that_is_not_mounted_at_that_opening_gets_none(two_places, tmp_path):
    forget_identities(two_places, tmp_path / "home")
    two_places.unmount()
    again = opened_again(two_places, tmp_path / "home")
    with pytest.raises(WrongPlace, match="endpoint ncsa"):
        again.sweep("ncsa")
    assert (known(again.catalog, "base") is None, known(again.catalog, "ncsa")) == (False, None)
    two_places.mount()
    assert again.sweep("ncsa").lost == 0
    again.close()


def test_nothing_is_put_onto_the_wrong_disk(two_places, tmp_path):
    again = opened_again(two_places, tmp_path / "home")
    two_places.unmount()
    about = {"dataset_type": "raw", "collection": "c", "created": two_places.time}
    with pytest.raises(WrongPlace, match="endpoint ncsa"):
        again.put("ncsa", "b/1", b"1", about, "tester")
    assert (list(again.endpoint("ncsa").list("")), again.locate(["b/1"])) == ([], {})
    two_places.mount()
    again.put("ncsa", "b/1", b"1", about, "tester")
    again.close()


def test_a_new_catalog_takes_over_the_identities_of_its_places(two_places, tmp_path):
    before = [known(two_places.catalog, name) for name in NAMES]
    settings = two_places.settings.model_copy(update={"catalog": f"sqlite:///{tmp_path / 'new.sqlite3'}"})
    again = Backbone.open(settings, tmp_path / "home", now=lambda: two_places.time)
    report = recover_catalog(again, actor="tester")
    assert (report.files, report.unknown, [known(again.catalog, name) for name in NAMES]) == (len(KEYS), 0, before)
    again.close()
