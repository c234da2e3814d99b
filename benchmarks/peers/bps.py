"""The strongest peer: lsst.ctrl.bps with DAGMan on HTCondor (and with Parsl on this machine), in an environment of its own.

One run: a fresh copy of the repository, `bps submit`, and the wall time until DAGMan has ended, its last job being the ingest
into the repository. The environment is made from `requirements.txt` beside this file, byte-compiled, and kept in the cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lsst.daf.butler import MissingDatasetTypeError
from quanta import INSTRUMENT, published

from deploy.condor.pool import CondorServer
from deploy.debian import cache
from deploy.processes import MARK, end, marked

HERE = Path(__file__).parent
_PASSED_ON = "CTRL_MPEXEC_DIR,DAF_BUTLER_DIR,CTRL_BPS_DIR,LSST_VERSION,OMP_NUM_THREADS,PYTHONPATH,_CONDOR_SEC_TOKEN_DIRECTORY"
_TOLD_EVERY_S = 20.0
_JOB_ENDED = b"\n005 ("  # an event of HTCondor's log


@dataclass(frozen=True)
class Variant:
    """One way to run a peer."""

    name: str
    quanta: int
    faulty: bool = False
    cluster: int | None = None
    """Quanta of one job; None is one quantum a job, as it comes."""
    tuned: bool = False
    """DAGMan looks every second and submits without limit."""
    parsl: bool = False


@dataclass(frozen=True)
class PeerRun:
    """What became of one run."""

    variant: Variant
    seconds: float
    published: int
    """Outputs that the repository has at the end."""
    ended: bool
    """False: stopped at its time limit."""
    jobs: int
    """HTCondor jobs that ended, whatever they were; 0 for Parsl."""
    configuration: dict[str, Any]

    @property
    def quanta_per_s(self) -> float:
        """Published by the second; of a run that was stopped no more than its jobs could have brought had all been published."""
        done = self.published if self.ended else self.jobs * (self.variant.cluster or 1)
        return done / self.seconds


@dataclass(frozen=True)
class Peers:
    """An environment and a working folder for peers."""

    folder: Path
    pool: CondorServer
    limit_s: float
    """Of one run."""
    say: Callable[[str], None] = print

    @property
    def environment_folder(self) -> Path:
        """The peers' own Python."""
        wanted = (HERE / "requirements.txt").read_bytes() + sys.version.encode()
        return cache() / "peers" / hashlib.sha256(wanted).hexdigest()[:12]

    def install(self) -> None:
        """Make the environment, once."""
        python = self.environment_folder / "bin" / "python"
        if (self.environment_folder / ".complete").exists():
            return
        self.say("installing the peers: some 60 packages")
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([str(uv), "venv", "-q", "--clear", "-p", sys.executable, str(self.environment_folder)], check=True)
        wanted = ["--require-hashes", "--compile-bytecode", "-r", str(HERE / "requirements.txt")]
        subprocess.run([str(uv), "pip", "install", "-q", "-p", str(python), *wanted], check=True)
        (self.environment_folder / ".complete").touch()

    def run(self, variant: Variant, repository: Path) -> PeerRun:
        """From `bps submit` to the end, or to the time limit; `repository` is copied first."""
        folder = self.folder / "runs" / variant.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.copytree(repository, folder / "repo")
        config = configuration(variant, folder)
        (folder / "bps.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        started = time.monotonic()
        ended = self._submitted(folder, may_fail=variant.parsl) and (variant.parsl or self._waited(folder, started))
        seconds = time.monotonic() - started
        if not ended and not variant.parsl:
            self.pool.command("condor_rm", "-all")
        return PeerRun(variant, seconds, _published(folder / "repo"), ended, _jobs_ended(folder), config)

    def _submitted(self, folder: Path, *, may_fail: bool) -> bool:
        """`bps submit`, which with Parsl is the whole run and has the exit code of its quanta; False at its time limit."""
        argv = [str(self.environment_folder / "bin" / "bps"), "submit", str(folder / "bps.yaml")]
        mark = f"{folder}:bps"
        with (folder / "bps.log").open("wb") as log:
            process = subprocess.Popen(argv, env=self.environment() | {MARK: mark}, stdout=log, stderr=log, cwd=folder)
        try:
            code = process.wait(self.limit_s)
        except subprocess.TimeoutExpired:
            return False
        finally:
            end(marked(mark))  # at its limit, bps itself; Parsl's workers, wherever they went
            process.wait()
        if code and not may_fail:
            raise SystemExit(f"bps submit failed; see {folder / 'bps.log'}")
        return True

    def environment(self) -> dict[str, str]:
        """What `bps` and its jobs need; nothing of the caller's."""
        own, programs = self.environment_folder, self.pool.programs
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return {
            "PATH": os.pathsep.join([f"{own}/bin", str(programs.bin), str(programs.sbin), os.defpath]),
            "HOME": str(home),
            "USER": "survey",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(HERE.parent),
            "LSST_VERSION": "none",
            **dict.fromkeys(("CTRL_MPEXEC_DIR", "DAF_BUTLER_DIR", "CTRL_BPS_DIR"), str(own)),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "CONDOR_CONFIG": str(self.pool.folder / "condor_config"),
            "_CONDOR_SEC_TOKEN_DIRECTORY": str(self.pool.token_file.parent),
            "_CONDOR_FILESYSTEM_DOMAIN": self.pool.site,
            "_CONDOR_DAGMAN_USE_STRICT": "0",
            "_CONDOR_DAGMAN_MANAGER_JOB_APPEND_GETENV": _PASSED_ON,
        }

    def _waited(self, folder: Path, started: float) -> bool:
        """Until DAGMan says that it exits; False at the time limit."""
        told = time.monotonic()
        while (now := time.monotonic()) < started + self.limit_s:
            logs = list((folder / "submit").glob("*.dag.dagman.out"))
            if logs and b"EXITING WITH STATUS" in logs[0].read_bytes()[-20_000:]:
                return True
            if now > told + _TOLD_EVERY_S:
                told = now
                self.say(f"  after {now - started:.0f} s {_jobs_ended(folder)} jobs have ended")
            time.sleep(0.1)
        return False


def _published(repository: Path) -> int:
    try:
        return published(repository)
    except MissingDatasetTypeError:  # nothing was ingested, not even the name of it
        return 0


def _jobs_ended(folder: Path) -> int:
    return sum(path.read_bytes().count(_JOB_ENDED) for path in (folder / "submit").glob("*.dag.nodes.log"))


def configuration(variant: Variant, folder: Path) -> dict[str, Any]:
    """The whole bps configuration of a variant."""
    kind = "parsl.ParslService" if variant.parsl else "htcondor.HTCondorService"
    local: dict[str, Any] = (
        {"class": "lsst.ctrl.bps.parsl.sites.Local", "cores": 2} if variant.parsl else {"profile": {"condor": {}}}
    )
    config: dict[str, Any] = {
        "wmsServiceClass": f"lsst.ctrl.bps.{kind}",
        "project": "peer",
        "campaign": "peer",
        "operator": "survey",
        "computeSite": "local",
        "pipelineYaml": str(HERE.parent / "echo.yaml"),
        "submitPath": str(folder / "submit"),
        "payload": {
            "payloadName": "echo",
            "butlerConfig": str(folder / "repo"),
            "inCollection": "in",
            "output": "u/survey/echo",
            "outputRun": "u/survey/echo/{timestamp}",
            "dataQuery": f"instrument='{INSTRUMENT}'",
        },
        "requestMemory": 512,
        "requestCpus": 1,
        "numberOfRetries": 2,
        "finalJob": {"requestCpus": 2, "requestMemory": 1024},
        "site": {"local": local},
    }
    if variant.tuned:
        config["wmsConfig"] = {"DAGMAN_USER_LOG_SCAN_INTERVAL": 1, "DAGMAN_MAX_SUBMITS_PER_INTERVAL": 1000}
    if variant.cluster is not None:
        config["clusterAlgorithm"] = "lsst.ctrl.bps.quantum_clustering_funcs.dimension_clustering"
        chunk = {"pipetasks": "echo", "dimensions": "instrument", "partitionDimensions": "exposure, detector"}
        config["cluster"] = {"chunk": {**chunk, "partitionMaxSize": variant.cluster}}
    if variant.parsl:
        config["parsl"] = {"log_level": "INFO"}
    return config
