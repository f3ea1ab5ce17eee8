"""What the manager itself has to say, among the VMs' events: their `vm` is empty."""

import datetime as dt
import enum
import json
import secrets
from collections.abc import Mapping

from sqlalchemy import Connection, func, insert, select

from appliance.manager.tables import events

STREAM = "manager"


class Notice(enum.Enum):
    """The kinds, and how bad each is."""

    NO_CAPACITY = ("manager.no-capacity", "alert")
    PROXY_SILENT = ("manager.proxy-silent", "alert")
    VM_SILENT = ("manager.vm-silent", "alert")
    PUSH_FAILED = ("manager.push-failed", "warning")
    FOREIGN_EVENTS = ("manager.foreign-events", "warning")
    PROXY_REGISTERED = ("manager.proxy-registered", "info")
    PROXY_REFUSED = ("manager.proxy-refused", "warning")


def note(
    connection: Connection,
    notice: Notice,
    subject: str,
    message: str,
    data: Mapping[str, object],
    now: float,
) -> None:
    """Say it."""
    kind, severity = notice.value
    moment = _time(now)
    connection.execute(
        insert(events).values(
            vm="",
            stream=STREAM,
            seq=secrets.randbits(62),  # of no order: `id` has that
            time=moment,
            kind=kind,
            severity=severity,
            subject=subject,
            message=message,
            data=json.dumps(data),
            received=now,
        )
    )


def note_sometimes(
    connection: Connection,
    notice: Notice,
    subject: str,
    message: str,
    data: Mapping[str, object],
    now: float,
    every: float = 60.0,
) -> bool:
    """Say it unless the same was said of the same a moment ago; was it said?"""
    last = connection.execute(
        select(func.max(events.c.received)).where(
            events.c.vm == "", events.c.kind == notice.value[0], events.c.subject == subject
        )
    ).scalar()
    if last is not None and last > now - every:
        return False
    note(connection, notice, subject, message, data, now)
    return True


def _time(now: float) -> str:
    return dt.datetime.fromtimestamp(now, dt.UTC).isoformat(timespec="milliseconds")
