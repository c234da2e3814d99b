"""The configuration that keeps attempts apart."""

import hashlib

from lsst.daf.butler import Config
from lsst.resources import ResourcePath

from backbone.butler import DATASTORE, attempt_config, attempt_prefix, checksum_of


def templates_of(node):
    for value in node.values():
        if isinstance(value, dict):
            yield from templates_of(value)
        else:
            yield value


def test_every_template_is_under_the_attempts_prefix(tmp_path):
    config = attempt_config(
        Config({"datastore": {"name": "x", "templates": {"default": "{run}/{datasetType}"}}}), str(tmp_path), "a1"
    )
    found = list(templates_of(config["datastore", "templates"].toDict()))
    assert len(found) > 1, "defaults were not merged before prefixing"
    assert all(template.startswith(f"{attempt_prefix('a1')}/") for template in found)


def test_name_is_pinned_root_is_the_sites_and_no_cache_is_shared(tmp_path):
    config = attempt_config(Config({}), str(tmp_path), "a1")
    assert config["datastore", "name"] == DATASTORE
    assert config["datastore", "root"] == str(tmp_path)
    assert config["datastore", "cached", "expiry", "mode"] == "disabled"
    assert config["datastore", "checksum"] is True


def test_checksum_is_of_a_file_as_of_what_is_no_file(tmp_path):
    file, packed = ResourcePath(tmp_path / "file"), ResourcePath("resource://backbone/butler.py")
    for uri, content in ((file, bytes(range(256)) * 10_000), (packed, packed.read())):
        if uri.isLocal:
            uri.write(content)
        assert checksum_of(uri) == hashlib.sha256(content).hexdigest()
