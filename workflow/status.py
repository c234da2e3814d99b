"""What the engine tells others about a campaign: immutable, plain values only, ready for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from workflow.states import CAMPAIGN_TERMINAL, CampaignState, StepState


@dataclass(frozen=True, kw_only=True)
class StepStatus:
    """One step, counted in quanta of its current generation."""

    name: str
    state: StepState
    expected: int = 0
    """Quanta planned; 0 until the step is planned."""
    accepted: int = 0
    published: int = 0
    failed: int = 0
    """FAILED, or PRUNED since an ancestor failed."""
    running: int = 0
    """In a job: waiting in a pool, or executing."""
    reason: str = ""
    """Why the step is not further, or why it ended as it did."""
    released: bool = True


@dataclass(frozen=True, kw_only=True)
class CampaignStatus:
    """One campaign and its steps, in order."""

    name: str
    production: str
    state: CampaignState
    steps: tuple[StepStatus, ...] = ()
    owner: str = ""
    reason: str = ""
    """Why it failed, or was paused or cancelled."""

    @property
    def ended(self) -> bool:
        """Whether the engine will do nothing more without an operator's word."""
        return self.state in CAMPAIGN_TERMINAL

    def step(self, name: str) -> StepStatus:
        """The step of this name; KeyError if there is none."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(f"campaign {self.name} has no step {name}; it has {', '.join(s.name for s in self.steps)}")

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries and strings."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class LabelReport:
    """One task label: quanta by state (every `QuantumState` is a key) and how many are expected."""

    step: str
    label: str
    states: dict[str, int]
    expected: int


@dataclass(frozen=True, kw_only=True)
class CampaignReport:
    """As `bps report`: label × state with EXPECTED, and failures by class with one example of each."""

    campaign: CampaignStatus
    labels: tuple[LabelReport, ...]
    errors: tuple[dict[str, Any], ...] = field(default=())
    """`step label failure_class payload count wall_s example quantum`, of attempts at current quanta, most frequent first;
    `payload` is whether the payload is to blame, and not host, transfer or pool.
    """
    accounting: dict[str, Any] = field(default_factory=dict)
    """As of `workflow.accounting.accounting`."""

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries and strings."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class RetryReport:
    """What `retry` did, or with `dry_run` would do: shown before any rescue, and never larger than what had failed."""

    campaign: str
    failed: int
    pruned: int
    """Descendants of the failed ones."""
    steps: tuple[str, ...]
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    """step/label → state → quanta."""
    core_hours: float = 0.0
    """Expected, by what the labels took until now."""
    unplanned: int = 0
    """Quanta that a hot fix could not plan again: a retry leaves them alone, another hot fix plans them."""
    dry_run: bool

    @property
    def quanta(self) -> int:
        """That would run."""
        return self.failed + self.pruned

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries and strings."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class BacklogEntry:
    """A quantum that was due and was not done, with the reason: work for the offline production."""

    campaign: str
    step: str
    label: str
    visit: int | None
    detector: int | None
    data_id: dict[str, Any]
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries and strings."""
        return asdict(self)
