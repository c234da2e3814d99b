"""`python -m payloads.runner JOB.json`: does the job and exits (0 done, 3 could not begin, 4 could not report, 143 stopped)."""

from __future__ import annotations

import faulthandler
import logging
import sys
from pathlib import Path

from payloads.runner.supervisor import run_job
from workflow.job import JobMessage


def main() -> int:
    """Entry point."""
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("lsst").setLevel(logging.INFO)  # for the quanta's logs
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.WARNING)
    return run_job(JobMessage.model_validate_json(Path(sys.argv[1]).read_text()))


if __name__ == "__main__":
    sys.exit(main())
