"""What the CPU was to somebody: how long it ran, and how long it could have run and did not.

A unit's figures are read only when it has not answered. They are its control group's: `cpu.stat`
(the kernel's cgroup-v2.rst), and `cpu.pressure` (its psi.rst), which goes on counting for a process
that is waiting now, and counts one as waiting that the group's quota keeps from running.
"""

import contextlib
import re
import time

from agent.monitor.silence import CpuTime

_GROUPS = "/sys/fs/cgroup"
_LONGEST = 4096  # bytes of a file
_MICROSECONDS = 1_000_000
_NANOSECONDS = 1_000_000_000


def of_unit(pid: int) -> CpuTime | None:
    """What the control group of a process has had; None where the kernel does not say."""
    try:
        found = re.search(r"^0::(.*)$", _text(f"/proc/{pid}/cgroup"), re.MULTILINE)
        group = f"{_GROUPS}{found[1]}" if found else ""
        stat, pressure = _text(f"{group}/cpu.stat"), ""
    except OSError:
        return None
    with contextlib.suppress(OSError):  # a kernel without pressure figures
        pressure = _text(f"{group}/cpu.pressure")
    return read(stat, pressure, time.monotonic())


def read(stat: str, pressure: str, at: float) -> CpuTime | None:
    """The figures of two files, read at this time; None where the first has none."""
    used = re.search(r"^usage_usec (\d+)$", stat, re.MULTILINE)
    waited = re.search(r"^some .* total=(\d+)$", pressure, re.MULTILINE)
    if used is None:
        return None
    return CpuTime(
        at, int(used[1]) / _MICROSECONDS, int(waited[1]) / _MICROSECONDS if waited else 0.0
    )


def waited_for() -> float:
    """Seconds in which the calling thread could have run and did not, since it began."""
    try:
        return int(_text("/proc/thread-self/schedstat").split()[1]) / _NANOSECONDS
    except (OSError, ValueError, IndexError):
        return 0.0


def _text(path: str) -> str:
    with open(path, "rb") as file:  # noqa: PTH123 - once for each question
        return file.read(_LONGEST).decode(errors="replace")
