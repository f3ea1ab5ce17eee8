"""Watches the daemons of this VM: hears what becomes of them, asks them, and does what follows.

What follows is decided elsewhere, and purely (`agent.monitor.service`). Here are two threads: one
hears systemd, the kernel and the clock, and acts at once; the other (`agent.monitor.asker`) asks
the daemons, which may take its time. They tell each other by messages; what others read of the
services are whole values.

systemd starts what ends, also while this is dead. What the monitor keeps stopped (a loop, a
refused configuration) is taken up by the next agent, or by the next push.
"""

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import assert_never

from agent.monitor import service
from agent.monitor.asker import (
    Answered,
    Asker,
    Beat,
    Cleared,
    Engine,
    Looked,
    Message,
    Prober,
    PutBack,
    Ruled,
    Wanted,
    is_changing,
)
from agent.monitor.checks import ServiceState
from agent.monitor.counts import Counts
from agent.monitor.events import Event, Kind, Recorder
from agent.monitor.holds import Holds
from agent.monitor.log import Level, ServiceLog
from agent.monitor.model import Act, Effect, Hold, Line, Process, Row, State, Tone
from agent.monitor.sentences import Sentence
from agent.monitor.service import Service
from agent.monitor.watched import Watched, short
from agent.system import files
from agent.system.bus import BusError
from agent.system.paths import Paths
from agent.system.unit_watch import Properties, UnitWatch, name_thread, pidfd

_PROMISED = 0.2  # seconds after a death in which systemd tells of it
_POSTPONED = 0.5  # seconds, while somebody changes the machine
_AGAIN = 1.0  # seconds until the bus is tried again
_SOON = 5.0  # seconds until what waits for room is written

_log = logging.getLogger(__name__)

_SENTENCES = {
    Tone.TRYING: Sentence.TRYING,
    Tone.BUSY: Sentence.BUSY,
    Tone.RECOVERED: Sentence.RECOVERED,
    Tone.FAILED: Sentence.FAILED,
    Tone.RUNNING: Sentence.RUNNING,
    Tone.OTHER_FILES: Sentence.OTHER_FILES,
    Tone.STILL_OTHER_FILES: Sentence.STILL_OTHER_FILES,
    Tone.OWN_FILES: Sentence.OWN_FILES,
}


@dataclass(slots=True)
class _Death:
    """A process that is watched by the kernel's word, or has just ended by it."""

    pid: int
    descriptor: int | None
    by: float | None = None  # when systemd has to have told of it

    @property
    def unseen(self) -> bool:
        """Would it end without the kernel telling? There was no descriptor left for it."""
        return self.descriptor is None and self.by is None


@dataclass(slots=True)
class Monitor:
    """The daemons' monitor; `watch` and `ask` are its two threads' work."""

    engine: Engine
    prober: Prober
    events: Recorder
    log: ServiceLog
    holds: Holds
    paths: Paths
    alive: Callable[[], None] = lambda: None  # called while both threads live
    changed: Callable[[], None] = lambda: None  # called when another service is ill, or none is
    bus: str = "SYSTEM"
    _services: dict[str, Service] = field(default_factory=dict)
    _wanted: Mapping[str, Watched] = field(default_factory=dict)
    _epoch: str = "never looked"
    _revision: int = -1
    _inbox: "SimpleQueue[Message]" = field(default_factory=SimpleQueue)
    _wake: tuple[int, int] = field(default_factory=os.pipe)
    _deaths: dict[str, _Death] = field(default_factory=dict)
    _asker: Asker = field(init=False)
    _ill: frozenset[str] = frozenset()
    _deaf: bool = False
    _told_of: Counts = field(init=False)

    def __post_init__(self) -> None:
        for end in self._wake:
            os.set_blocking(end, False)
        self._told_of = Counts(self.paths.run / "restarts.json")
        ill_file(self.paths).unlink(missing_ok=True)
        self._asker = Asker(
            self.engine,
            self.prober,
            self.paths,
            self._post,
            lambda: self._services,
            lambda: (self._wanted, self._epoch),
        )

    # -- for others -------------------------------------------------------------------------

    def rows(self) -> Mapping[str, Row]:
        """What is known of each unit that is wanted, by its name."""
        offset, now, held = time.time() - time.monotonic(), time.monotonic(), self.holds.all()
        rows: dict[str, Row] = {}
        for unit, one in self._wanted.items():
            known = self._services.get(unit)
            if known is not None:
                rows[one.name] = Row(
                    state=known.shown,
                    alive=known.seen.alive,
                    ready=known.ready,
                    correct=known.correct,
                    reason=known.reason if known.shown is not State.RUNNING else "",
                    detail=known.detail if known.shown is not State.RUNNING else "",
                    since=known.since + offset,
                    restarts=known.restarts(now),
                    hold=held.get(one.name),
                )
        return rows

    def states(self, units: Collection[str]) -> Mapping[str, ServiceState]:
        """These units, as far as they are watched, for the health checks."""
        rows = self.rows()
        return {
            unit: ServiceState(
                alive=row.alive,
                ready=row.ready,
                said=f"{row.state}{f': {row.reason} ({row.detail})' if row.reason else ''}",
                held=_left_alone(row),
                starting=row.state is State.STARTING,
            )
            for unit in units
            if (row := rows.get(unit)) is not None
        }

    @property
    def ill(self) -> bool:
        """Is there a service that restarting does not help?"""
        return bool(self._ill)

    def hold(self, hold: Hold) -> None:
        """Leave a unit alone until then. Raises HostFull."""
        self.holds.put(hold)
        until = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(hold.until))
        what = self._known_as(hold.unit)
        text = Sentence.HELD.of(what)
        self.log.write(Level.NOTIF, what, text, by=hold.by, until=until, why=hold.why)
        say = f"{hold.by} holds {what} until {until} UTC: {hold.why}"
        data = {"unit": hold.unit, "by": hold.by, "why": hold.why, "until": until}
        self._record(
            Event(kind=Kind.SERVICE_HELD, subject=short(hold.unit), message=say, data=data)
        )
        self._post(Ruled())

    def release(self, unit: str, by: str) -> bool:
        """End a hold, and forget what was the matter before. Was there one? Raises HostFull."""
        held = self.holds.remove(unit)
        if held is not None:
            self._released(held, by)
        self._post(Ruled())
        self._post(Cleared(unit))
        return held is not None

    def clear(self, unit: str) -> None:
        """Somebody has had it restarted: begin anew."""
        self._post(Cleared(unit))

    def wake(self) -> None:
        """A change of the machine is over."""
        self._asker.nudge()

    def ask(self, stop: threading.Event) -> None:
        """Ask the daemons until `stop` is set: the second thread's work."""
        self._asker.run(stop)

    def _released(self, hold: Hold, by: str) -> None:
        what = self._known_as(hold.unit)
        self.log.write(Level.NOTIF, what, Sentence.RELEASED.of(what), by=by)
        say = f"{what} is held no more ({by})"
        self._record(
            Event(
                kind=Kind.SERVICE_RELEASED,
                subject=short(hold.unit),
                message=say,
                data={"unit": hold.unit},
            )
        )

    def _known_as(self, unit: str) -> str:
        for one in self._wanted.values():
            if one.name == unit:
                return one.known_as
        return short(unit)

    def _record(self, event: Event) -> None:
        self.events.record(event)

    def _post(self, message: Message) -> None:
        self._inbox.put(message)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake[1], b".")

    # -- the thread that hears and acts -----------------------------------------------------

    def watch(self, stop: threading.Event) -> None:
        """Hear and act until `stop` is set."""
        name_thread("monitor")
        while not stop.is_set():
            try:
                self._hear(stop)
            except Exception:  # noqa: BLE001 - the thread's last line: who watches goes on watching
                _log.exception("what became of services is looked up anew")
                stop.wait(_AGAIN)
        for unit in tuple(self._deaths):
            self._unfollow(unit)

    def _hear(self, stop: threading.Event) -> None:
        """Hear and act for as long as there is a bus."""
        try:
            with UnitWatch.open(self.bus) as heard:
                self._deaf = False
                for unit in self._wanted:
                    self._follow(heard, unit)
                while not stop.is_set():
                    self._once(heard)
        except BusError as error:
            if not self._deaf:
                _log.warning("systemd cannot be heard: %s", error)
            self._deaf = True
            self._without_bus()
            stop.wait(_AGAIN)

    def _once(self, heard: UnitWatch) -> None:
        """Wait for something to happen, and do what follows."""
        poll = select.poll()
        poll.register(heard.fileno(), select.POLLIN)
        poll.register(self._wake[0], select.POLLIN)
        for death in self._deaths.values():
            if death.descriptor is not None:
                poll.register(death.descriptor, select.POLLIN)
        patience = 0.0 if heard.pending else self._patience()
        ready = {descriptor for descriptor, _ in poll.poll(patience * 1000)}
        self._note_deaths(ready)
        for unit, properties in heard.changes():
            self._look(heard, unit, properties)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake[0], 4096)
        with contextlib.suppress(Empty):
            while True:
                self._take(heard, self._inbox.get_nowait())
        self._pass_time(heard)

    def _patience(self) -> float:
        """Seconds until something is due."""
        now = time.monotonic()
        due = [now + _SOON]
        due += [one.due for one in self._services.values() if one.due is not None]
        due += [death.by for death in self._deaths.values() if death.by is not None]
        return max(0.0, min(due) - now)

    def _note_deaths(self, ready: Collection[int]) -> None:
        for death in self._deaths.values():
            if death.descriptor in ready:
                os.close(death.descriptor)  # type: ignore[arg-type]  # None is not among them
                death.descriptor, death.by = None, time.monotonic() + _PROMISED

    def _pass_time(self, heard: UnitWatch) -> None:
        now = time.monotonic()
        for unit, death in tuple(self._deaths.items()):
            if death.by is not None and death.by <= now:
                death.by = None
                if unit in self._services and self._services[unit].seen.pid == death.pid:
                    self._look(heard, unit, heard.read(unit))
        for unit, known in tuple(self._services.items()):
            if known.due is None or known.due > now:
                continue
            if is_changing(self.paths, self._epoch):
                self._services[unit] = replace(known, due=now + _POSTPONED)
            else:
                self._do(heard, unit, service.wait(known, now))
        for hold in self.holds.expired(time.time()):
            self._released(hold, "its time is over")
            self._rule(heard)
        self.log.flush()
        self._told_of.keep()

    def _take(self, heard: UnitWatch, message: Message) -> None:
        now = time.monotonic()
        match message:
            case Wanted():
                self._want(heard, message)
            case Answered(unit, pid, given):
                known = self._services.get(unit)
                if known is not None and known.seen.pid == pid:
                    self._do(heard, unit, service.ask(known, given, now))
            case Looked(unit, found):
                if unit in self._services:
                    self._do(heard, unit, service.examined(self._services[unit], found, now))
            case PutBack():
                self._files_are_back(heard, message)
            case Cleared(unit):
                for main, one in self._wanted.items():
                    if one.name == unit and main in self._services:
                        self._do(heard, main, service.clear(self._services[main], now))
            case Ruled():
                self._rule(heard)
            case Beat():
                self.alive()
            case _:
                assert_never(message)

    def _files_are_back(self, heard: UnitWatch, done: PutBack) -> None:
        known = self._services.get(done.unit)
        if known is None:
            return
        if done.act is Act.READ:
            if done.failed:
                say = Sentence.NOT_READ.of(known.process)
                self.log.write(Level.INFO, known.process, say, detail=done.failed)
        elif done.failed:
            say = Sentence.NOT_PUT_BACK.of(known.process)
            self.log.write(Level.ALERT, known.process, say, detail=done.failed)
            self._services[done.unit] = service.not_put_back(known)
        else:
            self.log.write(Level.INFO, known.process, Sentence.PUT_BACK.of(known.process))
            heard.start(done.unit)

    def _want(self, heard: UnitWatch, wanted: Wanted) -> None:
        """Another revision runs: what is wanted, and what was the matter, may be others."""
        now = time.monotonic()
        for unit in self._services.keys() - wanted.services.keys():
            self._unfollow(unit)
            del self._services[unit]
        for unit, one in wanted.services.items():
            before = self._wanted.get(unit)
            if before is not None and before.enabled != one.enabled:
                what = one.known_as
                text = Sentence.WATCHED if one.enabled else Sentence.UNWATCHED
                self.log.write(Level.NOTIF, what, text.of(what))
        new = wanted.services.keys() - self._services.keys()
        self._wanted, self._epoch = wanted.services, wanted.epoch
        for unit in new:
            self._follow(heard, unit)
        if wanted.revision != self._revision:  # and not only confirmed
            for unit in self._services.keys() - new:
                self._do(heard, unit, service.clear(self._services[unit], now))
        self._revision = wanted.revision
        self._rule(heard)

    def _rule(self, heard: UnitWatch) -> None:
        held = self.holds.all().keys()
        for unit, known in tuple(self._services.items()):
            off = self._wanted[unit].off(held)
            self._do(heard, unit, service.rule(known, off, time.monotonic()))

    def _follow(self, heard: UnitWatch, unit: str) -> None:
        if unit not in self._services:
            one = self._wanted[unit]
            begun = service.begin(unit, one.known_as, time.monotonic(), self._told_of.get(unit))
            off = one.off(self.holds.all().keys())
            self._services[unit] = service.rule(begun, off, time.monotonic())[0]
        self._look(heard, unit, heard.follow(unit))

    def _unfollow(self, unit: str) -> None:
        death = self._deaths.pop(unit, None)
        if death is not None and death.descriptor is not None:
            os.close(death.descriptor)

    def _without_bus(self) -> None:
        """The bus is gone: the kernel's word for a death has to do; it is told of later."""
        poll = select.poll()
        for death in self._deaths.values():
            if death.descriptor is not None:
                poll.register(death.descriptor, select.POLLIN)
        self._note_deaths({descriptor for descriptor, _ in poll.poll(0)})

    def _look(self, heard: UnitWatch, unit: str, properties: Properties | None) -> None:
        known = self._services.get(unit)
        if known is None or properties is None:
            return
        process = _process(properties)
        death = self._deaths.get(unit)
        if process.pid and (death is None or death.pid != process.pid or death.unseen):
            self._unfollow(unit)
            self._deaths[unit] = _Death(process.pid, pidfd(process.pid))
        changing = process != known.seen and is_changing(self.paths, self._epoch)
        step = service.look(known, process, time.monotonic(), changing=changing)
        self._do(heard, unit, step)
        self._told_of.put(unit, step[0].counted)
        if step[0].eager(time.monotonic()):
            self._asker.nudge()

    def _do(self, heard: UnitWatch, unit: str, step: service.Step) -> None:
        """Take up what a step has made of a service, and do what follows from it."""
        after, effects = step
        self._services[unit] = after
        for effect in effects:
            try:
                self._perform(heard, after, effect)
            except BusError as error:
                if not error.name:
                    raise
                text = Sentence.NOT_DONE.of(after.process)
                self.log.write(Level.INFO, after.process, text, detail=error)
        if effects:
            self._tell_of_ill()

    def _perform(self, heard: UnitWatch, after: Service, effect: Effect) -> None:
        match effect:
            case Event():
                self._record(effect)
            case Line(tone, alert, details):
                text = _SENTENCES[tone].of(after.process)
                level = Level.ALERT if alert else Level.INFO
                self.log.write(level, after.process, text, **dict(details or {}))
            case Act.STOP | Act.KILL if is_changing(self.paths, self._epoch):
                # Telling of it took a while, and a push has begun: its own start would be canceled.
                _log.info("%s is left to the change that is under way", after.unit)
            case Act.STOP:
                heard.stop(after.unit)
            case Act.START:
                heard.start(after.unit)
            case Act.KILL:
                heard.kill(after.unit)
            case Act.EXAMINE | Act.PUT_BACK | Act.READ:
                self._asker.work(effect, after.unit)
            case _:
                assert_never(effect)

    def _tell_of_ill(self) -> None:
        ill = frozenset(
            f"{one.process}: {one.shown}"
            for one in self._services.values()
            if one.shown in {State.CRASH_LOOP, State.CONFIGURATION, State.NOT_RECOVERED}
        )
        if ill != self._ill:
            self._ill = ill
            with contextlib.suppress(OSError):
                files.write(ill_file(self.paths), "; ".join(sorted(ill)).encode(), durable=False)
            self.changed()


def _left_alone(row: Row) -> str:
    """Why nobody cares whether it runs; empty where somebody does."""
    if row.hold is not None:
        return f"by {row.hold.by}: {row.hold.why}"
    if row.state is State.ABSENT:
        return "this image does not have it"
    return "the document says not to watch it" if row.state is State.DISABLED else ""


def ill_file(paths: Paths) -> Path:
    """Where it stands which services are ill, for the console's banner."""
    return paths.run / "ill"


def _process(properties: Properties) -> Process:
    return Process(
        active=properties["ActiveState"],
        sub=properties["SubState"],
        pid=properties["MainPID"],
        result=properties["Result"],
        code=properties["ExecMainCode"],
        status=properties["ExecMainStatus"],
        restarts=properties["NRestarts"],
        job=properties["Job"][0] != 0,
        # Until they are looked at, the unit's first start, conditions are said not to hold.
        able=properties["ConditionResult"] or properties["ConditionTimestampMonotonic"] == 0,
    )
