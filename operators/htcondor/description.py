"""What to run, as HTCondor's submit description; every value is quoted, none can become a command or a macro."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backbone.errors import PermanentError
from operators.htcondor.key import KEY, SEEN
from operators.htcondor.settings import PoolSettings

KEPT_S = 10 * 24 * 3600
"""A job whose end no task takes note of leaves the queue after this; HTCondor's own time for spooled jobs."""
# CompletionDate is 0 when the expression is asked first.
KEEP = f"(JobStatus == 4) && ({SEEN} =!= true) && ((CompletionDate =?= undefined) || (CompletionDate == 0) || (time() - CompletionDate < {KEPT_S}))"  # noqa: E501
STDOUT, STDERR, EVENTS = "stdout", "stderr", "job.log"
_OURS = frozenset({"executable", "arguments", "environment", "output", "error", "log", "initialdir", "leave_in_queue", "queue"})


class JobDescriptionError(PermanentError, ValueError):
    """A job cannot be written as a submit description."""


@dataclass(frozen=True, kw_only=True)
class CondorJob:
    """An executable with its arguments, files and needs."""

    executable: str
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    input_files: Sequence[str] = ()
    """Files and folders (or URLs) to bring to the job; absolute paths on Airflow's side."""
    output_files: Sequence[str] | None = None
    """Files of the job's folder to bring back; None: all that are new or changed."""
    transfer_executable: bool = False
    cpus: int = 1
    memory_mb: int = 1024
    disk_mb: int = 1024
    extra: Mapping[str, str] = field(default_factory=dict)
    """More submit commands, given to HTCondor as they are (`requirements`, `+Attribute`, `accounting_group` …)."""

    def commands(self, *, folder: str, pool: PoolSettings, attributes: Mapping[str, str | int]) -> dict[str, str]:
        """The submit description; `folder` is the job's own on Airflow's side. Raises JobDescriptionError."""
        _refuse_ours(self.extra)
        made = {
            "universe": "vanilla",
            "executable": literal(self.executable),
            "transfer_executable": _yes(self.transfer_executable),
            "arguments": quoted(self.arguments),
            "environment": quoted([f"{name}={value}" for name, value in self.environment.items()]),
            "initialdir": literal(folder),
            "output": STDOUT,
            "error": STDERR,
            "log": EVENTS,
            "request_cpus": str(self.cpus),
            "request_memory": f"{self.memory_mb}MB",
            "request_disk": f"{self.disk_mb}MB",
            "leave_in_queue": KEEP,
            "batch_name": literal(f"{attributes['AirflowDagId']}/{attributes['AirflowTaskId']}"),
            **self._files(pool),
            **({"accounting_group": literal(pool.accounting_group)} if pool.accounting_group else {}),
        }
        made |= {f"My.{name}": _value(value) for name, value in attributes.items()}
        return {name: _single(name, value) for name, value in {**made, **self.extra}.items()}

    def _files(self, pool: PoolSettings) -> dict[str, str]:
        if pool.files == "shared":
            # The client's own FileSystemDomain would become a requirement that no machine of the pool fulfils, in silence.
            domain = {"My.FileSystemDomain": _value(pool.filesystem_domain)} if pool.filesystem_domain else {}
            return {"should_transfer_files": "NO", **domain}
        made = {"should_transfer_files": "YES", "when_to_transfer_output": "ON_EXIT"}
        if self.input_files:
            made["transfer_input_files"] = ", ".join(_listed(path, pool) for path in self.input_files)
        if self.output_files is not None:
            made["transfer_output_files"] = ", ".join(_listed(path, pool) for path in self.output_files) or '""'
        return made


def quoted(words: Sequence[str]) -> str:
    """Words in HTCondor's new syntax: double quotes around all, single quotes where a word needs them, no macros."""
    return '"' + " ".join(_word(word) for word in words).replace('"', '""') + '"'


def _word(word: str) -> str:
    plain = literal(word)
    return "'" + plain.replace("'", "''") + "'" if not word or any(c in " \t'" for c in word) else plain


def literal(text: str) -> str:
    """Text in which HTCondor sees no macro."""
    return text.replace("$", "$(DOLLAR)")


def _listed(path: str, pool: PoolSettings) -> str:
    # Spooling splits its list at blanks too (23.9.6).
    if any(character in path for character in (',"' + (" \t" if pool.files == "spool" else ""))):
        raise JobDescriptionError(
            f"file name {path!r}: HTCondor's lists of files cannot hold its commas, quotes or blanks; rename it"
        )
    return literal(path)


def _value(value: str | int) -> str:
    """A ClassAd literal."""
    if isinstance(value, int):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{literal(escaped)}"'


def _single(name: str, value: str) -> str:
    if any(character in f"{name}{value}" for character in "\n\r\0"):
        raise JobDescriptionError(f"submit command {name!r}: a line break or NUL in it would be read as another command")
    return value


def _refuse_ours(extra: Mapping[str, str]) -> None:
    for name in extra:
        plain = name.strip().lower().removeprefix("+").removeprefix("my.")
        if plain in _OURS or plain in {KEY.lower(), SEEN.lower(), "leavejobinqueue"}:
            raise JobDescriptionError(f"submit command {name!r} is the operator's own; leave it out of `extra`")


def _yes(value: bool) -> str:
    return "true" if value else "false"
