"""What goes wrong in the engine: all of these are for the reader of the message to mend."""

from __future__ import annotations

from backbone.errors import ConflictError as ConflictError
from backbone.errors import PermanentError, TransientError


class UnknownCampaign(PermanentError, LookupError):
    """The ledger knows no campaign, or no step, of this name."""


class ProductionError(PermanentError, ValueError):
    """A production file, or the parameters given for it, cannot be used."""


class SettingsError(PermanentError, ValueError):
    """The home's settings cannot be used."""


class PlanError(PermanentError):
    """A step cannot be planned as it is written."""


class EmptyGraph(PlanError):
    """A step plans no quantum, and its production does not allow that."""


class IllegalTransition(PermanentError, ValueError):
    """The table of states has no row for this state and event."""


class PoolUnavailable(TransientError):
    """The pool did not answer: what runs there is not known, and nothing is failed for that."""


class PoolRefused(PoolUnavailable):
    """The pool answered that it does not let us in, or takes no more: somebody must mend or make room, then it goes on."""
