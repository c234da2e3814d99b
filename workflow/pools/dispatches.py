"""What was sent to a schedd, on disk: written before it is sent, so that nothing is sent twice whoever dies in between.

<folder>/id                     marks all jobs of this home, at this site
<folder>/lock                   held while something is sent
<folder>/dispatches/<id>/keys   JSON: the jobs' keys in the order of their process numbers, their class of priority
<folder>/dispatches/<id>/cluster   the schedd's answer
<folder>/dispatches/<id>/log    events of the cluster; <key>.json, .out, .err of each job beside it
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from workflow.pools.pool import JobRequest

_SUFFIXES = (".out", ".err", ".json")  # a job whose message is gone is forgotten: that goes last


@dataclass
class Dispatch:
    """Jobs that were sent together as one cluster."""

    id: str
    folder: Path
    keys: tuple[str, ...]
    group: str
    cluster: int | None = None
    """None: its submission was begun, and the answer is not known."""
    forgotten: set[str] = field(default_factory=set)
    procs: dict[str, int] = field(init=False)
    """Process number by key."""

    def __post_init__(self) -> None:
        self.procs = {key: proc for proc, key in enumerate(self.keys)}

    @property
    def log(self) -> Path:
        """Its events; the name is never used again, as numbers of clusters are after a spool was lost."""
        return self.folder / "log"

    @property
    def age_s(self) -> float:
        """Since its submission was begun, by the clock of the file system's host."""
        return time.time() - (self.folder / "keys").stat().st_mtime

    def answered(self, cluster: int) -> None:
        """The schedd has it."""
        _write(self.folder / "cluster", str(cluster))
        self.cluster = cluster

    def words(self, key: str, size: int = 500) -> str:
        """The end of what a job said on stderr."""
        try:
            return (self.folder / f"{key}.err").read_text(errors="replace")[-size:].strip()
        except OSError:
            return ""

    def forget(self, key: str, jobs_log: Path) -> None:
        """Remove a job's files, and the dispatch after its last; what the job said goes to `jobs_log`."""
        if said := self.words(key, 5000):
            with jobs_log.open("a") as file:
                file.write(f"--- job {key}\n{said}\n")
        for suffix in _SUFFIXES:
            (self.folder / f"{key}{suffix}").unlink(missing_ok=True)
        self.forgotten.add(key)
        if len(self.forgotten) == len(self.keys):
            shutil.rmtree(self.folder, ignore_errors=True)


class Dispatches:
    """All of one home at one site. Several processes may look; what another has sent is found by `refresh`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Dispatch] = {}
        (folder / "dispatches").mkdir(parents=True, exist_ok=True)
        self.id = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:32]
        """Marks the jobs of this home at this site; made of the path, so that it outlives what is in the folder."""
        self.of_key: dict[str, Dispatch] = {}

    @contextmanager
    def sending(self) -> Iterator[None]:
        """One at a time sends, so that what another has sent is seen."""
        with (self._folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def all(self) -> Sequence[Dispatch]:
        """Those that are known."""
        return tuple(self._known.values())

    def refresh(self) -> None:
        """Take in what other processes have sent, drop what they have forgotten."""
        there = {entry.name for entry in os.scandir(self._folder / "dispatches")}
        for gone in self._known.keys() - there:
            for key in self._known.pop(gone).keys:
                self.of_key.pop(key, None)
        for name in there - self._known.keys():
            if found := _read(self._folder / "dispatches" / name):
                self._add(found)
        for one in self._known.values():
            if one.cluster is None and (text := _text(one.folder / "cluster")):
                one.cluster = int(text)

    def new(self, requests: Sequence[JobRequest]) -> Dispatch:
        """Write down what will be sent, and copy the messages."""
        name = uuid.uuid4().hex
        folder = self._folder / "dispatches" / name
        folder.mkdir()
        for request in requests:
            shutil.copyfile(request.message, folder / f"{request.key}.json")
        made = Dispatch(name, folder, tuple(r.key for r in requests), requests[0].resources.group)
        _write(folder / "keys", json.dumps({"keys": made.keys, "group": made.group}))
        self._add(made)
        return made

    def drop(self, dispatch: Dispatch) -> None:
        """It was certainly not taken."""
        del self._known[dispatch.id]
        for key in dispatch.keys:
            self.of_key.pop(key, None)
        shutil.rmtree(dispatch.folder, ignore_errors=True)

    def forget(self, key: str) -> None:
        """A job has ended, and nobody will ask again."""
        dispatch = self.of_key.pop(key)
        dispatch.forget(key, self._folder.parent / "jobs.log")
        if not dispatch.folder.exists():
            self._known.pop(dispatch.id, None)

    def _add(self, dispatch: Dispatch) -> None:
        self._known[dispatch.id] = dispatch
        self.of_key.update({key: dispatch for key in dispatch.keys if key not in dispatch.forgotten})


def _read(folder: Path) -> Dispatch | None:
    """A dispatch from its files; None if it was only begun to be written, and so never sent."""
    text = _text(folder / "keys")
    if not text:
        return None
    content = json.loads(text)
    there = {entry.name for entry in os.scandir(folder)}
    forgotten = {key for key in content["keys"] if f"{key}.json" not in there}
    if len(forgotten) == len(content["keys"]):  # whoever forgot the last died before the folder was removed
        shutil.rmtree(folder, ignore_errors=True)
        return None
    cluster = _text(folder / "cluster")
    return Dispatch(
        folder.name, folder, tuple(content["keys"]), content["group"], int(cluster) if cluster else None, forgotten=forgotten
    )


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    part.replace(path)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
