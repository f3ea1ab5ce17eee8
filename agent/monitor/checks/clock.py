"""The clock: does it go right, and who says so.

What the VM times by itself goes by the monotonic clock, so that a step of this one raises no other
alarm; here it is told.
"""

from agent.monitor.checks import Check, ClockReading, Finding, Round, passed, skipped, warning
from agent.monitor.checks.resources import is_short
from agent.monitor.health import Level, Verdict

PATH = "/monitoring/thresholds/clock_offset_ms"


def judge(reading: ClockReading, limit_ms: int, *, was: bool) -> Finding:
    """`limit_ms` is how far it may be off; `was`: it was too far off before."""
    if abs(reading.stepped) * 1000 > limit_ms:
        way = "forward" if reading.stepped > 0 else "back"
        step = duration(abs(reading.stepped))
        return warning(f"the clock was set {step} {way} since it was last looked at")
    chrony = reading.chrony
    if chrony is None:
        return _without_chrony(reading)
    if not chrony.synchronised:
        if not chrony.sources:
            return skipped("there is nobody to ask for the time: no NTP server, no host's clock")
        return Finding(
            verdict=Verdict.FAILED,
            message=f"the clock goes by none of its {chrony.sources} sources",
            missing=("a source of time that answers",),
        )
    offset = abs(chrony.offset) * 1000
    short = is_short(offset, limit_ms, limit_ms / 5, was=was)
    return Finding(
        verdict=Verdict.FAILED if short else Verdict.PASSED,
        message=f"{offset:.3f} ms off {chrony.reference}, allowed are {limit_ms}",
        path=PATH if short else "",
        value=round(offset, 3),
        threshold=float(limit_ms),
        unit="milliseconds",
    )


def _without_chrony(reading: ClockReading) -> Finding:
    if not reading.may_be_set:
        return skipped("this machine's clock is its host's")
    if reading.kernel_synchronised:
        return passed("chrony does not run; somebody else keeps the kernel's clock right")
    said = {False: "the kernel's clock is not kept right", None: "nor does the kernel say more"}
    return Finding(
        verdict=Verdict.FAILED,
        message=f"chrony does not answer; {said[reading.kernel_synchronised]}",
        missing=("chrony.service",),
    )


def duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def run(given: Round) -> Finding:
    before = given.before.get("clock")
    was = before is not None and before.verdict is Verdict.FAILED
    return judge(given.machine.clock(), given.thresholds.clock_offset_ms, was=was)


CHECKS = (Check("clock", Level.BASIC, run, bare=True),)
