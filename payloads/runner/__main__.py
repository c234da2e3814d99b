"""`python -m payloads.runner JOB.json`: does the job, or becomes the program that it names.

Exits with 0 done, 3 could not begin, 4 could not report, 143 stopped.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROGRAMS = {"chunk": "payloads.runner", "prompt": "services.prompt"}
"""What pools run, by the message's `program`: a chunk of quanta, or a worker of the night."""


def main() -> int:
    """Entry point."""
    faulthandler.enable()
    message = json.loads(Path(sys.argv[1]).read_text())
    wanted, program = other_interpreter(message), PROGRAMS[message.get("program", "chunk")]
    if wanted or program != "payloads.runner":
        python = wanted or sys.executable
        os.execv(python, [python, "-m", program, *sys.argv[1:]])  # noqa: S606 (of the settings and the table, no shell)
    # After that: these bring 2 s of imports, of the software that the job is bound to.
    from payloads.runner.supervisor import run_job
    from payloads.runner.worker import serve
    from workflow.job import JobMessage

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("lsst").setLevel(logging.INFO)  # for the quanta's logs
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.WARNING)
    job = JobMessage.model_validate_json(Path(sys.argv[1]).read_text())
    return serve(job) if job.stay else run_job(job)


def other_interpreter(message: Mapping[str, Any]) -> str | None:
    """Python of the software that a job is bound to, where that is not the one that runs."""
    wanted: str | None = message.get("interpreter")
    return wanted if wanted and Path(wanted) != Path(sys.executable) else None  # of a venv it is a link: never resolved


if __name__ == "__main__":
    sys.exit(main())
