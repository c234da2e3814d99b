"""A dispatch of jobs as one submit description: few kinds of requests, no shell, no macro made from data."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from workflow.errors import SettingsError
from workflow.pools.holds import MEMORY_SUBCODE, RELEASES, RETRIED_CODES
from workflow.pools.pool import JobRequest, Resources
from workflow.pools.settings import PRIORITY_CLASSES, HTCondorPool

MEMORY_STEP_MB = 512
"""Requests are rounded up: the negotiator's work grows with the number of different ones (autoclusters)."""
LATE_FROM = 200
"""From so many jobs on, the schedd makes them only as they can run."""
VACATE_S = 30
_RELEASE_AFTER_S = 20
_MEMORY_ROOM = 1.5
"""The runner ends a quantum that needs too much; the job is held only where the runner itself, with all it has loaded, does."""
# Pools of one machine call it by names of their own, and say its real one, which jobs report, in an attribute.
_HOST = "ifThenElse(isUndefined(TARGET.PachonHost), TARGET.Machine, TARGET.PachonHost)"
_HOST_NAME = re.compile(r"^[A-Za-z0-9_.-]+$")


def quantised_mb(memory_mb: int) -> int:
    """Memory to ask for."""
    return -(-memory_mb // MEMORY_STEP_MB) * MEMORY_STEP_MB


def kind_of(resources: Resources) -> tuple[object, ...]:
    """Jobs of one kind go into one cluster; their memory is item data and may differ."""
    return (resources.cpus, resources.group, resources.priority, resources.never_machines, resources.only_machines)


def description(
    pool: HTCondorPool, requests: Sequence[JobRequest], *, folder: Path, marks: dict[str, str], owner: str, command: Sequence[str]
) -> dict[str, str]:
    """Submit commands of a cluster of jobs of one kind, whose files are in `folder`; SettingsError for what cannot be quoted.

    `marks` become attributes of every job, by which they are found again. `command` is followed by the name of the job's message.
    """
    resources = requests[0].resources
    made = {
        "universe": "vanilla",
        "executable": command[0],
        "transfer_executable": "false",
        "arguments": _quoted([*command[1:]], more="$(key).json"),
        "environment": _quoted([f"{name}={value}" for name, value in _environment(pool, resources).items()]),
        "initialdir": literal(str(folder)),
        "output": "$(key).out",
        "error": "$(key).err",
        "log": "log",
        "submit_event_notes": "$(key)",
        "request_cpus": str(resources.cpus),
        "request_memory": "$(memory_mb)",
        "request_disk": "1024",
        "priority": str(resources.priority),
        "accounting_group": _group(resources),
        "accounting_group_user": owner,
        "job_max_vacate_time": str(VACATE_S),
        "job_lease_duration": str(pool.job_lease_s),
        "My.PachonKey": '"$(key)"',
        "periodic_release": _release_rule(),
        "periodic_hold": f"(JobStatus == 2) && (MemoryUsage > {_MEMORY_ROOM} * RequestMemory)",
        "periodic_hold_reason": 'strcat("used ", MemoryUsage, " MB of memory, asked for ", RequestMemory)',
        "periodic_hold_subcode": str(MEMORY_SUBCODE),
        **{f"My.{name}": f'"{value}"' for name, value in marks.items()},
        **_files(pool, marks["PachonSite"] if pool.filesystem_domain is None else pool.filesystem_domain),
    }
    if requirements := _requirements(pool, resources):
        made["requirements"] = requirements
    if len(requests) >= LATE_FROM and pool.files != "spool":
        made["max_idle"] = str(min(pool.idle_ceiling, max(LATE_FROM, pool.slots)))
    for name, value in made.items():
        if "\n" in value or "\0" in value:
            raise SettingsError(f"{name}: a line break or NUL in {value!r} would be read as another command")
    return made


def interpreter(pool: HTCondorPool) -> list[str]:
    """The command that runs a job's message."""
    return [pool.python or sys.executable, "-m", "payloads.runner"]


def literal(text: str) -> str:
    """Text in which HTCondor sees no macro."""
    return text.replace("$", "$(DOLLAR)")


def _environment(pool: HTCondorPool, resources: Resources) -> dict[str, str]:
    """Jobs inherit nothing: without a PATH of their own they have none."""
    base = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "OMP_NUM_THREADS": str(resources.cpus)}
    return {**base, **pool.environment}


def _files(pool: HTCondorPool, domain: str) -> dict[str, str]:
    if pool.files == "shared":
        # The client's own FileSystemDomain would become a requirement that no machine fulfils: jobs wait for ever, in silence.
        return {"should_transfer_files": "NO", "My.FileSystemDomain": _string(domain)}
    made = {"should_transfer_files": "YES", "when_to_transfer_output": "ON_EXIT", "transfer_input_files": "$(key).json"}
    made["transfer_output_files"] = '""'
    if pool.files == "spool":
        # Nobody here reads its log: what it came to is read from its ad, which stays until it is forgotten.
        made["leave_in_queue"] = "JobStatus == 4"
        del made["transfer_output_files"]
    return made


def _requirements(pool: HTCondorPool, resources: Resources) -> str:
    terms = [f"({pool.requirements})"] if pool.requirements else []
    if resources.never_machines:
        terms.append(f"!{_is_one_of(resources.never_machines)}")
    if resources.only_machines:
        terms.append(_is_one_of(resources.only_machines))
    return " && ".join(terms)


def _is_one_of(hosts: Sequence[str]) -> str:
    """Of the machine: a host that jobs call by its short name may have a long one."""
    for host in hosts:
        if not _HOST_NAME.match(host):
            raise SettingsError(f"{host!r} is no host name")
    names = "|".join(host.replace(".", "[.]") for host in sorted(hosts))
    return f'regexp("^({names})([.].*)?$", {_HOST}, "i")'


def _release_rule() -> str:
    codes = " || ".join(f"HoldReasonCode == {code}" for code in RETRIED_CODES)
    waited = f"(time() - EnteredCurrentStatus > {_RELEASE_AFTER_S} * (1 + NumHolds))"
    return f"(JobStatus == 5) && ({codes}) && (NumHolds <= {RELEASES}) && {waited}"


def _group(resources: Resources) -> str:
    if resources.group not in PRIORITY_CLASSES:
        raise SettingsError(f"priority class {resources.group!r}: known are {', '.join(PRIORITY_CLASSES)}")
    return resources.group


def _string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{literal(escaped)}"'


def _quoted(words: Sequence[str], *, more: str = "") -> str:
    """Words in HTCondor's syntax: double quotes around all, single ones around each; `more` as it is, macros included."""
    if any("$$(" in word for word in words):
        raise SettingsError(
            "$$(…) in a command or an environment: HTCondor would put a machine's value there, whatever quotes it has"
        )
    plain = [literal(word).replace("'", "''").replace('"', '""') for word in words]
    return '"' + " ".join([f"'{word}'" for word in plain] + ([more] if more else [])) + '"'
