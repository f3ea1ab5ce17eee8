"""The audit: one row for every call, also of those that were refused.

A call that changes something is written down before it is answered. Those that only look are
written by the second, together, so that looking costs no wait for a disk; a manager that is killed
may lose the last of these.

Of calls by nobody, who has no token that is valid, a hundred in a second are written down each; of
the rest, how many there were: nobody can fill the disk, nor have everybody wait for it.
"""

import logging
import threading
from dataclasses import dataclass, replace

from sqlalchemy import Connection, insert, select

from agent.turns import turns
from appliance.manager.database import Database
from appliance.manager.tables import audit

log = logging.getLogger(__name__)

_EVERY = 1.0  # seconds
STRANGERS = 100  # calls by nobody that are written down each, in that time
_WAITING = 10_000  # calls that wait to be written, at most; more are written at once


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """A call: who, from where, what, how it was answered, and what it was about."""

    id: int
    at: float
    who: str
    source: str
    request: str
    status: int
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A call that is to be written down."""

    at: float
    who: str
    source: str
    request: str
    status: int
    subject: str


class Audit:
    """Writes calls down."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._waiting: list[Entry] = []
        self._strangers: list[Entry] = []
        self._more = 0  # calls by nobody besides these

    def note(self, entry: Entry, *, now: bool) -> None:
        """Write it down, at once or within a second."""
        with self._lock:
            if not entry.who:
                if len(self._strangers) < STRANGERS:
                    self._strangers.append(entry)
                else:
                    self._more += 1
                return
            self._waiting.append(entry)
            now = now or len(self._waiting) > _WAITING
        if now:
            self.flush()

    def flush(self) -> None:
        """Write down what waits."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        try:
            self._write(waiting)
        except Exception:
            with self._lock:  # it is tried again, as far as there is room for more
                self._waiting = (waiting + self._waiting)[:_WAITING]
            raise

    def flush_strangers(self) -> None:
        """Write down the calls by nobody."""
        with self._lock:
            waiting, self._strangers = self._strangers, []
            more, self._more = self._more, 0
        if more:
            waiting.append(replace(waiting[-1], request="more of these", subject=f"{more} calls"))
        self._write(waiting)

    def _write(self, waiting: list[Entry]) -> None:
        if not waiting:
            return
        values = [{name: getattr(one, name) for name in Entry.__slots__} for one in waiting]
        self._database.write(lambda c: c.execute(insert(audit), values))

    def run(self, stop: threading.Event) -> None:
        """Flush until told to stop."""
        turns(self._flush_all, _EVERY, stop, log, "calls could not be written down")
        self._flush_all()

    def _flush_all(self) -> None:
        self.flush()
        self.flush_strangers()


def listed(connection: Connection, before: int | None, limit: int) -> tuple[AuditRow, ...]:
    """Calls, the newest first, below this number."""
    query = select(*(audit.c[name] for name in AuditRow.__slots__)).order_by(audit.c.id.desc())
    if before is not None:
        query = query.where(audit.c.id < before)
    return tuple(AuditRow(**row) for row in connection.execute(query.limit(limit)).mappings())
