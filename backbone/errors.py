"""The family of errors that every room shares: try again later, or do not."""

from __future__ import annotations

import logging

_refusals = logging.getLogger("backbone.refused")
_refusals.addHandler(logging.NullHandler())  # where nobody keeps a log, whoever is refused is told once, by the error


class PachonError(Exception):
    """Base of all errors of ours; the message names the object, the action tried and the reader's next step."""


class TransientError(PachonError):
    """May succeed later; `delay_s` is a first guess at when."""

    def __init__(self, message: str, *, delay_s: float = 5.0) -> None:
        super().__init__(message)
        self.delay_s = delay_s


class PermanentError(PachonError):
    """Will fail again however often it is tried: something must be changed first."""


class ObjectAbsent(PermanentError, FileNotFoundError):
    """The endpoint answered and says: no such object. (A refused or failed request is never this.)."""


class AccessRefused(PermanentError, PermissionError):
    """The endpoint refused these credentials, or this name."""


def refused(message: str) -> AccessRefused:
    """The error to raise, which is written to the log `backbone.refused` too: a refusal may be an attempt at something."""
    _refusals.warning("%s", message)
    return AccessRefused(message)


class ObjectExists(PermanentError, FileExistsError):
    """A conditional create found the key taken."""


class ChecksumMismatch(PermanentError):
    """The bytes are not those that the checksum was made from."""


class WrongPlace(TransientError):
    """What answers is not the place that the catalog knows: a disk is not mounted, or a bucket was made anew."""


class EndpointFull(TransientError):
    """No space left at the endpoint; frees up when somebody cleans."""


class ConflictError(PermanentError):
    """Something of this name exists with other content."""


class UnknownFile(PermanentError, LookupError):
    """The catalog has no file of this key."""


class PolicyError(PermanentError, ValueError):
    """A policy file, or the backbone's settings, cannot be used."""


class ObjectTooLarge(PermanentError):
    """The object is larger than the place may ever hold."""
