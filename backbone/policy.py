"""What people write about files: which copies where, by when, how long, public from when. YAML; unknown keys are errors.

A policy speaks of files by what they share (dataset type, collection, instrument, tags, retention class) and by age. Several may
match: copies add up, and at one endpoint the highest priority, the earliest date and the longest keeping hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, field_validator, model_validator

from backbone.errors import PolicyError
from backbone.models import Strict, nearest, parse

_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365.25 * 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdwy])")
UNARCHIVED_MIN_S = 30 * 86400  # 0310 l1CacheLifetime


def _seconds(value: Any) -> Any:
    """`90s 10m 6h 30d 2w 1y`, or a plain number of seconds."""
    if not isinstance(value, str):
        return value
    found = _DURATION.fullmatch(value.strip())
    if not found:
        raise ValueError(f"{value!r} is no duration; write 90s, 10m, 6h, 30d, 2w or 1y")
    return float(found[1]) * _UNIT_S[found[2]]


Duration = Annotated[float, BeforeValidator(_seconds), Field(ge=0)]


class Match(Strict):
    """Which files; what is not said matches everything."""

    dataset_types: tuple[str, ...] = Field(default=(), description="globs")
    collections: tuple[str, ...] = Field(default=(), description="globs; * also matches /")
    instruments: tuple[str, ...] = Field(default=(), description="globs")
    retention: tuple[str, ...] = Field(default=(), description="retention classes, globs")
    tags: tuple[str, ...] = Field(default=(), description="all of these")
    older_than: Duration = Field(default=0.0, description="from this age on")
    younger_than: Duration | None = Field(default=None, description="until this age")

    def matches(self, shared: Mapping[str, Any]) -> bool:
        """Whether files that share these values (tags as a list) are meant."""
        return (
            _any(self.dataset_types, shared["dataset_type"])
            and _any(self.collections, shared["collection"])
            and _any(self.instruments, shared["instrument"])
            and _any(self.retention, shared["retention"])
            and set(self.tags) <= set(shared["tags"])
        )


def _any(globs: tuple[str, ...], value: str) -> bool:
    return not globs or any(fnmatchcase(value, glob) for glob in globs)


class Copy(Strict):
    """A copy that must be somewhere."""

    at: str = Field(description="the endpoint's name")
    within: Duration = Field(
        default=86400.0, description="by when, after registration or after the age from which it is asked for"
    )
    priority: int = Field(default=50, ge=0, le=100, description="100 goes first")
    after: Duration = Field(default=0.0, description="asked for from this age on")
    keep: Duration | None = Field(default=None, description="kept until this age; none: for ever")
    fetch: bool = Field(default=True, description="false: kept where it is found, but never brought there")


class Public(Strict):
    """When files become public: never before `after`, by themselves at `latest`, in between by an act of publication."""

    after: Duration = 0.0
    latest: Duration | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Public:
        if self.latest is not None and self.latest < self.after:
            raise ValueError("latest is before after")
        return self


class Policy(Strict):
    """One policy."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    description: str = ""
    match: Match = Match()
    copies: tuple[Copy, ...] = ()
    floor: int = Field(default=1, ge=0, description="nothing is deleted that leaves fewer whole copies")
    public: Public | None = None
    unarchived: bool = Field(default=False, description="kept at least 30 days at two places and then dropped; its row remains")
    grace: Duration | None = Field(
        default=None, description="between the end of keeping and deletion; none: the settings' grace_s"
    )

    @field_validator("copies")
    @classmethod
    def _each_place_once(cls, copies: tuple[Copy, ...]) -> tuple[Copy, ...]:
        places = [copy.at for copy in copies]
        if len(set(places)) < len(places):
            raise ValueError(f"two copies at one endpoint among {', '.join(places)}")
        return copies

    @model_validator(mode="after")
    def _unarchived_is_kept_long_enough(self) -> Policy:
        if self.unarchived:
            long = [copy for copy in self.copies if copy.keep is not None and copy.keep >= UNARCHIVED_MIN_S]
            if len(long) < len(self.copies) or len(long) < 2:
                raise ValueError("unarchived files are kept at least 30d at each of at least two endpoints (0310): say keep: 30d")
        elif self.floor < 1:
            raise ValueError("floor: 0 lets the last copy be deleted; only unarchived policies drop files")
        return self


class _PolicyFile(Strict):
    policies: tuple[Policy, ...] = ()


def load_policies(paths: Iterable[Path], endpoints: Iterable[str]) -> tuple[Policy, ...]:
    """The policies of all files, checked against the known endpoints; PolicyError names file, place and what is wrong."""
    found: dict[str, Policy] = {}
    known = list(endpoints)
    for path in paths:
        try:
            data = yaml.safe_load(path.read_text())
        except OSError as error:
            raise PolicyError(f"{path}: cannot be read ({error.strerror}); see `policies:` in the settings") from error
        except yaml.YAMLError as error:
            raise PolicyError(f"{path}: not readable as YAML: {error}") from error
        for policy in parse(_PolicyFile, data or {}, what=str(path), error=PolicyError).policies:
            if policy.name in found:
                raise PolicyError(f"{path}: policy {policy.name} is there twice; rename one")
            found[policy.name] = policy
    return checked_policies(found.values(), known)


def checked_policies(policies: Iterable[Policy], endpoints: Iterable[str]) -> tuple[Policy, ...]:
    """The policies, sorted by name; PolicyError for an endpoint that is not known."""
    known = list(endpoints)
    chosen = sorted(policies, key=lambda policy: policy.name)
    for policy in chosen:
        for copy in policy.copies:
            if copy.at not in known:
                raise PolicyError(f"policy {policy.name}: no endpoint {copy.at!r}; {nearest(copy.at, known)}")
    return tuple(chosen)
