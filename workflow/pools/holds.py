"""Why HTCondor holds a job: its codes, as rows of data, in words for people and as a class of failure for the engine.

Codes: "Job ClassAd Attributes", HoldReasonCode, in HTCondor's manual.
"""

from __future__ import annotations

from dataclasses import dataclass

from workflow.job import Failure

MEMORY_SUBCODE = 102


RELEASES = 3
"""How often HTCondor lets a job go on by itself where the cause may pass."""
BY_HAND, SPOOLING = 1, 16


@dataclass(frozen=True)
class Hold:
    """What one kind of hold means."""

    failure: Failure | None
    """None: somebody's will, and no failure."""
    retried: bool
    """HTCondor releases it by itself a few times: the cause may pass."""
    advice: str

    def lasting(self, holds: int) -> Failure | None:
        """The class of the failure, where nothing but the engine will end the job's `holds`-th hold."""
        return None if self.retried and holds <= RELEASES else self.failure


_INPUT = Hold(
    "infrastructure", True, "a file could not be brought to the job: is it still there, does the worker reach its place?"
)
_OUTPUT = Hold("infrastructure", True, "a file could not be brought back: has the submit side room, may it be written?")
HOLDS: dict[int, Hold] = {
    BY_HAND: Hold(None, False, "somebody held it; `condor_release` or the engine's resume lets it go on"),
    3: Hold("infrastructure", False, "a rule of the pool or of the job held it: see the reason"),
    4: Hold("infrastructure", False, "the shadow could not use a token or certificate of the job: renew it, then release"),
    6: Hold("infrastructure", True, "the program could not be started: does the interpreter of the site's settings exist there?"),
    7: Hold("infrastructure", True, "output could not be opened: does the job's folder exist, may it be written?"),
    8: Hold("infrastructure", True, "input could not be opened: does the job's folder exist?"),
    9: Hold("infrastructure", True, "output could not be opened: does the job's folder exist, may it be written?"),
    10: Hold("infrastructure", True, "input could not be opened: does the job's folder exist?"),
    11: Hold("infrastructure", True, "an event could not be written to the job's log"),
    12: _OUTPUT,
    13: _INPUT,
    14: Hold("infrastructure", True, "the job's folder is not there, or may not be entered"),
    SPOOLING: Hold(None, False, "its input is being spooled; that ended if it lasts"),
    21: Hold("infrastructure", False, "the pool's own rule for machines held it: see the reason"),
    22: Hold("infrastructure", True, "the worker could not make the job's folder or user"),
    26: Hold("infrastructure", False, "a rule of the schedd held it: see the reason"),
    34: Hold("out_of_memory", False, "it used more memory than it asked for; the engine asks for more next time"),
    35: Hold("infrastructure", True, "the worker could not start its container or sandbox"),
    46: Hold("timeout", False, "it ran longer than it may"),
    47: Hold("timeout", False, "its program ran longer than it may"),
}
_OTHER = Hold("infrastructure", False, "see the reason; release it when that is mended, or let the engine try elsewhere")
RETRIED_CODES = tuple(code for code, hold in HOLDS.items() if hold.retried)


def hold_of(code: int | None, subcode: int | None) -> Hold:
    """What the hold with these codes means."""
    if subcode == MEMORY_SUBCODE:
        return HOLDS[34]
    return HOLDS.get(code or 0, _OTHER)


def words(code: int | None, subcode: int | None, reason: str) -> str:
    """One line for a person: HTCondor's reason, its codes, and what to look at."""
    return (
        f"held: {' '.join(reason.split()) or 'no reason given'} (code {code}, subcode {subcode}): {hold_of(code, subcode).advice}"
    )
