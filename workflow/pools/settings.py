"""What is to be known of an HTCondor pool: part of a site's settings, the same for a pool of this machine and for a cluster."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from backbone.models import Strict

PRIORITY_CLASSES = ("prompt", "offline", "ocs_batch", "cpp", "drp")
"""Accounting groups, the first served before all others."""


class Staying(Strict):
    """Whether jobs of a pool stay for others."""

    stay_s: float = Field(
        default=0,
        ge=0,
        description="a job's process stays on its slot so long, with Python, Butler and pipelines loaded, for further jobs (a "
        "warm worker): saves a start of seconds, keeps a slot from others; 0: it ends with its job",
    )


class HTCondorPool(Staying):
    """A pool, and how jobs of ours live in it."""

    kind: Literal["htcondor"]
    collector: str | None = Field(
        default=None, description="host:port of the pool's collector; default: the pool that `pachon up` starts here for the site"
    )
    schedd: str | None = Field(default=None, description="name of the schedd to submit to; default: the site's name")
    tokens: str = Field(
        default="secrets/condor", description="folder of IDTOKENS, mode 700, files 600 (relative to the home); the same for all"
    )
    slots: int = Field(ge=1, description="jobs of ours at the same time")
    reserved: int = Field(default=0, ge=0, description="of them for prompt alone")
    cores: int | None = Field(default=None, ge=1, description="of a pool started here: CPUs it says to have; default: slots")
    memory_mb: int = Field(default=65536, ge=1024, description="of a pool started here: memory it says to have")
    idle_ahead: int = Field(default=1, ge=0, description="jobs kept waiting so that a slot that falls free is taken up at once")
    idle_ceiling: int = Field(default=500, ge=1, description="most jobs waiting in the schedd, of each priority class")
    files: Literal["shared", "transfer", "spool"] = Field(
        default="shared",
        description="how messages reach jobs: by a file system that workers share with the engine (the cheapest), by HTCondor's "
        "file transfer from a schedd on the engine's host, or spooled to a schedd elsewhere",
    )
    filesystem_domain: str | None = Field(
        default=None, description="FILESYSTEM_DOMAIN of workers that share files with the engine; default: the site's name"
    )
    python: str | None = Field(default=None, description="interpreter on the workers that has Pachón; default: the engine's own")
    environment: dict[str, str] = Field(default_factory=dict, description="of jobs, which inherit nothing from the workers")
    requirements: str | None = Field(default=None, description="ClassAd expression that machines must satisfy besides")
    reconcile_s: float = Field(default=15, gt=0, description="between two queries of the schedd; events are read between them")
    job_lease_s: int = Field(
        default=120, ge=20, description="a worker that its schedd cannot reach for so long is given up, and its job waits again"
    )
    answer_s: float = Field(
        default=8, gt=0, description="a daemon that says nothing for so long is not reached; the engine waits no longer for it"
    )

    @model_validator(mode="after")
    def _some_for_others(self) -> HTCondorPool:
        if self.reserved >= self.slots:
            raise ValueError(f"reserved: all {self.slots} slots are for prompt; leave at least one to others")
        return self
