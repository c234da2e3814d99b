"""The configuration of one pool: one loopback port, IDTOKENS or nothing, tuned for latency, groups in the order of priority."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from deploy.condor.programs import Programs
from deploy.ports import LOOPBACK
from deploy.processes import MARK
from workflow.pools.settings import PRIORITY_CLASSES, HTCondorPool

USER = "survey"
"""Who submits: the name in the client's token."""


@dataclass(frozen=True)
class PoolConfig:
    """All that a pool's configuration depends on."""

    name: str
    folder: Path
    port: int
    programs: Programs
    pool: HTCondorPool
    mark: str
    """`PACHON_PROCESS` of the jobs, so that `down` finds what lost its pool."""

    def text(self) -> str:
        """The whole configuration file."""
        sections = (self._places(), self._daemons(), self._security(), self._slots(), _priorities(), _TUNING)
        return "\n".join(sections)

    def _places(self) -> str:
        programs = self.programs
        return f"""
RELEASE_DIR = {programs.prefix}
LOCAL_DIR = {self.folder}
LOCAL_CONFIG_DIR =
LOCAL_CONFIG_FILE =
BIN = {programs.bin}
SBIN = {programs.sbin}
LIBEXEC = {programs.libexec}
LIB = $(RELEASE_DIR)/lib/condor
SHARE = $(RELEASE_DIR)/share/condor
ETC = $(LOCAL_DIR)
RUN = $(LOCAL_DIR)/run
LOG = $(LOCAL_DIR)/log
LOCK = $(LOCAL_DIR)/lock
SPOOL = $(LOCAL_DIR)/spool
EXECUTE = $(LOCAL_DIR)/execute
"""

    def _daemons(self) -> str:
        name = self.name
        return f"""
DAEMON_LIST = MASTER COLLECTOR NEGOTIATOR SCHEDD STARTD
COLLECTOR_NAME = {name}
MASTER_NAME = {name}
SCHEDD_NAME = {name}
STARTD_NAME = {name}
CONDOR_HOST = {LOOPBACK}
COLLECTOR_HOST = {LOOPBACK}:{self.port}
COLLECTOR_PORT = {self.port}
USE_SHARED_PORT = True
SHARED_PORT_PORT = {self.port}
NETWORK_INTERFACE = {LOOPBACK}
BIND_ALL_INTERFACES = False
ENABLE_IPV6 = False
# Ids of security sessions are made of host, pid and second. The pools' daemons have the same pids, each in a namespace of its
# own: under one host's name a client of both would mix up their sessions ("Failed to fetch ads").
NETWORK_HOSTNAME = {name}
UID_DOMAIN = {name}
FILESYSTEM_DOMAIN = {name}
TRUST_UID_DOMAIN = True
SOFT_UID_DOMAIN = True
STARTER_JOB_ENVIRONMENT = "{MARK}={self.mark}"
"""

    def _security(self) -> str:
        """Daemons are condor@pool, the submitter is survey@pool; there is no other way in."""
        name = self.name
        return f"""
TRUST_DOMAIN = {name}
SEC_PASSWORD_DIRECTORY = $(LOCAL_DIR)/passwords.d
SEC_TOKEN_POOL_SIGNING_KEY_FILE = $(LOCAL_DIR)/passwords.d/POOL
SEC_TOKEN_DIRECTORY = $(LOCAL_DIR)/tokens.d
SEC_TOKEN_SYSTEM_DIRECTORY = $(LOCAL_DIR)/tokens.d
SEC_DEFAULT_AUTHENTICATION = REQUIRED
SEC_DEFAULT_AUTHENTICATION_METHODS = IDTOKENS
SEC_DEFAULT_INTEGRITY = REQUIRED
SEC_DEFAULT_ENCRYPTION = OPTIONAL
ALLOW_READ = *@{name}
ALLOW_WRITE = *@{name}
ALLOW_DAEMON = condor@{name}
ALLOW_NEGOTIATOR = condor@{name}
ALLOW_ADMINISTRATOR = condor@{name}
ALLOW_ADVERTISE_MASTER = condor@{name}
ALLOW_ADVERTISE_SCHEDD = condor@{name}
ALLOW_ADVERTISE_STARTD = condor@{name}
"""

    def _slots(self) -> str:
        """One partitionable slot for all, another whose CPUs only prompt may have."""
        cores = self.pool.cores or self.pool.slots
        reserved = self.pool.reserved
        memory = self.pool.memory_mb
        host = socket.gethostname()
        lines = [f'PachonHost = "{host}"', "STARTD_ATTRS = $(STARTD_ATTRS) PachonHost"]
        lines += [f"NUM_CPUS = {cores}", f"MEMORY = {memory}", "RESERVED_MEMORY = 0"]
        general = f"cpus={cores - reserved}, memory={memory * (cores - reserved) // cores}, disk=90%"
        lines += ["NUM_SLOTS_TYPE_1 = 1", f"SLOT_TYPE_1 = {general}", "SLOT_TYPE_1_PARTITIONABLE = True"]
        if reserved:
            kept = f"cpus={reserved}, memory={memory * reserved // cores}, disk=10%"
            lines += ["NUM_SLOTS_TYPE_2 = 1", f"SLOT_TYPE_2 = {kept}", "SLOT_TYPE_2_PARTITIONABLE = True"]
            lines += ['SLOT_TYPE_2_START = TARGET.AcctGroup =?= "prompt"']
            lines += ["SLOT_TYPE_2_PachonReserved = True", "STARTD_ATTRS = $(STARTD_ATTRS) PachonReserved"]
        return "\n" + "\n".join(lines) + "\n"


def _priorities() -> str:
    """Each group may have the whole pool, and groups are served strictly in their order: no share is kept for a lower one.

    At first a group is given as many slots as its schedd asks for, less those that it has: by slots' ads, where a dead startd's,
    or a claim that died with its schedd, stay for minutes. What they keep waiting is served after all groups (AUTOREGROUP).
    """
    order = "5.0"
    for rank, group in reversed(list(enumerate(PRIORITY_CLASSES))):
        order = f'ifThenElse(AccountingGroup =?= "{group}", {rank}.0, {order})'
    quotas = "\n".join(f"GROUP_QUOTA_DYNAMIC_{group} = 1.0" for group in PRIORITY_CLASSES)
    return f"""
GROUP_NAMES = {", ".join(PRIORITY_CLASSES)}
{quotas}
NEGOTIATOR_ALLOW_QUOTA_OVERSUBSCRIPTION = True
GROUP_ACCEPT_SURPLUS = True
GROUP_AUTOREGROUP = True
GROUP_SORT_EXPR = {order}
"""


# USE_PROCD stays as it is: without it the startd counts a starter it has reaped as running and waits seconds for each job.
_TUNING = """
START = True
KILL = False
SUSPEND = False
WANT_SUSPEND = False
USE_PSS = True
PREEMPT = False
PERIODIC_EXPR_INTERVAL = 5
POLLING_INTERVAL = 2
STARTER_INITIAL_UPDATE_INTERVAL = 2
STARTER_UPDATE_INTERVAL = 5

NEGOTIATOR_INTERVAL = 1
NEGOTIATOR_MIN_INTERVAL = 1
NEGOTIATOR_CYCLE_DELAY = 1
SCHEDD_INTERVAL = 5
SCHEDD_MIN_INTERVAL = 1
JOB_START_COUNT = 100
JOB_START_DELAY = 0
# A claim is used again without asking who is more urgent: so long and no longer
CLAIM_WORKLIFE = 20
UPDATE_INTERVAL = 15
MAX_JOBS_RUNNING = 2000
MAX_JOBS_PER_SUBMISSION = 1000000
MAX_JOBS_PER_OWNER = 10000000
MAX_HISTORY_LOG = 1000000000
MAX_HISTORY_ROTATIONS = 3
JOB_EPOCH_HISTORY =
STARTD_HISTORY =
RunBenchmarks = False
STARTD_CRON_JOBLIST =
SCHEDD_CRON_JOBLIST =
SINGULARITY =
DOCKER =
# else each starter probes plugins that lack their interpreters
FILETRANSFER_PLUGINS = $(LIBEXEC)/curl_plugin
"""
