"""A number that was measured, and what it is about."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from backbone.errors import PermanentError

_WORD = re.compile(r"[^\s=]+")


class MetricError(PermanentError, ValueError):
    """A metric that cannot be written down."""


def subject_text(subject: Mapping[str, object]) -> str:
    """`amplifier=A detector=3`: keys in order, so that the same thing has the same text; MetricError for blanks and `=`."""
    words = {str(key): str(value) for key, value in subject.items()}
    for word in (*words, *words.values()):
        if not _WORD.fullmatch(word):
            raise MetricError(f"subject {dict(subject)}: {word!r} must not be empty, nor hold blanks or '='")
    return " ".join(f"{key}={words[key]}" for key in sorted(words))


def subject_of(text: str) -> dict[str, str]:
    """Inverse of `subject_text`; all values are text."""
    return dict(word.split("=", 1) for word in text.split())


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of one thing on one observing day. `value` None or NaN: it was tried, and could not be measured."""

    name: str
    value: float | None
    unit: str = ""
    instrument: str
    day_obs: int
    source: str
    """What measured it: a campaign, or a campaign and step. The same source's next value takes the place of this one."""
    subject: Mapping[str, object] = field(default_factory=dict)
    """Data ID and finer: detector, amplifier, physical_filter, visit …; empty: the instrument's day as a whole."""

    @property
    def known(self) -> float | None:
        """The value, None also for NaN and infinities: databases and JSON have neither."""
        return self.value if self.value is not None and math.isfinite(self.value) else None

    @property
    def key(self) -> tuple[str, str, int, str, str]:
        """What makes it the same metric."""
        return self.name, self.instrument, self.day_obs, subject_text(self.subject), self.source
