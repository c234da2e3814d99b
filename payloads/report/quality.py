"""Numbers of the summary against what is wanted of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """One number of the summary, how it is written, and its limit."""

    key: str
    label: str
    limit: float
    sense: Literal["at most", "at least"]
    form: str  # of the number, as str.format takes it


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A row of the table of quality; state `none`: the number is not known."""

    label: str
    value: str
    wanted: str
    state: Literal["good", "bad", "none"]


# What the first whole system was asked for (docs/requirements.md).
THRESHOLDS = (
    Threshold(key="bias_noise_ratio", label="Noise of the worst master bias over that of its estimator", limit=1.05,
              sense="at most", form="{:.2f}"),
    Threshold(key="dark_noise_ratio", label="Noise of the worst master dark over that of its estimator", limit=1.05,
              sense="at most", form="{:.2f}"),
    Threshold(key="flat_rms", label="Error of the worst master flat, rms", limit=0.005, sense="at most", form="{:.2%}"),
    Threshold(key="astrometry_rms_pix", label="Astrometry of the median frame, rms", limit=0.1, sense="at most",
              form="{:.3f} px"),
    Threshold(key="transient_completeness_snr10", label="Transients alerted, of those above 10 σ", limit=0.9, sense="at least",
              form="{:.1%}"),
    Threshold(key="alert_unmatched_fraction", label="Alerts that show nothing real", limit=0.2, sense="at most", form="{:.1%}"),
    Threshold(key="asteroid_tracklet_fraction", label="Asteroids linked, of those seen three times a night", limit=0.9,
              sense="at least", form="{:.1%}"),
    Threshold(key="known_object_max_offset_pix", label="Known object: farthest from where it is known to be", limit=3.0,
              sense="at most", form="{:.2f} px"),
)  # fmt: skip


def judge(summary: Mapping[str, Any], *, truth: bool) -> list[Verdict]:
    """A verdict on every number that this run could know: those of truth only with `truth`, known objects only where given."""
    rows = []
    for t in THRESHOLDS:
        value = summary.get(t.key)
        needs_truth = t.key.startswith(("transient", "alert", "asteroid"))
        if value is None and ((needs_truth and not truth) or t.key == "known_object_max_offset_pix"):
            continue
        wanted = f"{t.sense} {t.form.format(t.limit)}"
        if value is None:
            rows.append(Verdict(label=t.label, value="–", wanted=wanted, state="none"))
            continue
        met = value <= t.limit if t.sense == "at most" else value >= t.limit
        rows.append(Verdict(label=t.label, value=t.form.format(value), wanted=wanted, state="good" if met else "bad"))
    return rows
