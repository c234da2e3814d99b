"""What a quantum takes: wall time, CPU time, peak memory, each for it alone; and when a process began."""

from __future__ import annotations

import os
import time


class Meter:
    """Started when it is made."""

    def __init__(self) -> None:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak begins anew
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """`wall_s`, `cpu_s` and `peak_mb` until now."""
        return {
            "wall_s": round(time.perf_counter() - self._wall, 5),
            "cpu_s": round(time.process_time() - self._cpu, 5),
            "peak_mb": round(peak_mb(), 1),
        }


def peak_mb() -> float:
    """Largest resident memory of this process since the last `Meter`."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def process_began(pid: int) -> float:
    """When a process of this host started (Unix time), as the kernel knows it: before its first line of Python."""
    with open(f"/proc/{pid}/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
