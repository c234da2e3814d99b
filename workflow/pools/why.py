"""Why a job of an HTCondor pool does not run, from its ad and the slots': what HTCondor's own analysis says, in one line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from workflow.pools.holds import words
from workflow.pools.schedd import Daemons

_IDLE, _RUNNING, _HELD = 1, 2, 5


def explain(daemons: Daemons, pool_id: str, key: str) -> str:
    """One line on a home's job with this key."""
    ads = daemons.ads(f'PachonPool == "{pool_id}" && PachonKey == "{key}"')
    if not ads:
        return "waits in the schedd, which makes jobs of its cluster as they can run"
    ad = ads[0]
    status = int(ad["JobStatus"])
    if status == _HELD:
        return words(ad.get("HoldReasonCode"), ad.get("HoldReasonSubCode"), str(ad.get("HoldReason") or ""))
    if status == _RUNNING:
        return _running(ad)
    return _idle(daemons, ad) if status == _IDLE else f"its status is {status}"


def _running(ad: Any) -> str:
    """Of starts the schedd's own count: NumJobStarts is the shadow's, 0 during the first and until it tells the schedd again."""
    since, starts = ad.get("JobCurrentStartDate"), int(ad.get("NumShadowStarts") or 1)
    when = f" since {datetime.fromtimestamp(int(since), UTC):%Y-%m-%d %H:%M:%S} UTC" if since else ""
    before = f", started {starts} times: before it was evicted, or its machine was lost" if starts > 1 else ""
    return f"runs on {ad.get('RemoteHost', 'a machine')}{when}{before}"


def _idle(daemons: Daemons, ad: Any) -> str:
    slots = daemons.slots([], 'PartitionableSlot =?= true || SlotType =?= "Static"')
    if not slots:
        return "no machine is in the pool"
    cpus, memory_mb = int(ad.eval("RequestCpus")), int(ad.eval("RequestMemory"))
    most_cpus = max(int(slot.get("TotalSlotCpus", slot["Cpus"])) for slot in slots)
    most_mb = max(int(slot.get("TotalSlotMemory", slot["Memory"])) for slot in slots)
    if memory_mb > most_mb or cpus > most_cpus:
        most = f"no slot of {len(slots)} has more than {most_mb} MB and {most_cpus} CPUs"
        return f"asks for {memory_mb} MB and {cpus} CPUs, and {most}"
    suited = [slot for slot in slots if _roomy(slot, ad)]
    if not suited:
        return f"none of {len(slots)} slots satisfies its requirements, or lets it in: {ad.lookup('Requirements')}"
    free = [slot for slot in suited if int(slot["Cpus"]) >= cpus and int(slot["Memory"]) >= memory_mb]
    rejected = str(ad.get("LastRejMatchReason") or "")
    if not free:
        return f"waits for a free slot: {len(suited)} would suit, none has {cpus} CPUs and {memory_mb} MB free {rejected}".strip()
    return f"waits for the next negotiation: {len(free)} slots are free {rejected}".strip()


def _roomy(slot: Any, ad: Any) -> bool:
    """Whether the slot would take the job if it were empty."""
    before = slot["Cpus"], slot["Memory"]
    slot["Cpus"], slot["Memory"] = slot.get("TotalSlotCpus", before[0]), slot.get("TotalSlotMemory", before[1])
    suits = bool(ad.symmetricMatch(slot))
    slot["Cpus"], slot["Memory"] = before
    return suits
