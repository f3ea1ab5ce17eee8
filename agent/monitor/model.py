"""The nouns of the service monitor: what a service is, what is seen of it, and what to do.

Frozen values, as in `agent.engine.model`; what follows from what is in `agent.monitor.service`.
"""

import enum
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from agent.monitor.events import Event
from agent.monitor.silence import CpuTime


class State(enum.StrEnum):
    """What a service is, in one word."""

    STARTING = "starting"
    RUNNING = "running"
    DOWN = "down"
    STOPPED = "stopped"  # by somebody, though it is wanted
    BUSY = "busy"  # it does not answer, and runs or waits to run
    HUNG = "hung"
    CRASH_LOOP = "crash-loop"
    CONFIGURATION = "configuration-error"
    NOT_RECOVERED = "not-recovered"
    HELD = "held"
    DISABLED = "disabled"  # the document says not to watch it
    ABSENT = "absent"  # this image has no such daemon
    NOT_WANTED = "not-wanted"


class Reason(enum.StrEnum):
    """Why a service ended, or was ended."""

    CRASH = "crash"
    KILLED = "killed"
    OUT_OF_MEMORY = "out-of-memory"
    BUSY = "busy"
    HUNG = "hung"
    EXITED = "exited"
    STOPPED = "stopped"
    CONFIGURATION = "configuration"
    OTHER_FILES = "other-files"


# -- what is seen ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A unit as systemd tells of it (org.freedesktop.systemd1(5))."""

    active: str
    sub: str = ""
    pid: int = 0
    result: str = "success"
    code: int = 0  # as waitid(2): 1 exited, 2 killed, 3 dumped
    status: int = 0  # exit status, or signal
    restarts: int = 0  # by systemd itself, since somebody started it
    job: bool = False  # something is queued or under way for it
    able: bool = True  # its conditions hold

    @property
    def dying(self) -> bool:
        """Has it ended without being asked to? systemd then is about to start it again."""
        return "auto-restart" in self.sub

    @property
    def alive(self) -> bool:
        return self.active in {"active", "reloading"}

    @property
    def starting(self) -> bool:
        return self.active in {"activating", "active"} and not self.dying

    @property
    def stopped(self) -> bool:
        return self.active in {"inactive", "failed"} and not self.dying and not self.job


_CRASHES = frozenset(
    {
        signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE,
        signal.SIGSYS, signal.SIGTRAP, signal.SIGXCPU, signal.SIGXFSZ,
    }
)  # fmt: skip


def cause(process: Process) -> tuple[Reason, str]:
    """Why a process ended, with systemd's particulars."""
    detail = process.result
    if process.code in {2, 3}:
        try:
            detail = signal.Signals(process.status).name
        except ValueError:
            detail = f"signal {process.status}"
    elif process.status:
        detail = f"status {process.status}"
    match process.result:
        case "oom-kill":
            return Reason.OUT_OF_MEMORY, "the kernel's OOM killer"
        case "watchdog" | "timeout":
            return Reason.HUNG, process.result
        case "core-dump":
            return Reason.CRASH, detail
    if process.code in {2, 3}:
        return (Reason.CRASH if process.status in _CRASHES else Reason.KILLED), detail
    return Reason.EXITED, detail


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking a service. None is unknown: nobody to blame it on, or not asked."""

    ready: bool | None
    correct: bool | None = None
    detail: str = ""
    cpu: CpuTime | None = None  # had until now, where it did not answer


@dataclass(frozen=True, slots=True)
class Finding:
    """What its daemon says against a file."""

    file: str
    line: int = 0
    message: str = ""
    path: str = ""  # where in the document to look; empty where it is not from there
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class Examined:
    """What was looked up about a unit that does not start: files that a hand changed, its words."""

    changed: tuple[str, ...] = ()
    finding: Finding | None = None


# -- what follows ------------------------------------------------------------------------------


class Act(enum.Enum):
    """What to do to a unit."""

    START = "start"
    STOP = "stop"  # holds systemd's own restart back
    KILL = "kill"  # the main process; systemd starts it again
    EXAMINE = "examine"  # why it does not start
    PUT_BACK = "put-back"  # the running revision's files, through the engine; then start it
    READ = "read"  # the same, then have it read them


class Tone(enum.Enum):
    """Which sentence a line of the log has."""

    TRYING = "trying"
    BUSY = "busy"
    RECOVERED = "recovered"
    FAILED = "failed"
    RUNNING = "running"
    OTHER_FILES = "other-files"
    STILL_OTHER_FILES = "still-other-files"
    OWN_FILES = "own-files"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log."""

    tone: Tone
    alert: bool = False
    details: Mapping[str, object] | None = None


Effect = Act | Line | Event


# -- for people ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Who holds a unit, why, and until when (seconds since the epoch)."""

    unit: str
    until: float
    by: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A service, as the endpoint tells of it."""

    state: State
    alive: bool
    ready: bool | None
    correct: bool | None
    reason: str = ""
    detail: str = ""
    since: float  # seconds since the epoch
    restarts: int  # within the last ten minutes
    hold: Hold | None = None
