"""The thread that asks the daemons, and that looks up what takes long; it decides nothing.

It tells the thread that hears and acts by messages, which are values.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Protocol

from agent.engine.errors import Busy, EngineError
from agent.engine.host import CheckFailed, HostFull, StepFailed
from agent.engine.model import Desired, Plan, Probe, ProbeResult, SshGreets
from agent.engine.store import Revision
from agent.monitor.examine import examine
from agent.monitor.model import Act, Answer, Examined
from agent.monitor.service import Service
from agent.monitor.watched import RARE, Watched, answer, watched
from agent.services import monitoring
from agent.system import cpu_time, lock
from agent.system.paths import Paths
from agent.system.unit_watch import is_stopped, name_thread

EVERY = 1.8  # seconds between two questions: three, and the last one's time-out, are within six
EAGERLY = 0.1  # seconds between two questions to what has just started
RARELY = 30.0  # seconds between two of the questions that cost the daemon something
TIMEOUT = 0.5  # seconds that an answer may take
PROCESS_TIMEOUT = 2.0  # where the daemon starts a process for it
STARVED = 0.3  # seconds beyond that in which nobody ran, who is to blame
LATE = 3 * EVERY  # seconds between two rounds: nobody ran meanwhile, who is to blame

_log = logging.getLogger(__name__)


class Engine(Protocol):
    """What the monitor needs of `agent.engine.transaction.Engine`."""

    def current(self) -> Revision: ...
    def desired(self) -> Desired: ...
    def drift(self) -> Plan: ...
    def put_files_back(self) -> None: ...
    def read_files(self, unit: str) -> None: ...


class Prober(Protocol):
    """What the monitor needs of `agent.system.probes.Prober`."""

    def once(self, probe: Probe, timeout: float) -> ProbeResult: ...


# -- what the threads tell each other -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    services: Mapping[str, Watched]
    epoch: str
    revision: int


@dataclass(frozen=True, slots=True)
class Answered:
    unit: str
    pid: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Looked:
    unit: str
    found: Examined


@dataclass(frozen=True, slots=True)
class PutBack:
    """Files were put back, or could not be; then the unit is started, or has read them."""

    unit: str
    act: Act
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Cleared:
    unit: str


@dataclass(frozen=True, slots=True)
class Ruled:
    """Holds are others than they were."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The asking thread is alive."""


Message = Wanted | Answered | Looked | PutBack | Cleared | Ruled | Beat


# -- is the machine being changed? ---------------------------------------------------------------


def epoch_of(paths: Paths) -> str:
    """Which state this is: another one from the beginning of a change on, and after it."""
    try:
        status = (paths.state / "state.json").stat()
    except OSError:
        return ""
    return f"{status.st_ino}:{status.st_mtime_ns}"


def is_changing(paths: Paths, known: str) -> bool:
    """Is somebody changing the machine, or has done so since the state was `known`?

    Where that cannot be told, as without a free descriptor, somebody is.
    """
    if epoch_of(paths) != known:
        return True
    try:
        with lock.held(paths.lock):
            return False
    except (Busy, OSError):
        return True


# -- asking --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Asked:
    """When a service was asked last, and whether all of it has to be asked next."""

    at: float = 0.0
    rarely_at: float = 0.0
    pid: int = 0
    all: bool = True


@dataclass(slots=True)
class Asker:
    """`run` is its thread's work; `services` and `wanted` are the other thread's, to read."""

    engine: Engine
    prober: Prober
    paths: Paths
    tell: Callable[[Message], None]
    services: Callable[[], Mapping[str, Service]]
    wanted: Callable[[], tuple[Mapping[str, Watched], str]]  # and in which state
    _tasks: "SimpleQueue[tuple[Act, str]]" = field(default_factory=SimpleQueue)
    _nudge: threading.Event = field(default_factory=threading.Event)
    _asked: dict[str, _Asked] = field(default_factory=dict)

    def nudge(self) -> None:
        """Something has started, or a change is over: do not wait."""
        self._nudge.set()

    def work(self, act: Act, unit: str) -> None:
        """Have something done that takes long."""
        self._tasks.put((act, unit))
        self._nudge.set()

    def run(self, stop: threading.Event) -> None:
        """Ask until `stop` is set."""
        name_thread("ask")
        began = time.monotonic()
        while not stop.is_set():
            late = time.monotonic() - began > LATE
            began = time.monotonic()
            self._nudge.clear()
            try:
                self._reload()
                self._work()
                self._round(late=late)
            except Exception:  # noqa: BLE001 - the thread's last line: who watches goes on watching
                _log.exception("services could not be asked")
            self.tell(Beat())
            eager = any(one.eager(began) for one in tuple(self.services().values()))
            pause = EAGERLY if eager else EVERY
            self._nudge.wait(max(0.0, began + pause - time.monotonic()))

    def _reload(self) -> None:
        """Tell when another revision runs, once the change is over."""
        epoch = epoch_of(self.paths)
        if epoch == self.wanted()[1] or is_changing(self.paths, epoch):
            return
        try:
            current, desired = self.engine.current(), self.engine.desired()
            section = current.document.sections[monitoring.SECTION]
        except (EngineError, CheckFailed, HostFull, StepFailed, KeyError) as error:
            _log.debug("nothing to watch: %s", error)
            return
        if epoch != epoch_of(self.paths):
            return
        if not isinstance(section, monitoring.Section):
            section = monitoring.ABSENT
        services = watched(desired.units, desired.probes, section)
        self.tell(Wanted(services, epoch, current.info.number))

    def _round(self, *, late: bool) -> None:
        now = time.monotonic()
        wanted, epoch = self.wanted()
        for unit, known in tuple(self.services().items()):
            one = wanted.get(unit)
            if one is None or not known.seen.alive:
                continue
            asked = self._asked.setdefault(unit, _Asked())
            if known.seen.pid != asked.pid:
                self._asked[unit] = asked = _Asked(pid=known.seen.pid)
            if known.eager(now) or now - asked.at >= EVERY * 0.9:
                quiet = not is_changing(self.paths, epoch)
                given = self._ask(known, one, asked, now)
                if late or not quiet or is_changing(self.paths, epoch):
                    given = _excused(given)
                self.tell(Answered(unit, known.seen.pid, given))

    def _ask(self, known: Service, one: Watched, asked: _Asked, now: float) -> Answer:
        rarely = asked.all or now - asked.rarely_at >= RARELY
        asked.at = now
        if rarely:
            asked.rarely_at = now
        if known.seen.pid and is_stopped(known.seen.pid):
            asked.all = True
            return Answer(ready=False, detail="it has been stopped (SIGSTOP)")
        results: list[ProbeResult] = []
        for probe in one.probes:
            if isinstance(probe, RARE) and not rarely:
                continue
            results.append(self._once(probe))
            if not results[-1].answered:
                break
        given = answer(results)
        if given.ready is False:
            given = replace(given, cpu=cpu_time.of_unit(known.seen.pid))
        asked.all = given.ready is not True
        return given

    def _once(self, probe: Probe) -> ProbeResult:
        timeout = PROCESS_TIMEOUT if isinstance(probe, SshGreets) else TIMEOUT
        began, waited = time.monotonic(), cpu_time.waited_for()
        result = self.prober.once(probe, timeout)
        starved = (
            time.monotonic() - began > timeout + STARVED
            or cpu_time.waited_for() - waited > timeout / 2  # who asks had no CPU
        )
        return replace(result, blameless=result.blameless or starved)

    # -- what takes long --------------------------------------------------------------------

    def _work(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                act, unit = self._tasks.get_nowait()
                one = self.wanted()[0].get(unit)
                if act is Act.EXAMINE:
                    found = examine(self.engine, one.name, unit) if one else Examined()
                    self.tell(Looked(unit, found))
                else:
                    self.tell(PutBack(unit, act, self._put_back(act, one)))

    def _put_back(self, act: Act, one: Watched | None) -> str:
        """Why files could not be put back, or read; empty where they were."""
        try:
            if act is Act.PUT_BACK:
                self.engine.put_files_back()
            elif one is not None:
                self.engine.read_files(one.name)
        except (EngineError, CheckFailed, HostFull, StepFailed) as error:
            return str(error)
        return ""


def _excused(given: Answer) -> Answer:
    """What is wrong is perhaps the fault of who changes the machine."""
    return replace(
        given,
        ready=None if given.ready is False else given.ready,
        correct=None if given.correct is False else given.correct,
    )
