"""The VMs in the database: who they are, the last document of each, and how they are."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from appliance.manager.agents import Where
from appliance.manager.notices import Notice, note
from appliance.manager.tables import vms

SILENT = "silent"  # a health that no VM says of itself


class NoSuchVm(LookupError):
    """There is no VM of that name."""


class Stale(ValueError):
    """A document is older than the one that is kept, or other with the same number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A VM as it is registered."""

    name: str
    role: str
    zone: str
    pod: str
    cluster: str
    account: str
    domain: str
    agent: str
    server_name: str
    template: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VmRow:
    """A VM as it is told. `generation` is what it was pushed, `running` what it says it runs."""

    name: str
    role: str
    zone: str
    pod: str
    cluster: str
    account: str
    domain: str
    agent: str
    template: str
    agent_version: str
    requires_upgrade: bool
    generation: int | None
    digest: str
    running: int | None
    revision: int | None
    health: str  # ok, warning, failed, unknown, silent; empty where nothing was heard yet
    beat: float | None
    pushed: float | None
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A document that is kept; `sealed` is its text, and `heartbeat_key` the key in it."""

    generation: int
    digest: str
    sealed: str
    heartbeat_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What the last heartbeat said."""

    name: str
    beat: float
    health: str
    running: int | None
    revision: int | None
    boots: str


def too_old(version: str, least: str) -> bool:
    """Is an agent's version below the least that may be changed? One that is unknown is not."""
    return bool(version) and _numbers(version) < _numbers(least)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


# -- registration ------------------------------------------------------------------------------


def register(connection: Connection, given: Registered) -> bool:
    """Take a VM in, or change it; is it a new one?"""
    values = {name: getattr(given, name) for name in Registered.__slots__}
    if connection.execute(update(vms).where(vms.c.name == given.name).values(**values)).rowcount:
        return False
    nothing = dict.fromkeys(
        ("agent_version", "heartbeat_key", "document", "digest", "result", "health"), ""
    )
    connection.execute(insert(vms).values(**values, **nothing, boots="{}"))
    return True


def forget(connection: Connection, name: str) -> None:
    """Let go of a VM, and of its document. Raises NoSuchVm."""
    if not connection.execute(delete(vms).where(vms.c.name == name)).rowcount:
        raise NoSuchVm(name)


_TOLD = tuple(vms.c[name] for name in VmRow.__slots__ if name != "requires_upgrade")


def listed(
    connection: Connection,
    least: str,
    *,
    after: str = "",
    role: str | None = None,
    zone: str | None = None,
    limit: int = 1000,
) -> tuple[VmRow, ...]:
    """VMs by name, beginning behind one."""
    query = select(*_TOLD).where(vms.c.name > after).order_by(vms.c.name).limit(limit)
    for column, value in ((vms.c.role, role), (vms.c.zone, zone)):
        if value is not None:
            query = query.where(column == value)
    return tuple(_row(row, least) for row in connection.execute(query).mappings())


def get(connection: Connection, name: str, least: str) -> VmRow:
    """One of them. Raises NoSuchVm."""
    found = connection.execute(select(*_TOLD).where(vms.c.name == name)).mappings().one_or_none()
    if found is None:
        raise NoSuchVm(name)
    return _row(found, least)


def _row(values: Mapping[Any, Any], least: str) -> VmRow:
    return VmRow(**values, requires_upgrade=too_old(values["agent_version"], least))


def whole(connection: Connection, name: str) -> Row[tuple[object, ...]]:
    """All that is known of a VM, sealed where it is secret. Raises NoSuchVm."""
    found = connection.execute(select(vms).where(vms.c.name == name)).one_or_none()
    if found is None:
        raise NoSuchVm(name)
    return found


def where(row: Row[tuple[object, ...]]) -> Where:
    """Where its agent is."""
    return Where(row.agent, row.server_name)


# -- documents ---------------------------------------------------------------------------------


def keep(connection: Connection, name: str, given: Kept) -> None:
    """Keep a document, so that it can be pushed again. Raises NoSuchVm and Stale."""
    row = connection.execute(select(vms).where(vms.c.name == name).with_for_update()).one_or_none()
    if row is None:
        raise NoSuchVm(name)
    if row.generation is not None:
        if given.generation < row.generation:
            raise Stale(f"generation {given.generation} is older than {row.generation}")
        if given.generation == row.generation and given.digest != row.digest:
            raise Stale(f"generation {row.generation} has other content already")
    connection.execute(
        update(vms)
        .where(vms.c.name == name)
        .values(
            generation=given.generation,
            digest=given.digest,
            document=given.sealed,
            heartbeat_key=given.heartbeat_key,
        )
    )


def note_push(connection: Connection, name: str, result: str, now: float) -> None:
    """Remember how a push ended."""
    connection.execute(
        update(vms).where(vms.c.name == name).values(pushed=now, result=result[:500])
    )


def note_version(connection: Connection, name: str, version: str) -> None:
    """Remember what its agent says it is."""
    connection.execute(
        update(vms)
        .where(vms.c.name == name, vms.c.agent_version != version)
        .values(agent_version=version[:64])
    )


# -- heartbeats --------------------------------------------------------------------------------


def hear(connection: Connection, heard: Sequence[Heard]) -> None:
    """Take in what heartbeats said, of many VMs at once."""
    statement = (
        update(vms)
        .where(vms.c.name == bindparam("vm"))
        .values({name: bindparam(f"new_{name}") for name in Heard.__slots__ if name != "name"})
    )
    values = [
        {"vm": one.name}
        | {f"new_{name}": getattr(one, name) for name in Heard.__slots__ if name != "name"}
        for one in heard
    ]
    if values:
        connection.execute(statement, values)


def keys(connection: Connection) -> Mapping[str, tuple[str, str]]:
    """The sealed key of each VM that sends heartbeats, and what is known of its boots."""
    found = connection.execute(
        select(vms.c.name, vms.c.heartbeat_key, vms.c.boots).where(vms.c.heartbeat_key != "")
    )
    return {row.name: (row.heartbeat_key, row.boots) for row in found}


def silence(connection: Connection, now: float, after: float) -> tuple[str, ...]:
    """Note the VMs that have not been heard for so many seconds, once each."""
    found = connection.execute(
        update(vms)
        .where(vms.c.beat < now - after, vms.c.health != SILENT)
        .values(health=SILENT)
        .returning(vms.c.name)
    )
    names = tuple(sorted(found.scalars()))
    for name in names:
        note(connection, Notice.VM_SILENT, name, f"{name} sends no heartbeat any more", {}, now)
    return names
