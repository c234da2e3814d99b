"""Commands of the science rooms, each as a process of its own: what is orchestrated is not imported."""

from __future__ import annotations

import logging
import subprocess
import sys

from airflow.sdk.exceptions import AirflowException

_log = logging.getLogger(__name__)
TIMEOUT_S = 1800.0


def ask(*words: str) -> str:
    """What `pachon WORDS` prints; where it fails, its last words as an error that Airflow tries again."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", *words], capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    if done.returncode:
        raise AirflowException(f"pachon {' '.join(words)}: {done.stderr.strip()[-2000:] or done.stdout.strip()[-2000:]}")
    _log.info("pachon %s: %s", " ".join(words), done.stdout.strip()[-500:])
    return done.stdout
