"""/var/log/routerServiceMonitor.log: what was undertaken for a service or a resource, a line each.

Operators' scripts read it: the first two words are the date and the time, UTC, the third is how
bad it is, the fourth whom it is about; then a sentence (`agent.monitor.sentences`). What
comes after a sentence is `name=value`.

    2026-11-22 13:00:10,123 [ALERT] [dnsmasq] The process dnsmasq recover failed reason=crash

No line is lost to a rotation (a rename, and every line opens the file by its name), to a full disk
(a reserve is given up for it, then lines wait in memory), or to the agent's death (each is written
at once). Every line goes to the journal as well, under the tag `monit`.
"""

import contextlib
import enum
import errno
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from agent.engine.host import HostFull, StepFailed
from agent.system import files

PLACE = Path("/var/log/routerServiceMonitor.log")
LARGEST = 10 * 1024 * 1024  # bytes of a file
KEPT = 5  # files, the one that is written included
RESERVE = 256 * 1024  # bytes that are given up when the disk is full
WAITING = 2000  # lines that wait in memory for room; the oldest go first

_LONGEST = 1000  # characters of a line's text
_TAG = "monit"
_SYSLOG = "/dev/log"
_DAEMON = 3 << 3  # the facility (RFC 5424)

_log = logging.getLogger(__name__)


class Level(enum.StrEnum):
    """How bad a line is, in the words that operators' scripts know."""

    INFO = "INFO"
    NOTIF = "NOTIF"  # somebody decided so: held, released, watched no more
    ALERT = "ALERT"
    CRIT = "CRIT"


_PRIORITY = {Level.INFO: 6, Level.NOTIF: 5, Level.ALERT: 4, Level.CRIT: 2}


def line(at: float, level: Level, subject: str, text: str, **details: object) -> str:
    """One line, without its end: `at` is seconds since the epoch, `details` follow the text.

    Whatever is in it, it is one line: what a terminal or a script might obey becomes a `?`.
    """
    milliseconds = round(at * 1000)
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(milliseconds // 1000))
    pairs = "".join(f" {name}={_value(value)}" for name, value in details.items() if value != "")
    return (
        f"{clock},{milliseconds % 1000:03d} [{level}] [{_harmless(subject)}] "
        f"{_harmless(text.strip())[:_LONGEST]}{_harmless(pairs)[:_LONGEST]}"
    )


def _value(value: object) -> str:
    """A value of one word as it is, another in quotes."""
    text = str(value)
    return '"' + text.replace('"', "'") + '"' if " " in text or '"' in text else text


def _harmless(text: str) -> str:
    return "".join(c if c.isprintable() else " " if c in "\t\n" else "?" for c in text)


class ServiceLog:
    """The log; threads may share it. Nothing that it does fails its caller."""

    def __init__(
        self,
        place: Path = PLACE,
        *,
        now: Callable[[], float] = time.time,
        largest: int = LARGEST,
        kept: int = KEPT,
        reserve: int = RESERVE,
        syslog: str = _SYSLOG,
    ) -> None:
        self._place = place
        self._now = now
        self._largest = largest
        self._kept = kept
        self._reserve = reserve
        self._syslog = syslog
        self._mutex = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._lost = 0
        self._told = False  # that the log cannot be written

    def write(self, level: Level, subject: str, text: str, **details: object) -> None:
        """Add a line."""
        with self._mutex:
            one = line(self._now(), level, subject, text, **details)
            self._mirror(level, one)
            self._waiting.append(one.encode() + b"\n")
            while len(self._waiting) > WAITING:
                self._waiting.popleft()
                self._lost += 1
            self._drain()

    def flush(self) -> None:
        """Write what waited for room; called now and then."""
        with self._mutex:
            self._drain()

    def _drain(self) -> None:
        try:
            if self._lost:
                told = line(self._now(), Level.CRIT, "log", f"{self._lost} lines were lost")
                self._append(told.encode() + b"\n")
                self._lost = 0
            while self._waiting:
                self._append(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            if not self._told:
                _log.error("%s cannot be written, its lines wait: %s", self._place, error)
            self._told = True
            return
        self._told = False
        self._keep_reserve()

    def _append(self, data: bytes) -> None:
        """Write a line whole, or nothing of it. Raises OSError."""
        self._rotate(len(data))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._place, flags, 0o644)
        try:
            before = os.fstat(descriptor).st_size
            if self._written(descriptor, before, data):
                return
            self._reserved().unlink(missing_ok=True)
            if not self._written(descriptor, before, data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._place))
        finally:
            os.close(descriptor)

    @staticmethod
    def _written(descriptor: int, before: int, data: bytes) -> bool:
        try:
            if os.write(descriptor, data) == len(data):
                return True
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
        os.ftruncate(descriptor, before)  # half a line is worse than none
        return False

    def _rotate(self, more: int) -> None:
        try:
            size = self._place.stat().st_size
        except FileNotFoundError:
            return
        if size + more <= self._largest:
            return
        for number in range(self._kept - 1, 0, -1):
            older = self._place if number == 1 else self._numbered(number - 1)
            with contextlib.suppress(FileNotFoundError):
                older.replace(self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self._place.with_name(f"{self._place.name}.{number}")

    def _reserved(self) -> Path:
        return self._place.with_name(f".{self._place.name}.reserve")

    def _keep_reserve(self) -> None:
        """Hold some room for when there is none, where there is plenty now."""
        place = self._reserved()
        if not self._reserve or place.exists():
            return
        with contextlib.suppress(OSError, HostFull, StepFailed):
            files.require_room(place.parent, 4 * self._reserve, 1)
            files.write(place, bytes(self._reserve), mode=0o600, durable=False)

    def _mirror(self, level: Level, text: str) -> None:
        """Tell the journal; one that does not listen is not waited for."""
        packet = f"<{_DAEMON | _PRIORITY[level]}>{_TAG}: {text}".encode()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.connect(self._syslog)
            out.send(packet, socket.MSG_DONTWAIT)
