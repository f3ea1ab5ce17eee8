"""CPU, memory, the state partition's room, the table of connections: what can run out.

A resource is short beyond its threshold, and well again only some way on the good side, so that one
that lies at its threshold does not tell the same again and again.
"""

from agent.monitor.checks import Check, Finding, Round, skipped
from agent.monitor.health import Level, Verdict

ALL = 100  # percent; as a threshold, it is never exceeded
MARGIN = 5.0  # points of a percentage on the good side from which it is well again
ROOM_MARGIN = 0.2  # and the part of a threshold that counts in MiB or inodes
MIB = 1024 * 1024


def is_short(
    value: float, threshold: float, margin: float, *, was: bool, scarce: bool = False
) -> bool:
    """Is there too much in use; or, of what is `scarce`, too little left?

    Once it was short, it is so until the value is better than the threshold by the margin, or by
    as much as can be where the margin reaches beyond that (a threshold of 3 percent in use).
    """
    if scarce:
        return value < (threshold + margin if was else threshold)
    return value > (max(threshold - margin, threshold / 2) if was else threshold)


def _judge(
    what: str, value: float, threshold: float, unit: str, *, short: bool, path: str
) -> Finding:
    verdict = Verdict.FAILED if short else Verdict.PASSED
    return Finding(
        verdict=verdict, message=what, path=path if short else "", value=round(value, 3),
        threshold=float(threshold), unit=unit,
    )  # fmt: skip


def _was(given: Round, name: str) -> bool:
    before = given.before.get(name)
    return before is not None and before.verdict is Verdict.FAILED


def _path(field: str) -> str:
    return f"/monitoring/thresholds/{field}"


def _in_use(
    given: Round, name: str, percent: float, threshold: int, field: str, of: str
) -> Finding:
    was = _was(given, name)
    short = threshold < ALL and is_short(percent, threshold, MARGIN, was=was)
    text = f"{percent:.0f} % of {of} in use, allowed are {threshold} %"
    return _judge(text, percent, threshold, "percent", short=short, path=_path(field))


def cpu(given: Round) -> Finding:
    seen = given.machine.cpu()
    if seen is None:
        return skipped("it has not been watched for long enough yet")
    share, seconds = seen
    limit = given.thresholds.cpu_percent
    of = f"the CPU over {seconds:.0f} s"
    return _in_use(given, "cpu", share * 100, limit, "cpu_percent", of)


def memory(given: Round) -> Finding:
    available, total = given.machine.memory()
    limit = given.thresholds.memory_percent
    percent = 100 * (1 - available / total)
    return _in_use(given, "memory", percent, limit, "memory_percent", f"{total // MIB} MiB memory")


def disk(given: Round) -> Finding:
    room = given.machine.room()
    limit = given.thresholds.disk_free_mib
    free = room.free / MIB
    short = is_short(free, limit, limit * ROOM_MARGIN, was=_was(given, "disk"), scarce=True)
    text = f"{free:.0f} of {room.total // MIB} MiB free on the state partition, needed are {limit}"
    return _judge(text, free, limit, "MiB", short=short, path=_path("disk_free_mib"))


def inodes(given: Round) -> Finding:
    room = given.machine.room()
    if not room.inodes:
        return skipped("the state partition's file system has no fixed number of inodes")
    limit = given.thresholds.inodes_free_percent
    free = 100 * room.inodes_free / room.inodes
    short = is_short(free, limit, limit * ROOM_MARGIN, was=_was(given, "inodes"), scarce=True)
    text = f"{free:.0f} % of {room.inodes} inodes free, needed are {limit} %"
    return _judge(text, free, limit, "percent", short=short, path=_path("inodes_free_percent"))


def connections(given: Round) -> Finding:
    count, most = given.machine.connections()
    if not most:
        return skipped("the kernel's table of connections has no limit")
    limit = given.thresholds.connections_percent
    of = f"{most} tracked connections"
    return _in_use(given, "connections", 100 * count / most, limit, "connections_percent", of)


def writable(given: Round) -> Finding:
    trouble = given.machine.write()
    if trouble:
        return Finding(verdict=Verdict.FAILED, message=f"the state partition: {trouble}")
    problem = given.machine.state_problem()
    if problem:
        return Finding(
            verdict=Verdict.WARNING, message=f"nothing stored outlives this boot: {problem}"
        )
    return Finding(verdict=Verdict.PASSED, message="a file was written durably")


CHECKS = (
    Check("cpu", Level.BASIC, cpu, bare=True),
    Check("memory", Level.BASIC, memory, bare=True),
    Check("disk", Level.BASIC, disk, bare=True),
    Check("inodes", Level.BASIC, inodes, bare=True),
    Check("writable", Level.BASIC, writable, bare=True),
    Check("connections", Level.BASIC, connections, bare=True),
)
# Those whose failure is a resource that is short.
RESOURCES = frozenset({"cpu", "memory", "disk", "inodes", "connections"})
