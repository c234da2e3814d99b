"""One registry, read at several places: what is replicated is read there, what is not says where it is and when it comes."""

import pytest

from backbone.backbone import Backbone
from backbone.endpoint import sha256_of
from backbone.errors import PermanentError
from backbone.files import NewFile
from backbone.mover import Mover
from backbone.settings import BackboneSettings
from payloads.site_butler import NotHere, open_at
from tests.payloads.runner.conftest import tiny as tiny

VALUES = [1, 2]


@pytest.fixture(scope="module")
def repo(tmp_path_factory, tiny):
    """A repository whose files are at base."""
    root = tmp_path_factory.mktemp("site") / "repo"
    tiny.make_repo(root, exposures=1, detectors=2)
    return root


@pytest.fixture
def backbone(repo, tmp_path):
    """A backbone of that repository's folder and one more place, where nothing is yet; its mover."""
    settings = {"endpoints": {"base": {"uri": str(repo)}, "ncsa": {"uri": "ncsa"}}}
    opened = Backbone.open(BackboneSettings.model_validate(settings), tmp_path)
    keys = sorted(opened.endpoint("base").list("in/tiny_in/"))
    contents = {key: opened.endpoint("base").get(key) for key in keys}
    about = {"dataset_type": "tiny_in", "collection": "in", "created": 1.0}
    opened.register("base", [NewFile(key=k, size=len(c), sha256=sha256_of(c), **about) for k, c in contents.items()], "test")
    yield opened, keys
    opened.close()


def refs(butler):
    return sorted(butler.query_datasets("tiny_in", "in"), key=lambda ref: ref.dataId["detector"])


def test_a_butler_at_a_place_reads_what_is_replicated_there_and_says_where_the_rest_is(repo, backbone):
    opened, keys = backbone
    base, ncsa = open_at(repo, opened, "base"), open_at(repo, opened, "ncsa")
    first, second = refs(base)
    content = base.get(first)
    with pytest.raises(NotHere, match=r"not here \(ncsa\): in/tiny_in/.* is at base, and nothing brings it here"):
        ncsa.get(first)
    (wanted,) = (key for key in keys if str(base.getURI(first)).endswith(key))
    opened.require("stage", [wanted], "ncsa", by=opened.now() + 60, actor="test")
    with pytest.raises(NotHere, match="is at base, and on its way here, ETA unknown"):
        ncsa.get(first)
    with Mover(opened) as mover:
        assert mover.round().files == 1
    assert ncsa.get(first) == content
    assert ncsa.get("tiny_in", first.dataId, collections="in") == content
    assert ncsa.clone(collections="in").get(first) == content
    with pytest.raises(NotHere, match="is at base") as found:
        ncsa.clone(collections="in").get(second)
    assert isinstance(found.value, FileNotFoundError)
    assert base.get(second)


def test_an_error_that_is_no_absence_stays_what_it_is(repo, backbone):
    opened, keys = backbone
    with Mover(opened) as mover:
        opened.require("stage", keys, "ncsa", by=opened.now() + 60, actor="test")
        mover.round()
    content = opened.endpoint("ncsa").get(keys[0])
    opened.endpoint("ncsa").put(keys[0], b"?" * len(content))
    ncsa = open_at(repo, opened, "ncsa")
    (bad,) = (ref for ref in refs(ncsa) if str(ncsa.getURI(ref)).endswith(keys[0]))
    with pytest.raises(ValueError, match="tiny_in") as found:
        ncsa.get(bad)
    assert not isinstance(found.value, NotHere)


def test_an_unknown_place_is_named_with_the_nearest(repo, backbone):
    with pytest.raises(PermanentError, match="ncsa"):
        open_at(repo, backbone[0], "nsca")
