"""Secrets of an installation: made once at random, kept in files that only their owner reads, never printed or logged."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

from backbone.errors import PermanentError


class SecretExposed(PermanentError):
    """A secret's file can be read by others."""


def secret(home: Path, name: str, *, fernet: bool = False) -> str:
    """The secret `name` of this home, made at the first asking; `fernet` makes 32 bytes in urlsafe base64.

    The file is made with mode 600 by exclusive creation, so that two first askers agree on one value.
    """
    path = home / "secrets" / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    value = base64.urlsafe_b64encode(os.urandom(32)).decode() if fernet else secrets.token_urlsafe(32)
    temporary = path.with_name(f".{name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(value)
    try:
        os.link(temporary, path)  # the first wins, whole or not at all
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    if path.stat().st_mode & 0o077:
        raise SecretExposed(f"{path} can be read by others: run `chmod 600 {path}`, or delete it to have a new one made")
    return path.read_text()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
    part.replace(path)
