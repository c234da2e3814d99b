"""A cache keeps to its bound, keeps what is pinned or in use, and survives kill -9 of those who fill it."""

import shutil
import signal
import subprocess
import sys
from collections import namedtuple

import pytest

from backbone.cache import Cache
from backbone.errors import ChecksumMismatch, EndpointFull, ObjectAbsent, ObjectTooLarge
from backbone.folder import FolderEndpoint

KB = 1000


class Clock:
    now = 1000.0

    def __call__(self):
        self.now += 10.0
        return self.now


class Counting(FolderEndpoint):
    fetched = 0

    def fetch(self, key, path):
        self.fetched += 1
        return super().fetch(key, path)


@pytest.fixture
def source(tmp_path):
    endpoint = Counting(tmp_path / "source", name="source")
    for n in range(6):
        endpoint.put(f"k{n}", bytes([n]) * KB)
    return endpoint


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", max_bytes=3 * KB, clock=Clock())


def read(cache, source, key):
    with cache.reading(source, key) as path:
        return path.read_bytes()


def test_second_reading_comes_from_the_cache(cache, source):
    assert read(cache, source, "k1") == read(cache, source, "k1") == b"\x01" * KB
    assert source.fetched == 1


def test_the_least_recently_used_goes_first_and_the_bound_holds(cache, source):
    for key in ("k0", "k1", "k2", "k0", "k3"):
        read(cache, source, key)
    assert [cache.holds(f"k{n}") for n in range(4)] == [True, False, True, True]
    assert cache.usage().size_bytes == 3 * KB
    assert sum(p.stat().st_size for p in cache._folder.glob("objects/*/*")) == 3 * KB


def test_what_is_pinned_stays_until_its_pin_is_given_back_or_runs_out(cache, source):
    cache.pin("k0", "night 1", for_s=10_000)
    for n in range(5):
        read(cache, source, f"k{n}")
    assert cache.holds("k0")
    assert cache.usage().pinned_objects == 1
    assert cache.unpin("night 1") == 1
    read(cache, source, "k5")
    read(cache, source, "k1")
    assert not cache.holds("k0")


def test_what_is_being_read_stays(cache, source):
    with cache.reading(source, "k0") as path:
        for n in range(1, 6):
            read(cache, source, f"k{n}")
        assert path.read_bytes() == b"\x00" * KB


def test_a_cache_full_of_pins_says_so_and_takes_more_once_they_are_gone(cache, source):
    for n in range(3):
        cache.pin(f"k{n}", "h", for_s=10_000)
        read(cache, source, f"k{n}")
    with pytest.raises(EndpointFull, match="pinned"):
        read(cache, source, "k3")
    cache.unpin("h")
    assert read(cache, source, "k3") == b"\x03" * KB


def test_an_object_larger_than_the_cache_is_refused_for_good(cache, source):
    source.put("large", b"x" * 4 * KB)
    with pytest.raises(ObjectTooLarge, match="read it in place"):
        read(cache, source, "large")


def test_wrong_bytes_are_not_cached(cache, source):
    with pytest.raises(ChecksumMismatch, match="k0 from source"), cache.reading(source, "k0", sha256="0" * 64):
        pass
    assert not cache.holds("k0")
    assert cache.usage().size_bytes == 0


def test_absent_is_absent_and_reserves_nothing(cache, source):
    with pytest.raises(ObjectAbsent):
        read(cache, source, "nothing")
    assert cache.usage().objects == 0


def test_space_of_the_file_system_is_respected(tmp_path, source, monkeypatch):
    disk = namedtuple("disk", "total used free")
    cache = Cache(tmp_path / "cache", max_bytes=100 * KB, min_free_bytes=10 * KB, clock=Clock())
    read(cache, source, "k0")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk(1, 1, 10 * KB + 1 if cache.usage().objects else 20 * KB))
    read(cache, source, "k1")
    assert [cache.holds("k0"), cache.holds("k1")] == [False, True]


def test_a_killed_fill_gives_its_room_back(tmp_path, source):
    """Kill -9 in the middle of a fetch: the reservation does not count for ever and the object can be had."""
    code = (
        "import sys, time\nfrom backbone.cache import Cache\nfrom backbone.folder import FolderEndpoint\n"
        "class Slow(FolderEndpoint):\n"
        "    def fetch(self, key, path):\n"
        "        path.with_name('.part-x').write_bytes(b'x'); print('in', flush=True); time.sleep(60)\n"
        "with Cache(sys.argv[1], max_bytes=3000).reading(Slow(sys.argv[2], name='s'), 'k0'): pass"
    )
    filler = subprocess.Popen([sys.executable, "-c", code, tmp_path / "cache", source.root], stdout=subprocess.PIPE)
    assert filler.stdout.readline() == b"in\n"
    cache = Cache(tmp_path / "cache", max_bytes=3 * KB, clock=Clock())
    cache.clean()
    assert cache.usage().size_bytes == KB, "a living fill keeps its room"
    filler.send_signal(signal.SIGKILL)
    filler.wait()
    filler.stdout.close()
    assert cache.clean() == 3 * KB
    assert list(tmp_path.glob("cache/filling/*")) == []
    assert read(cache, source, "k0") == b"\x00" * KB


def test_a_killed_eviction_is_healed_by_the_next_reading(cache, source):
    read(cache, source, "k0")
    next(cache._folder.glob("objects/*/*")).unlink()
    assert read(cache, source, "k0") == b"\x00" * KB
    assert cache.usage().size_bytes == KB


READER = """
import sys
from pathlib import Path
from backbone.cache import Cache
from backbone.folder import FolderEndpoint

folder, root, seed, kb = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
source = FolderEndpoint(root, name="source")
cache = Cache(folder, max_bytes=2500)
good = 0
for n in range(60):
    which = (n * 7 + seed) % 6
    with cache.reading(source, f"k{which}") as path:
        good += path.read_bytes() == bytes([which]) * kb
print(good, cache.usage().size_bytes)
"""


def test_processes_share_a_cache_and_all_read_right_bytes_within_the_bound(tmp_path, source):
    argv = [sys.executable, "-c", READER, str(tmp_path / "cache"), str(source.root)]
    readers = [subprocess.Popen([*argv, str(n), str(KB)], stdout=subprocess.PIPE, text=True) for n in range(2)]
    found = [tuple(map(int, reader.communicate(timeout=60)[0].split())) for reader in readers]
    assert [good for good, _ in found] == [60, 60]
    assert all(size <= 2500 for _, size in found)
