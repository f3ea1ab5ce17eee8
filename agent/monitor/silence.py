"""A daemon that does not answer: is it hung, or has it much to do and little CPU to do it with?

One that hangs sleeps: it neither runs nor waits to run. One that has a thousand browsers to greet,
or that others leave no CPU, does, and to kill it would lose what it has at hand. So it is given
more time; not for ever, for an endless loop runs as well.
"""

import enum
from dataclasses import dataclass, replace

MISSES = 3  # questions in a row without an answer, while it did nothing
BUSY_FOR = 24.0  # seconds without an answer for which being busy excuses it
_SHARE = 0.2  # of the time between two questions: who ran or waited for less did nothing


@dataclass(frozen=True, slots=True)
class CpuTime:
    """What a unit's processes have had of the CPU, in seconds; only differences mean anything."""

    at: float
    used: float
    waited: float  # in which one that could have run did not


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Questions in a row without an answer. Seconds are of a clock that never goes back."""

    since: float
    questions: int = 1
    idle: int = 1  # the last so many of them, between which it did nothing
    began: CpuTime | None = None
    last: CpuTime | None = None

    @property
    def words(self) -> str:
        """What it did meanwhile, for a person; empty where that is not known."""
        if self.began is None or self.last is None or self.began == self.last:
            return ""
        return (
            f"in {self.last.at - self.began.at:.1f} s it ran for "
            f"{self.last.used - self.began.used:.2f} s and waited for the CPU for "
            f"{self.last.waited - self.began.waited:.2f} s"
        )


class Verdict(enum.Enum):
    """What a silence means."""

    PERHAPS = "perhaps"  # it is too early to tell
    BUSY = "busy"
    HUNG = "hung"


def is_busy(before: CpuTime | None, after: CpuTime | None) -> bool:
    """Did it run, or wait to, for a good part of the time? Where that is not known, it did not."""
    if before is None or after is None or after.at <= before.at:
        return False
    spent = (after.used - before.used) + (after.waited - before.waited)
    return spent >= _SHARE * (after.at - before.at)


def missed(silence: Silence | None, cpu: CpuTime | None, now: float) -> Silence:
    """One more question has had no answer; `cpu` was read after it."""
    if silence is None:
        return Silence(since=now, began=cpu, last=cpu)
    idle = 1 if is_busy(silence.last, cpu) else silence.idle + 1
    began = cpu if silence.began is None else silence.began
    return replace(silence, questions=silence.questions + 1, idle=idle, began=began, last=cpu)


def judge(silence: Silence, now: float) -> Verdict:
    if silence.questions < MISSES:
        return Verdict.PERHAPS
    if silence.idle >= MISSES or now - silence.since >= BUSY_FOR:
        return Verdict.HUNG
    return Verdict.BUSY
