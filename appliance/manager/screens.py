"""Where guests' screens are, and whose they are, as the cloud has said."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from appliance.manager.seal import Seal
from appliance.manager.tables import screens


class NoSuchScreen(LookupError):
    """The manager does not know where that VM's screen is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """A VM's screen. `what` has its target, credentials and policy, as they are pushed."""

    vm: str
    owner: str
    zone: str
    title: str
    what: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenRow:
    """A screen as it is told: without where it is."""

    vm: str
    owner: str
    zone: str
    title: str
    changed: float


def put(connection: Connection, seal: Seal, given: Screen, now: float) -> bool:
    """Know a screen; is it a new one?"""
    values = {
        "owner": given.owner,
        "zone": given.zone,
        "title": given.title,
        "sealed": seal.close(json.dumps(dict(given.what)), f"screen {given.vm}"),
        "changed": now,
    }
    if connection.execute(
        update(screens).where(screens.c.vm == given.vm).values(**values)
    ).rowcount:
        return False
    connection.execute(insert(screens).values(vm=given.vm, **values))
    return True


def get(connection: Connection, seal: Seal, vm: str) -> Screen:
    """The screen of a VM. Raises NoSuchScreen."""
    found = connection.execute(select(screens).where(screens.c.vm == vm)).one_or_none()
    if found is None:
        raise NoSuchScreen(vm)
    what = json.loads(seal.open(found.sealed, f"screen {vm}"))
    return Screen(vm=vm, owner=found.owner, zone=found.zone, title=found.title, what=what)


def forget(connection: Connection, vm: str) -> None:
    """Know it no more. Raises NoSuchScreen."""
    if not connection.execute(delete(screens).where(screens.c.vm == vm)).rowcount:
        raise NoSuchScreen(vm)


def listed(connection: Connection, after: str, limit: int) -> tuple[ScreenRow, ...]:
    """Screens by the VM's name, beginning behind one."""
    columns = (screens.c[name] for name in ScreenRow.__slots__)
    query = select(*columns).where(screens.c.vm > after).order_by(screens.c.vm).limit(limit)
    return tuple(ScreenRow(**row) for row in connection.execute(query).mappings())
