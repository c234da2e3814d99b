"""The family of errors that every room shares: try again later, or do not."""

from __future__ import annotations


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


class ObjectExists(PermanentError, FileExistsError):
    """A conditional create found the key taken."""


class ChecksumMismatch(PermanentError):
    """The bytes are not those that the checksum was made from."""


class EndpointFull(TransientError):
    """No space left at the endpoint; frees up when somebody cleans."""
