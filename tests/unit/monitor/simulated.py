"""systemd and one daemon, simulated, telling the watched service what the real ones tell.

The sequences are those that systemd 257 was seen to send on its bus.
"""

from dataclasses import replace

from agent.monitor import service as s
from agent.monitor.events import Event, Kind
from agent.monitor.model import Act, Answer, Effect, Examined, Line, Process, State
from agent.monitor.service import Service
from agent.monitor.silence import CpuTime

EVERY = 1.8  # seconds between two questions
DELAY = 0.02  # seconds until systemd starts it again


class World:
    """A unit, its daemon, the service that watches it, and a clock that somebody turns."""

    def __init__(self, *, off: State | None = None) -> None:
        self.now = 1000.0
        self.process = Process(active="active", sub="running", pid=100)
        self.service: Service = s.begin("dnsmasq.service", "dnsmasq", self.now)
        self.effects: list[tuple[float, Effect]] = []
        self.answering = True
        self.excused = False
        self.share = 0.0  # of a CPU that it runs on, or waits for
        self.cpu: CpuTime | None = CpuTime(self.now, 0.0, 0.0)
        self.own_files = True
        self.reads = 99  # after so many times that it is told, it reads its files
        self.refuses = False  # ends at its start, status 1
        self.broken = ""  # what it refuses, a file that a hand changed
        self.dies_after: float | None = None  # seconds after each start
        self.starts = 0
        self._pid = 100
        self._at: list[tuple[float, str]] = []
        self._todo: list[Act] = []
        self._ask_at = self.now
        self._do(s.rule(self.service, off, self.now))
        self.tell()

    def shown(self) -> State:
        return self.service.shown

    # -- what happened ----------------------------------------------------------------------

    def events(self, *kinds: Kind) -> list[Event]:
        found = [effect for _, effect in self.effects if isinstance(effect, Event)]
        return [event for event in found if not kinds or event.kind in kinds]

    def kinds(self) -> list[str]:
        return [str(event.kind) for event in self.events()]

    def lines(self) -> list[Line]:
        return [effect for _, effect in self.effects if isinstance(effect, Line)]

    def acts(self) -> list[Act]:
        return [effect for _, effect in self.effects if isinstance(effect, Act)]

    # -- time -------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let time pass, and everything happen that falls into it."""
        end = self.now + seconds
        while True:
            while self._todo:
                self._act(self._todo.pop(0))
            due = self.service.due
            self._at.sort()
            times = [self._ask_at, *(at for at, _ in self._at[:1]), *((due,) if due else ())]
            self.now = max(self.now, min(times))
            if self.now > end:
                self.now = end
                return
            if self._at and self._at[0][0] <= self.now:
                getattr(self, self._at.pop(0)[1])()
            elif due is not None and due <= self.now:
                self._do(s.wait(self.service, self.now))
            else:
                self._ask_at = self.now + (0.2 if self.service.eager(self.now) else EVERY)
                self.ask()

    def ask(self) -> None:
        if not self.process.alive:
            return
        ready = None if self.excused else self.answering
        correct = self.own_files if ready else None
        detail = "" if correct else "runs x, not y" if ready else "silent"
        if self.cpu is not None:
            waited = self.cpu.waited + self.share * (self.now - self.cpu.at)
            self.cpu = CpuTime(self.now, 0.0, waited)
        cpu = self.cpu if ready is False else None
        self._do(s.ask(self.service, Answer(ready, correct, detail, cpu), self.now))

    # -- what others do ---------------------------------------------------------------------

    def tell(self, **changes: object) -> None:
        self.process = replace(self.process, **changes)  # type: ignore[arg-type]  # by name
        self._do(s.look(self.service, self.process, self.now))

    def kill(self, status: int = 9, result: str = "signal", code: int = 2) -> None:
        """The process ends by itself, or by a signal."""
        self._at = []
        self.tell(
            active="failed", sub="failed-before-auto-restart", pid=0,
            result=result, code=code, status=status,
        )  # fmt: skip
        self.tell(active="activating", sub="auto-restart")
        self._at.append((self.now + DELAY, "_auto"))

    def stop(self) -> None:
        self._at = []
        if self.process.alive:
            self.tell(active="deactivating", sub="stop-sigterm", job=True)
        self.tell(active="inactive", sub="dead", pid=0, job=True)
        self.tell(job=False)

    def start(self) -> None:
        self._at = [one for one in self._at if one[1] == "_examined"]
        self.tell(restarts=0, job=True, sub="dead", active="inactive")
        self._begin()

    def restart(self) -> None:
        """As a push, or systemctl."""
        self.tell(active="deactivating", sub="stop-sigterm", job=True)
        self.tell(active="inactive", sub="dead", pid=0, job=True)
        self.start()

    def clear(self) -> None:
        self._do(s.clear(self.service, self.now))

    def rule(self, off: State | None) -> None:
        self._do(s.rule(self.service, off, self.now))

    # -- the unit ---------------------------------------------------------------------------

    def _auto(self) -> None:
        self.tell(restarts=self.process.restarts + 1, job=True)
        self.tell(sub="auto-restart-queued")
        self._begin()

    def _begin(self) -> None:
        self.starts += 1
        self.tell(active="activating", sub="start", result="success", code=0, status=0, job=True)
        self._at.append((self.now + 0.05, "_fail" if self.refuses or self.broken else "_up"))

    def _up(self) -> None:
        self._pid += 1
        self.tell(active="active", sub="running", pid=self._pid, job=True)
        self.tell(job=False)
        if self.dies_after is not None:
            self._at.append((self.now + self.dies_after, "kill"))

    def _fail(self) -> None:
        self.kill(status=1, result="exit-code", code=1)

    def _examined(self) -> None:
        found = Examined((self.broken,)) if self.broken else Examined()
        self._do(s.examined(self.service, found, self.now))

    def _do(self, step: s.Step) -> None:
        self.service, effects = step
        for effect in effects:
            self.effects.append((self.now, effect))
            if isinstance(effect, Act):
                self._todo.append(effect)

    def _act(self, act: Act) -> None:
        match act:
            case Act.KILL:
                if self.process.alive:
                    self.answering, self.share = True, 0.0
                    self.kill()
            case Act.STOP:
                self._at = [one for one in self._at if one[1] == "_examined"]
                if not self.process.stopped:
                    self.tell(active="inactive", sub="dead", pid=0, job=True)
                    self.tell(job=False)
            case Act.START:
                if not self.process.starting:
                    self.start()
            case Act.EXAMINE:
                self._at.append((self.now + 0.2, "_examined"))
            case Act.READ:
                self.reads -= 1
                self.own_files = self.reads <= 0
            case Act.PUT_BACK:
                self.broken = ""
                if not self.process.starting:
                    self.start()
