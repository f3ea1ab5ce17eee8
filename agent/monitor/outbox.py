"""The outbox: every event is kept until somebody outside has acknowledged it.

`record` returns when its event is on the disk. A thread of the outbox's own writes, several events
in one transaction where they come together, so that a disk that hangs holds nobody up for longer
than `PATIENCE`. While the disk takes nothing, events wait in memory, are told to those who ask all
the same, and are written later. A database that is broken is moved aside, and an event says so.

An event is known outside by the stream and its number in it. The stream's name is made with the
database: whoever finds another name has another database, whose numbers begin anew.

While every number that was given is in the database, a mark says so: a file that is gone after a
reboot, as what was not synced may be. Where it is there, a process that was killed lost nothing,
and numbers go on without a gap.
"""

import contextlib
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from agent.engine.host import Clock
from agent.monitor import spool
from agent.monitor.events import (
    Cursor,
    Event,
    Kind,
    Page,
    Severity,
    Stored,
    Unknown,
    stamp,
)
from agent.monitor.ledger import (
    BOUNDS,
    NAME,
    SKIPPED,
    Bounds,
    Corrupt,
    Ledger,
    Lost,
    Unavailable,
    move_aside,
)
from agent.system.files import make_folder

T = TypeVar("T")

PATIENCE = 2.0  # seconds that whoever records waits for the disk
RETRY = 1.0  # seconds between two tries of a disk that takes nothing
LOOK = 2.0  # seconds between two looks whether another process has left an event
UNWRITTEN = 2000  # events that wait in memory at most

log = logging.getLogger(__name__)


class _Entry:
    """An event on its way to the disk."""

    __slots__ = ("event", "settled")

    def __init__(self, event: Stored) -> None:
        self.event = event
        self.settled = False


class Outbox:
    """`agent.monitor.events.Recorder`, and what is asked of it. For any number of threads."""

    def __init__(
        self,
        folder: Path,
        spools: Sequence[Path] = (),
        *,
        boot: str,
        clock: Clock,
        bounds: Bounds = BOUNDS,
        mark: Path | None = None,
    ) -> None:
        self._folder = folder
        self._mark = mark
        self._spools = spools
        self._boot = boot
        self._clock = clock
        self._bounds = bounds
        self._lock = threading.Lock()  # of what follows
        self._work = threading.Condition(self._lock)
        self._news = threading.Condition(self._lock)
        self._queue: deque[_Entry] = deque()
        self._unwritten: list[Stored] = []  # they have numbers, and are told
        self._dropped: Lost | None = None  # what memory had no room for
        self._failing = ""
        self._closing = False
        self._stream = ""
        self._last = 0
        self._acknowledged = 0
        self._broken = ""  # what a reader found
        self._disk = threading.Lock()  # of the ledger; never taken while the other one is held
        self._ledger: Ledger | None = None
        self._held: set[str] = set()  # spooled files whose events are in memory
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Open the database, soon, and take in what other processes have left."""
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and close the database."""
        with self._lock:
            self._closing = True
            self._work.notify_all()
        if self._thread is not None:
            self._thread.join(PATIENCE)
        with self._lock:
            self._news.notify_all()

    def record(self, event: Event) -> None:
        now, monotonic = self._clock.now(), self._clock.monotonic()
        entry = _Entry(stamp(event, boot=self._boot, at=now, monotonic=monotonic))
        log.log(_LEVELS[event.severity], "%s: %s", event.kind, entry.event.message)
        with self._lock:
            if len(self._queue) >= UNWRITTEN:
                _drop(self._queue, lambda entry: entry.event.severity)
                self._forget(self._last + 1)
            self._queue.append(entry)
            self._work.notify()
            if self._thread is not None and not self._closing:
                self._news.wait_for(lambda: entry.settled or self._failing, PATIENCE)

    # -- asking -----------------------------------------------------------------------------

    def read(self, cursor: Cursor, limit: int = 1000, least: Severity = Severity.INFO) -> Page:
        """What comes after a place; all there is, where the place is in another stream."""
        with self._lock:
            stream, last, unwritten = self._stream, self._last, list(self._unwritten)
        after = cursor.seq if cursor.stream in {"", stream} else 0
        rows, oldest = self._rows(after, limit, least)
        found = {
            event.seq: event
            for event in unwritten
            if event.seq > after and event.severity.rank >= least.rank
        }
        if rows is None:  # nothing may be passed over
            found, last = {}, after
        else:
            found |= {event.seq: event for event in rows}
        events = tuple(found[seq] for seq in sorted(found)[:limit])
        return Page(
            stream=stream,
            oldest=oldest or (unwritten[0].seq if unwritten else None),
            last=last,
            acknowledged=self._acknowledged,
            next=Cursor(events[-1].seq if len(events) == limit else max(last, *found, 0), stream),
            events=events,
        )

    def _rows(
        self, after: int, limit: int, least: Severity
    ) -> tuple[tuple[Stored, ...] | None, int | None]:
        """What the database has, and the least number there; None where it cannot be read."""
        try:
            with self._disk:
                if self._ledger is None:
                    return (), None
                return self._ledger.read(after, limit, least), self._ledger.oldest()
        except Unavailable as error:
            log.warning("events cannot be read: %s", error)
        except Corrupt as error:
            with self._lock:
                self._broken = str(error)
                self._work.notify()
        return None, None

    def wait(self, cursor: Cursor, seconds: float) -> bool:
        """Wait until there is something after that place; is there?"""
        with self._lock:
            return bool(
                self._news.wait_for(lambda: self._closing or self._is_past(cursor), seconds)
            )

    def _is_past(self, cursor: Cursor) -> bool:
        if cursor.stream and cursor.stream != self._stream:
            return bool(self._stream)
        return self._last > cursor.seq

    def before(self, count: int, least: Severity = Severity.INFO) -> Cursor:
        """The place after which the last `count` events come, about."""
        with self._lock:
            stream = self._stream
        with contextlib.suppress(Corrupt, Unavailable), self._disk:
            if self._ledger is not None:
                return Cursor(self._ledger.before(count, least), stream)
        return Cursor(0, stream)

    def acknowledged(self) -> Cursor:
        """Up to which place all have arrived."""
        with self._lock:
            return Cursor(self._acknowledged, self._stream)

    def acknowledge(self, cursor: Cursor) -> int:
        """All up to this place have arrived; returns the greatest number for which that is so.

        Raises Unknown.
        """
        with self._lock:
            if cursor.stream != self._stream:
                raise Unknown(f"the stream is {self._stream}, not {cursor.stream}")
            if cursor.seq > self._last:
                raise Unknown(f"the last event is {self._last}; {cursor.seq} is not there yet")
            if cursor.seq > self._acknowledged:
                self._acknowledged = cursor.seq
                self._unwritten = [e for e in self._unwritten if e.seq > cursor.seq]
                self._work.notify()
            return self._acknowledged

    # -- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        self._open()
        looked = -LOOK
        while True:
            if time.monotonic() - looked >= LOOK:
                self._take_in()
                looked = time.monotonic()
            with self._lock:
                pause = RETRY if self._failing else LOOK
                self._work.wait_for(self._is_work, pause)
                closing, broken = self._closing, self._broken
                self._broken = ""
            if broken:
                self._replace(broken)
            self._write()
            if closing:
                break
        with self._disk:
            if self._ledger is not None:
                self._ledger.close()
                self._ledger = None

    def _is_work(self) -> bool:
        if self._closing or self._broken:
            return True
        if self._failing:
            return False
        return bool(self._queue) or self._is_acknowledgement()

    def _is_acknowledgement(self) -> bool:
        return self._ledger is not None and self._acknowledged > self._ledger.acknowledged

    def _open(self) -> None:
        """Open the database; where that fails, events have a stream in memory meanwhile."""
        path = self._folder / NAME
        broken = ""
        try:
            make_folder(self._folder, 0o700)
            try:
                ledger = Ledger(path, self._bounds, whole=self._marked())
            except Corrupt as error:
                broken = str(error)
                aside = move_aside(path)
                log.critical("the events' database is broken: %s; see %s", broken, aside)
                ledger = Ledger(path, self._bounds)
        except (Unavailable, Corrupt, OSError) as error:
            self._fail(str(error))
            return
        with self._disk:
            self._ledger = ledger
        self._set_mark(ledger)
        with self._lock:
            gap = [self._gap(None, f"the database was broken: {broken}")] if broken else []
            self._begin([*gap, *self._unwritten])
            self._stream, self._last = ledger.stream, ledger.last
            self._acknowledged = ledger.acknowledged
            self._failing = ""

    # -- the mark: every number that was given is in the database ------------------------------

    def _marked(self) -> str:
        """The stream of which it says so; empty where there is none."""
        with contextlib.suppress(OSError, ValueError):
            return "" if self._mark is None else self._mark.read_text("ascii")
        return ""

    def _set_mark(self, ledger: Ledger) -> None:
        if self._mark is not None:
            with contextlib.suppress(OSError):  # then numbers are left out, after a kill
                self._mark.write_text(ledger.stream, "ascii")

    def _remove_mark(self) -> None:
        if self._mark is not None:
            with contextlib.suppress(OSError):
                self._mark.unlink(missing_ok=True)

    # -- the database's faults ---------------------------------------------------------------

    def _replace(self, why: str) -> None:
        """The open database turned out to be broken: begin another one."""
        log.critical("the events' database is broken: %s", why)
        with self._disk:
            if self._ledger is not None:
                self._ledger.abandon()
                self._ledger = None
        try:
            move_aside(self._folder / NAME)
        except OSError as error:
            self._fail(str(error))
            return
        with self._lock:
            gap = self._gap(None, f"the database was broken: {why}", self._last)
            self._begin([gap, *self._unwritten])
        self._open()

    def _begin(self, events: Sequence[Stored]) -> None:
        """With the lock: what has no stream any more gets new numbers."""
        self._queue.extendleft(_Entry(event) for event in reversed(events))
        self._unwritten = []
        self._stream, self._last, self._acknowledged = "", 0, 0

    def _fail(self, why: str) -> None:
        with self._lock:
            if not self._failing:
                log.error("events cannot be written, and wait in memory: %s", why)
            self._failing = why
            if self._ledger is not None:
                self._remove_mark()
            if not self._stream:
                self._stream = f"memory-{secrets.token_hex(8)}"
            self._number()
            self._news.notify_all()

    def _number(self) -> None:
        """With the lock: give numbers to what cannot be written, so that it can be told."""
        most = None if self._ledger is None else self._ledger.last + SKIPPED - 1
        while self._queue and (most is None or self._last < most):
            entry = self._queue.popleft()
            self._last += 1
            self._unwritten.append(replace(entry.event, seq=self._last))
            entry.settled = True
        while len(self._unwritten) > UNWRITTEN:
            gone = _drop(self._unwritten, lambda event: event.severity)
            self._forget(gone.seq)

    def _forget(self, seq: int) -> None:
        """With the lock: memory has no room for an event of this number."""
        lost = Lost(1, seq, seq)
        self._dropped = self._dropped + lost if self._dropped else lost

    def _write(self) -> None:
        """Everything that waits, in one transaction."""
        if self._ledger is None:
            self._open()
        ledger = self._ledger
        if ledger is None:
            return
        with self._lock:
            entries = tuple(self._queue)
            unwritten, dropped = tuple(self._unwritten), self._dropped
            acknowledged = self._acknowledged
        last = max([ledger.last, self._last])
        numbered = [*unwritten]
        numbered += (replace(e.event, seq=last + n) for n, e in enumerate(entries, start=1))
        try:
            with self._disk:
                if numbered:
                    self._append(ledger, numbered, dropped)
                if acknowledged > ledger.acknowledged:
                    ledger.acknowledge(acknowledged)
        except Unavailable as error:
            self._fail(str(error))
            return
        except Corrupt as error:
            self._replace(str(error))
            return
        with self._lock:
            for entry in entries:
                entry.settled = True
            self._queue = deque(entry for entry in self._queue if not entry.settled)
            self._unwritten = []
            self._dropped = None if numbered else dropped
            self._last = max(last, ledger.last)
            if self._failing:
                log.warning("events are written again")
                if ledger.last >= self._last:
                    self._set_mark(ledger)
            self._failing = ""
            self._news.notify_all()

    def _append(self, ledger: Ledger, events: Sequence[Stored], dropped: Lost | None) -> None:
        with ledger.transaction():
            ledger.append(events)
            gone = ledger.make_room()
            lost = gone + dropped if gone and dropped else gone or dropped
            if lost is not None:
                ledger.append([replace(self._gap(lost, "nobody took them"), seq=ledger.last + 1)])

    def _gap(self, lost: Lost | None, reason: str, last: int | None = None) -> Stored:
        if lost is None:
            message = f"events were lost: {reason}"
            data = {"lost": None, "first": None, "last": last, "reason": reason}
        else:
            message = f"{lost.count} events were lost: {reason}"
            data = {
                "lost": lost.count, "first": lost.first, "last": lost.last, "reason": reason,
            }  # fmt: skip
        event = Event(kind=Kind.EVENTS_GAP, subject="events", message=message, data=data)
        now, monotonic = self._clock.now(), self._clock.monotonic()
        return stamp(event, boot=self._boot, at=now, monotonic=monotonic)

    # -- other processes' ---------------------------------------------------------------------

    def _take_in(self) -> None:
        """Take in what other processes have left; each file once, whatever is cut short."""
        found = list(spool.waiting(self._spools))
        if not found:
            return
        if self._ledger is None or self._failing or not self._take(self._ledger, found):
            self._hold(found)

    def _take(self, ledger: Ledger, found: Sequence[tuple[Path, Stored | None]]) -> bool:
        """Into the database, then away with the files. Could it be done?"""
        events: list[Stored] = []
        try:
            with self._disk, ledger.transaction():
                last = max(ledger.last, self._last)
                for path, event in found:
                    new = ledger.take(path.name) and path.name not in self._held
                    if event is not None and new:
                        events.append(replace(event, seq=last + len(events) + 1))
                ledger.append(events)
            for path, _ in found:
                path.unlink(missing_ok=True)
                self._held.discard(path.name)
            with self._disk:
                ledger.forget_taken()
        except (Unavailable, OSError) as error:
            log.debug("%s", error)
            if not events or ledger.last < events[-1].seq:
                return False
        except Corrupt as error:
            self._replace(str(error))
        with self._lock:
            self._last = max(self._last, ledger.last)
            self._news.notify_all()
        return True

    def _hold(self, found: Sequence[tuple[Path, Stored | None]]) -> None:
        """The disk takes nothing: tell them all the same, and remember that it was done."""
        with self._lock:
            for path, event in found:
                if event is not None and path.name not in self._held:
                    self._held.add(path.name)
                    self._queue.append(_Entry(event))


def _drop(waiting: "deque[T] | list[T]", severity: Callable[[T], Severity]) -> T:
    """Let the oldest go, INFO first."""
    index = next((i for i, one in enumerate(waiting) if severity(one) is Severity.INFO), 0)
    gone = waiting[index]
    del waiting[index]
    return gone


_LEVELS = {
    Severity.INFO: logging.INFO,
    Severity.WARNING: logging.WARNING,
    Severity.ALERT: logging.ERROR,
    Severity.CRITICAL: logging.CRITICAL,
}
