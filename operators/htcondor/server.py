"""The child process that talks to HTCondor (`python -m operators.htcondor.server`): requests and answers are lines of JSON.

Why a process: HTCondor's library keeps Python's lock while it waits for the network (measured: 20 s for a stopped schedd),
so that in a triggerer everything else would stand still; its configuration is global to a process; and it may end the process.
The first line of the input is the settings, with the token by value if there is one: never in arguments, environment or logs.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from operators.htcondor.key import KEY, SEEN
from operators.htcondor.states import PROJECTION
from workflow.pools import bindings

_JOB_ID = re.compile(r"^\d+\.\d+$")
_KEY = re.compile(r"^[0-9A-Za-z_-]{1,128}$")
_ACCESS = re.compile(r"AUTHENTICATE:|SECMAN:20(09|10)|DENIED|not authorized|Authorization|authenticat|Permission", re.IGNORECASE)
# SECMAN:2003, 2004, 2007 are of a daemon that is gone, or was started anew.
_NETWORK = re.compile(
    r"communicat|fail(ed)? to connect|connect to|SECMAN:20(03|04|07)|timed? ?out|Unable to (locate|find)|fetch ads|end of", re.I
)
_BUSY = re.compile(r"MAX_JOBS_PER|MAX_JOBS_SUBMITTED|would exceed|disk|space", re.IGNORECASE)

_REMOVED = 3
_QUICK_S = 5.0
"""Whoever breaks off sooner refuses; later, it may have been too busy."""


class Failure(Exception):
    """An answer that is an error: `kind` is unavailable, refused or rejected."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def kind_of(message: str, *, submitting: bool) -> str:
    """Which of our errors a message of HTCondor's is; what is not recognised is not known, except at submission."""
    if _ACCESS.search(message):
        return "refused"
    if _NETWORK.search(message) or _BUSY.search(message):
        return "unavailable"
    return "rejected" if submitting else "unavailable"


class Server:
    """One schedd, located when first asked and again after every failure (a restarted pool has another address)."""

    def __init__(self, settings: Mapping[str, Any], condor: Any) -> None:
        self._settings, self._condor = settings, condor
        self._location: Any = None

    def answer(self, request: Mapping[str, Any]) -> Any:
        """Do what a request asks for; raises Failure."""
        operation: Callable[..., Any] = getattr(self, f"do_{request['do']}")
        try:
            return operation(**request.get("with", {}))
        except Failure:
            raise
        except Exception as error:  # the library raises its own kind, RuntimeError, OSError, TypeError …
            self._location = None
            message = str(error).strip() or type(error).__name__
            raise Failure(kind_of(message, submitting=request["do"] == "submit"), message) from error

    def do_submit(self, key: str, commands: dict[str, str], spool: bool) -> str:
        """Adopt or submit; of two that were submitted at the same moment the older one stays."""
        if known := self._adoptable(key):
            return _id(known[0])
        schedd = self._schedd()
        result = schedd.submit(self._condor.Submit(commands), count=1, spool=spool)
        ours = f"{result.cluster()}.{result.first_proc()}"
        oldest = next((_id(ad) for ad in self._adoptable(key)), ours)
        if oldest != ours:
            schedd.act(self._condor.JobAction.Remove, ours, ("another job of this task was submitted at the same moment", 1))
            return oldest
        if spool:
            self._spool(schedd, result, ours)
        return ours

    def _spool(self, schedd: Any, result: Any, ours: str) -> None:
        try:
            schedd.spool(result)
        except Exception:
            # It would be held for its input for ever. Should this fail too, the waiting task notices (states.SPOOLING_MAX_S).
            schedd.act(self._condor.JobAction.Remove, ours, ("its input files could not be sent", 1))
            raise

    def do_find(self, keys: list[str]) -> list[dict[str, Any]]:
        """The jobs of keys, the oldest of each key first, before those that are on their way out."""
        return [_plain(ad) for ad in self._jobs_of(keys)]

    def do_past(self, key: str) -> dict[str, Any] | None:
        """The newest job of a key that has left the queue, or is about to."""
        ours = f'{KEY} == "{_checked(key)}"'
        leaving = self._schedd().query(f"{ours} && {SEEN} =?= true", list(PROJECTION))
        found = leaving[-1:] or self._schedd().history(ours, list(PROJECTION), match=1)
        return _plain(found[0]) if found else None

    def do_ad(self, job_id: str) -> dict[str, Any] | None:
        """The whole ClassAd of one job."""
        cluster, process = _checked_id(job_id).split(".")
        constraint = f"ClusterId == {cluster} && ProcId == {process}"
        found = self._schedd().query(constraint, limit=1) or self._schedd().history(constraint, [], match=1)
        return _plain(found[0]) if found else None

    def do_act(self, action: str, key: str, reason: str) -> int:
        """Hold, release or remove; those that are in no state for it are not counted."""
        constraint = f'{KEY} == "{_checked(key)}" && {SEEN} =!= true'
        # A plain string as the reason is dropped by this version of the bindings.
        done = self._schedd().act(self._condor.JobAction[action], constraint, (reason, 1))
        return int(done["TotalSuccess"]) if done is not None else 0

    def do_acknowledge(self, job_id: str) -> None:
        """Let a completed job leave the queue."""
        cluster, process = _checked_id(job_id).split(".")
        if self._schedd().query(f"ClusterId == {cluster} && ProcId == {process}", ["ClusterId"], limit=1):
            self._schedd().edit(job_id, SEEN, "true")

    def do_retrieve(self, job_id: str) -> None:
        """Output files of a spooled job."""
        self._schedd().retrieve(_checked_id(job_id))

    def do_whoami(self) -> dict[str, str]:
        """Who we are to the schedd: asks for the right to submit."""
        location = self._located()
        known = self._condor.ping(location, "WRITE")
        return {
            "identity": str(known.get("MyRemoteUserName", "")),
            "schedd": str(location.get("Name", "")),
            "address": str(location.get("MyAddress", "")),
            "version": str(location.get("CondorVersion", "")),
        }

    def _adoptable(self, key: str) -> list[Any]:
        return [ad for ad in self._jobs_of([key]) if ad["JobStatus"] != _REMOVED]

    def _jobs_of(self, keys: list[str]) -> list[Any]:
        named = ",".join(_checked(key) for key in keys)
        constraint = f'{KEY} =!= undefined && stringListMember({KEY}, "{named}") && {SEEN} =!= true'
        found = self._schedd().query(constraint, list(PROJECTION))
        return sorted(found, key=lambda ad: (ad["JobStatus"] == _REMOVED, ad["ClusterId"], ad["ProcId"]))

    def _located(self) -> Any:
        if self._location is None:
            collector = self._condor.Collector(self._settings["collector"])
            schedd, kind = self._settings["schedd"], self._condor.DaemonType.Schedd
            begun = time.monotonic()
            try:
                self._location = collector.locate(kind, schedd) if schedd else collector.locate(kind)
            except Exception as error:
                raise self._no_collector(str(error), time.monotonic() - begun) from error
            if self._location is None:
                raise Failure("unavailable", f"the collector knows no schedd{' ' + schedd if schedd else ''}")
        return self._location

    def _no_collector(self, message: str, took_s: float) -> Failure:
        """HTCondor says the same of a collector that is not there and of one that does not let us in: look which it is."""
        host, _, port = self._settings["collector"].partition(":")
        try:
            socket.create_connection((host, int(port or 9618)), timeout=2).close()
        except (OSError, ValueError) as error:
            return Failure("unavailable", f"nothing answers at {self._settings['collector']}: {error}")
        if took_s > _QUICK_S:
            return Failure("unavailable", message)
        return Failure("refused", f"{message} It is there, and breaks off: is our token of this pool, and not expired?")

    def _schedd(self) -> Any:
        return self._condor.Schedd(self._located())


def configuration(settings: Mapping[str, Any], folder: Path) -> str:
    """The client's configuration; a token by value goes into a file of mode 600 in `folder`."""
    tokens = settings["token_directory"]
    if settings["token"]:
        (folder / "tokens").mkdir(mode=0o700)
        descriptor = os.open(folder / "tokens" / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(settings["token"].strip() + "\n")
        tokens = str(folder / "tokens")
    lines = [f"include : {settings['config_file']}"] if settings["config_file"] else []
    lines += [
        "SEC_CLIENT_AUTHENTICATION = REQUIRED",
        f"SEC_CLIENT_AUTHENTICATION_METHODS = {settings['authentication']}",
        "SEC_CLIENT_INTEGRITY = REQUIRED",
    ]
    # Tokens of root are looked for in the system's folder, others' in their own: both are this one.
    lines += [f"SEC_TOKEN_DIRECTORY = {tokens}", f"SEC_TOKEN_SYSTEM_DIRECTORY = {tokens}"] if tokens else []
    return "\n".join(lines) + "\n"


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests, one after another, until the input ends."""
    settings = json.loads(requests.readline())
    with tempfile.TemporaryDirectory(prefix="htcondor-client-") as folder:
        path = Path(folder) / "condor_config"
        path.write_text(configuration(settings, Path(folder)))
        server = Server(settings, bindings.load(path))
        for line in requests:
            try:
                answer: dict[str, Any] = {"value": server.answer(json.loads(line))}
            except Failure as failure:
                answer = {"kind": failure.kind, "message": str(failure)}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def _plain(ad: Any) -> dict[str, Any]:
    """A ClassAd as plain values: expressions as text, undefined ones left out."""
    made: dict[str, Any] = {}
    for name in ad:
        value = ad.eval(name)
        if isinstance(value, bool | int | float | str):
            made[str(name)] = value
        elif isinstance(value, list):
            made[str(name)] = [item for item in value if isinstance(item, bool | int | float | str)]
        elif not str(value).endswith("Undefined"):
            made[str(name)] = str(ad.lookup(name))
    return made


def _id(ad: Any) -> str:
    return f"{ad['ClusterId']}.{ad['ProcId']}"


def _checked(key: str) -> str:
    if not _KEY.match(key):
        raise Failure("rejected", f"{key!r} is no job key")
    return key


def _checked_id(job_id: str) -> str:
    if not _JOB_ID.match(job_id):
        raise Failure("rejected", f"{job_id!r} is no job id (CLUSTER.PROCESS)")
    return job_id


def main() -> None:
    """Keep the answers' stream to ourselves: whatever the library prints goes to the error stream."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
