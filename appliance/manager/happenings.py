"""VMs' events in the database: each once, whatever is sent twice."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from sqlalchemy import Connection, func, select
from sqlalchemy.dialects import postgresql, sqlite

from agent.document.types import Int, Section, Text
from appliance.manager.tables import events, proxies, vms

_Word = Text(r"^[A-Za-z0-9._:-]{1,64}$", max_length=64)
_Line = Text(r"^[^\u0000-\u0008\u000e-\u001f]{0,4000}$", max_length=4000)
_VM = Text(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", max_length=63)
ONE = 500  # rows in a statement


class PushedEvent(Section):
    """An event as a VM pushes it; what a newer agent says besides is left out."""

    model_config = ConfigDict(extra="ignore")

    seq: Annotated[Int, Field(ge=0, le=2**63 - 1)]
    boot: Annotated[str, _Word]
    time: Annotated[str, _Word]
    monotonic: float
    kind: Annotated[str, _Word]
    severity: Annotated[str, _Word]
    subject: Annotated[str, _Line]
    message: Annotated[str, _Line]
    data: dict[str, Any] = Field(default_factory=dict)


class Batch(Section):
    """What a VM pushes: events of one stream, in order."""

    model_config = ConfigDict(extra="ignore")

    vm: Annotated[str, _VM]
    boot: Annotated[str, _Word]
    stream: Annotated[str, _Word]
    events: Annotated[tuple[PushedEvent, ...], Field(min_length=1, max_length=1000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """An event as it is told; `vm` is empty for the manager's own. `id` grows in all of them."""

    id: int
    vm: str
    stream: str
    seq: int
    time: str
    kind: str
    severity: str
    subject: str
    message: str
    data: Mapping[str, Any]


def take(connection: Connection, batch: Batch, now: float) -> int:
    """Keep a batch, each event once; the number up to which all are kept."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    rows = [
        {
            "vm": batch.vm,
            "stream": batch.stream,
            "seq": one.seq,
            "time": one.time,
            "kind": one.kind,
            "severity": one.severity,
            "subject": one.subject,
            "message": one.message,
            "data": json.dumps(one.data),
            "received": now,
        }
        for one in batch.events
    ]
    for start in range(0, len(rows), ONE):
        connection.execute(
            insert(events).values(rows[start : start + ONE]).on_conflict_do_nothing()
        )
    return batch.events[-1].seq


def listed(
    connection: Connection,
    *,
    after: int | None = None,
    vm: str | None = None,
    severity: str | None = None,
    limit: int = 100,
) -> tuple[EventRow, ...]:
    """Events behind a number, in order; without one, the last ones."""
    query = select(*(events.c[name] for name in EventRow.__slots__))
    if vm is not None:
        query = query.where(events.c.vm == vm)
    if severity is not None:
        query = query.where(events.c.severity == severity)
    if after is None:
        query = query.order_by(events.c.id.desc())
    else:
        query = query.where(events.c.id > after).order_by(events.c.id)
    rows = connection.execute(query.limit(limit)).mappings().all()
    found = [EventRow(**{**row, "data": json.loads(row["data"])}) for row in rows]
    return tuple(reversed(found) if after is None else found)


def last(connection: Connection) -> int:
    """The greatest number of an event."""
    return connection.execute(select(func.max(events.c.id))).scalar() or 0


@dataclass(frozen=True, slots=True)
class Names:
    """Whom a client certificate is for."""

    names: frozenset[str]
    addresses: frozenset[str]

    @classmethod
    def of(cls, certificate: Mapping[str, Any]) -> "Names":
        """As `ssl.SSLSocket.getpeercert` tells it."""
        subject = {
            value
            for part in certificate.get("subject", ())
            for name, value in part
            if name == "commonName"
        }
        others = certificate.get("subjectAltName", ())
        return cls(
            frozenset(subject | {value for kind, value in others if kind == "DNS"}),
            frozenset(value for kind, value in others if kind == "IP Address"),
        )


def speaks_for(connection: Connection, names: Names, vm: str) -> bool | None:
    """May whoever shows this certificate speak for a VM? None where there is no such VM, or proxy.

    It is for the VM's name, or for the address of its control endpoint.
    """
    agents = [
        agent
        for table in (vms, proxies)
        for agent in connection.execute(select(table.c.agent).where(table.c.name == vm)).scalars()
    ]
    if not agents:
        return None
    hosts = {re.sub(r"^https://|:\d+$", "", agent).strip("[]") for agent in agents}
    # A name that several VMs share says nothing of who it is; an address does.
    return vm in names.names or bool(hosts & names.addresses)
