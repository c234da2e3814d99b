"""HTCondor's Python bindings: the one module that imports them. Errors become ours, and one process may speak with many pools.

    with pool_client(tokens, answer_s=20) as htcondor:
        schedd = locate_schedd(htcondor, "127.0.0.1:9618", name=None)

The bindings keep their configuration for the process, read once: it is given to them in memory, so that neither a file nor an
environment variable of this machine changes what they do.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workflow.errors import PoolRefused, PoolUnavailable, SettingsError

_LOCK = threading.RLock()
_ADVICE = (
    "Look at the token: of this pool's trust domain, not expired, mode 600, in the folder named `tokens` in the site's settings"
)
# SECMAN:2003, 2004, 2007 are of a daemon that is gone, or was started anew.
_DENIED = ("AUTHENTICATE", "SECMAN:2009", "SECMAN:2010", "DENIED", "AUTHORIZATION")


def load(config: Path | None = None) -> Any:
    """The bindings, with a configuration of their own; SettingsError where they are not installed.

    `config`: a file of HTCondor's instead, for a process that loads them for one pool alone.
    """
    asked = os.environ.get("CONDOR_CONFIG")
    os.environ["CONDOR_CONFIG"] = str(config or "ONLY_ENV")
    try:
        import htcondor2
    except ImportError as error:
        raise SettingsError("HTCondor's bindings are not installed: pip install 'pachon[condor]'") from error
    finally:
        if asked is None:
            del os.environ["CONDOR_CONFIG"]
        else:
            os.environ["CONDOR_CONFIG"] = asked
    return htcondor2


@contextmanager
def pool_client(tokens: Path, *, answer_s: float = 20) -> Iterator[Any]:
    """The bindings for calls with these tokens; calls of one process take turns, since what they are told is the process's."""
    with _LOCK:
        htcondor = load()
        for name, value in _client_config(tokens, answer_s).items():
            if htcondor.param.get(name) != value:
                htcondor.param[name] = value
        yield htcondor


def _client_config(tokens: Path, answer_s: float) -> dict[str, str]:
    seconds = str(max(1, round(answer_s)))
    return {
        "SEC_TOKEN_DIRECTORY": str(tokens),
        "SEC_CLIENT_AUTHENTICATION": "REQUIRED",
        "SEC_CLIENT_AUTHENTICATION_METHODS": "IDTOKENS",
        "SEC_CLIENT_INTEGRITY": "REQUIRED",
        "ENABLE_IPV6": "False",
        "QUERY_TIMEOUT": seconds,
        "Q_QUERY_TIMEOUT": seconds,
        "SEC_TCP_SESSION_TIMEOUT": seconds,
        "SEC_TCP_SESSION_DEADLINE": seconds,
        "HISTORY_HELPER_MAX_CONCURRENCY": "4",
    }


def locate_schedd(htcondor: Any, collector: str, *, name: str | None, answer_s: float = 20) -> Any:
    """The pool's schedd of this name, or its only one. Raises PoolUnavailable, or PoolRefused where we are not let in."""
    began = time.monotonic()
    try:
        asked = htcondor.Collector(collector)
        ad = asked.locate(htcondor.DaemonType.Schedd, name) if name else asked.locate(htcondor.DaemonType.Schedd)
    except Exception as error:
        action = f"asking the collector at {collector} for the schedd"
        # The bindings say the same of both: that nobody is there, and that somebody is and closes the door.
        if time.monotonic() - began < 0.8 * answer_s and _listens(collector):
            raise PoolRefused(f"{action}: not let in: {error} {_ADVICE}") from error
        raise translated(error, action) from error
    if ad is None:
        raise PoolUnavailable(
            f"the collector at {collector} answers, but knows no schedd {name or ''}: is it running, is its name right?"
        )
    return htcondor.Schedd(ad)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port or 9618)), timeout=2):
            return True
    except (OSError, ValueError):
        return False


def translated(error: Exception, action: str) -> PoolUnavailable:
    """An error of the bindings as ours; one that is ours already, as it is."""
    if isinstance(error, PoolUnavailable):
        return error
    words = " ".join(str(error).split()) or type(error).__name__
    if any(word in words for word in _DENIED):
        return PoolRefused(f"{action}: not let in: {words}. {_ADVICE}")
    return PoolUnavailable(f"{action}: no answer: {words}")
