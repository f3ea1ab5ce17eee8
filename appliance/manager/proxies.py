"""Console proxies in the database: which there are, what they report, when they fall silent.

Whether a proxy is available is what the rows say, and no clock is asked: silence is noted by a
manager that has listened long enough, its end by a report. Whatever makes a proxy available runs
within `Database.returning`, and ends those of its sessions whose VM has gone elsewhere meanwhile.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, Row, and_, delete, exists, func, insert, or_, select, update

from appliance.manager.agents import Where
from appliance.manager.assign import Condition, Proxy
from appliance.manager.tables import proxies, sessions

LEASE = 6.0  # seconds that a manager may follow a proxy without saying so again
MOVED = "the VM's console is at another proxy now"
LOST = "its proxy fell silent, and did not come back"
FORGOTTEN = "its proxy began anew, and there was no place for it"

AVAILABLE = (proxies.c.up, ~proxies.c.draining, ~proxies.c.drained_there)


class NoSuchProxy(LookupError):
    """There is no proxy of that name."""


class InUse(ValueError):
    """The proxy has sessions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A proxy as it is registered."""

    name: str
    zone: str
    agent: str
    server_name: str
    link: str
    soft: int
    hard: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyRow:
    """A proxy as it is told. `fault` is why its reports cannot be followed."""

    name: str
    zone: str
    agent: str
    link: str
    condition: Condition
    load: int
    soft: int
    hard: int
    position: int
    reported: float | None
    watcher: str
    fault: str


# -- registration ------------------------------------------------------------------------------


def register(connection: Connection, given: Registration) -> bool:
    """Take a proxy in, or change it; is it a new one? A new one is silent until it reports."""
    values = {name: getattr(given, name) for name in Registration.__slots__}
    known = connection.execute(
        update(proxies).where(proxies.c.name == given.name).values(**values)
    ).rowcount
    if known:
        return False
    connection.execute(
        insert(proxies).values(
            **values,
            draining=False,
            drained_there=False,
            up=False,
            foreign_load=0,
            watcher="",
            watched_until=0.0,
            fault="",
        )
    )
    return True


def registered(connection: Connection, name: str) -> Registration | None:
    """As it is registered."""
    columns = (proxies.c[column] for column in Registration.__slots__)
    found = connection.execute(select(*columns).where(proxies.c.name == name)).mappings().first()
    return None if found is None else Registration(**found)


def forget(connection: Connection, name: str) -> None:
    """Let go of a proxy. Raises NoSuchProxy, and InUse while it has sessions."""
    lock(connection, name)
    if live_on(connection, name):
        raise InUse(name)
    connection.execute(delete(proxies).where(proxies.c.name == name))


def lock(connection: Connection, name: str) -> Row[tuple[object, ...]]:
    """The proxy's row, which nobody else changes meanwhile. Raises NoSuchProxy."""
    row = connection.execute(
        select(proxies).where(proxies.c.name == name).with_for_update()
    ).one_or_none()
    if row is None:
        raise NoSuchProxy(name)
    return row


# -- as assignment sees them -------------------------------------------------------------------


def condition(row: Row[tuple[object, ...]]) -> Condition:
    """Whether it may be given sessions."""
    if not row.up:
        return Condition.SILENT
    return Condition.DRAINING if row.draining or row.drained_there else Condition.RUNNING


def caps(row: Row[tuple[object, ...]]) -> tuple[int, int]:
    """The soft and the hard cap: the proxy itself enforces one, too."""
    hard = row.hard if row.cap is None else min(row.hard, row.cap)
    return min(row.soft, hard), hard


def as_candidate(row: Row[tuple[object, ...]], load: int) -> Proxy:
    """A row as assignment wants it; `load` is of our sessions alone."""
    soft, hard = caps(row)
    return Proxy(
        name=row.name,
        zone=row.zone,
        load=load + row.foreign_load,
        soft=soft,
        hard=hard,
        condition=condition(row),
        position=row.position,
    )


_LOADS = (
    select(sessions.c.proxy, func.count().label("load"))
    .where(sessions.c.ended.is_(None))
    .group_by(sessions.c.proxy)
)
_LOAD = _LOADS.subquery("loads")
# Nothing but what assignment looks at, of each proxy at each assignment.
_CANDIDATES = select(
    *(proxies.c[name] for name in ("name", "zone", "soft", "hard", "position")),
    *(proxies.c[name] for name in ("cap", "foreign_load", "up", "draining", "drained_there")),
    func.coalesce(_LOAD.c.load, 0),
).select_from(proxies.outerjoin(_LOAD, _LOAD.c.proxy == proxies.c.name))


def all_candidates(connection: Connection) -> list[Proxy]:
    """Every proxy as assignment wants it."""
    found = []
    rows = connection.execute(_CANDIDATES).all()
    for name, zone, soft, hard, position, cap, foreign, up, draining, there, load in rows:
        most = hard if cap is None else min(hard, cap)
        state = Condition.DRAINING if draining or there else Condition.RUNNING
        found.append(
            Proxy(
                name=name,
                zone=zone,
                load=load + foreign,
                soft=min(soft, most),
                hard=most,
                condition=state if up else Condition.SILENT,
                position=position,
            )
        )
    return found


def everyone(connection: Connection) -> Iterator[tuple[Row[tuple[object, ...]], int]]:
    """Every proxy, and how many sessions of ours it has."""
    loads = {name: load for name, load in connection.execute(_LOADS)}  # noqa: C416 - a row is not a pair to mypy
    for row in connection.execute(select(proxies).order_by(proxies.c.position, proxies.c.name)):
        yield row, loads.get(row.name, 0)


def rows(connection: Connection) -> tuple[ProxyRow, ...]:
    """Every proxy, as it is told."""

    def told(row: Row[tuple[object, ...]], load: int) -> ProxyRow:
        soft, hard = caps(row)
        return ProxyRow(
            name=row.name,
            zone=row.zone,
            agent=row.agent,
            link=row.link,
            condition=condition(row),
            load=load + row.foreign_load,
            soft=soft,
            hard=hard,
            position=row.position,
            reported=row.reported,
            watcher=row.watcher,
            fault=row.fault,
        )

    return tuple(told(row, load) for row, load in everyone(connection))


def row_of(connection: Connection, name: str) -> ProxyRow:
    """One of them. Raises NoSuchProxy."""
    for row in rows(connection):
        if row.name == name:
            return row
    raise NoSuchProxy(name)


def where(connection: Connection, name: str) -> Where | None:
    """Where its agent is; None where there is no such proxy."""
    query = select(proxies.c.agent, proxies.c.server_name).where(proxies.c.name == name)
    found = connection.execute(query).one_or_none()
    return None if found is None else Where(found.agent, found.server_name)


def live_on(connection: Connection, name: str) -> tuple[str, ...]:
    """The sessions that are on a proxy."""
    found = connection.execute(
        select(sessions.c.id)
        .where(sessions.c.proxy == name, sessions.c.ended.is_(None))
        .order_by(sessions.c.id)
    )
    return tuple(found.scalars())


# -- following ---------------------------------------------------------------------------------


def claim(connection: Connection, manager: str, now: float, share: int) -> tuple[str, ...]:
    """The proxies that this manager follows from now on, `share` new ones at most.

    A proxy is followed by one manager, and by another where that has not said so for a while.
    """
    mine = update(proxies).values(watcher=manager, watched_until=now + LEASE)
    connection.execute(mine.where(proxies.c.watcher == manager, proxies.c.watched_until >= now))
    free = select(proxies.c.name).where(proxies.c.watched_until < now).order_by(proxies.c.name)
    for name in connection.execute(free.limit(share)).scalars().all():
        connection.execute(mine.where(proxies.c.name == name, proxies.c.watched_until < now))
    held = select(proxies.c.name).where(proxies.c.watcher == manager)
    return tuple(connection.execute(held.where(proxies.c.watched_until >= now)).scalars())


def release(connection: Connection, manager: str) -> None:
    """Leave all of them to other managers."""
    connection.execute(
        update(proxies).where(proxies.c.watcher == manager).values(watched_until=0.0)
    )


def note_fault(connection: Connection, name: str, fault: str) -> None:
    """Remember why it cannot be followed; empty where it can."""
    connection.execute(
        update(proxies)
        .where(proxies.c.name == name, proxies.c.fault != fault)
        .values(fault=fault[:500])
    )


# -- split and ended -------------------------------------------------------------------------


def reunite(connection: Connection, name: str, now: float) -> tuple[str, ...]:
    """End this proxy's sessions of VMs that have sessions at another one that is available."""
    other = sessions.alias("other")
    elsewhere = (
        select(other.c.id)
        .join(proxies, proxies.c.name == other.c.proxy)
        .where(
            other.c.vm == sessions.c.vm,
            other.c.ended.is_(None),
            other.c.proxy != name,
            *AVAILABLE,
        )
    )
    split = connection.execute(
        select(sessions.c.id)
        .where(sessions.c.proxy == name, sessions.c.ended.is_(None), exists(elsewhere))
        .order_by(sessions.c.id)
    ).scalars()
    ended = tuple(split)
    for identity in ended:
        end(connection, identity, MOVED, now)
    return ended


def over(why: str, now: float) -> dict[str, object]:
    """A session's values when it ends: what it needed to be had at a proxy goes."""
    return {"state": "ended", "ended": now, "why": why, "sealed": ""}


def end(connection: Connection, identity: str, why: str, now: float) -> bool:
    """A session is over; was it not yet?"""
    return bool(
        connection.execute(
            update(sessions)
            .where(sessions.c.id == identity, sessions.c.ended.is_(None))
            .values(**over(why, now))
        ).rowcount
    )


# -- silence and drains ------------------------------------------------------------------------


def silence(connection: Connection, now: float, after: float) -> tuple[str, ...]:
    """Note those that have not reported for so many seconds."""
    found = connection.execute(
        update(proxies)
        .where(proxies.c.up, proxies.c.reported < now - after)
        .values(up=False)
        .returning(proxies.c.name)
    )
    return tuple(sorted(found.scalars()))


def give_up(connection: Connection, now: float, after: float) -> tuple[str, ...]:
    """End the sessions of those that have been silent for so long that nobody comes back."""
    dead = select(proxies.c.name).where(
        and_(~proxies.c.up, or_(proxies.c.reported.is_(None), proxies.c.reported < now - after))
    )
    found = connection.execute(
        update(sessions)
        .where(sessions.c.ended.is_(None), sessions.c.proxy.in_(dead))
        .values(**over(LOST, now))
        .returning(sessions.c.id)
    )
    return tuple(sorted(found.scalars()))


def drain(connection: Connection, name: str) -> tuple[str, ...]:
    """Give it no sessions any more; those that it has. Raises NoSuchProxy."""
    lock(connection, name)
    connection.execute(update(proxies).where(proxies.c.name == name).values(draining=True))
    return live_on(connection, name)


def undrain(connection: Connection, name: str, now: float) -> tuple[str, ...]:
    """Give it sessions again (within `returning`); those that it has to be told to end.

    Raises NoSuchProxy.
    """
    row = lock(connection, name)
    # What it last reported of a drain is over with this one.
    connection.execute(
        update(proxies).where(proxies.c.name == name).values(draining=False, drained_there=False)
    )
    return reunite(connection, name, now) if row.up else ()
