"""What is thrown away: sessions that are over, events and calls, when they are old enough."""

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy import ColumnElement, Connection, Table, delete, select

from agent.turns import turns
from appliance.manager.database import Database
from appliance.manager.tables import audit, events, sessions

log = logging.getLogger(__name__)

DAYS = 90
EVERY = 3600.0  # seconds
_AT_ONCE = 1000  # rows in a transaction, so that nobody waits for it
_DAY = 86400.0


class Tidy:
    """Throws away what is older than some days."""

    def __init__(
        self, database: Database, days: int = DAYS, *, now: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._days = days
        self._now = now

    def run(self, stop: threading.Event) -> None:
        """Every hour, until told to stop."""
        turns(lambda: self.turn(stop), EVERY, stop, log, "what is old could not be thrown away")

    def turn(self, stop: threading.Event | None = None) -> int:
        """Once; how many rows went."""
        before, gone = self._now() - self._days * _DAY, 0
        for table, key, old in (
            (sessions, sessions.c.id, sessions.c.ended < before),
            (events, events.c.id, events.c.received < before),
            (audit, audit.c.id, audit.c.at < before),
        ):
            while stop is None or not stop.is_set():
                count = self._database.write(
                    lambda c, t=table, k=key, o=old: _some(c, t, k, o)  # type: ignore[misc]  # the defaults bind
                )
                gone += count
                if count < _AT_ONCE:
                    break
        return gone


def _some(
    connection: Connection, table: Table, key: ColumnElement[object], old: ColumnElement[bool]
) -> int:
    chosen = select(key).where(old).limit(_AT_ONCE)
    return connection.execute(delete(table).where(key.in_(chosen))).rowcount
