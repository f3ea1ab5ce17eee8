"""Console sessions in the database: each has its place on a proxy before anybody hears of it.

    reserved --offered to the proxy--> offered --the browser comes--> open <--> waiting
        |                                 |                             |
        +---------------------------------+-----------------------------+--> ended (why)

A session whose proxy fell silent, or drains, is reserved anew elsewhere if its page can come back;
one that its proxy has forgotten is lost, and reserved anew at that or another one.
A reservation counts against the proxy's caps from the moment that it is committed, so that caps
hold however many managers place sessions at once. What a proxy reports moves it on.
"""

import enum
from collections.abc import Collection
from dataclasses import dataclass, replace

from sqlalchemy import Connection, RowMapping, bindparam, func, insert, select, update

from appliance.manager import proxies as places
from appliance.manager.agents import Where
from appliance.manager.assign import Candidate, Order, Reason, candidates
from appliance.manager.tables import proxies, sessions

NOT_OFFERED = "the manager ended before it was offered to its proxy"
_LOOKS = 3  # times that a choice is made again because its proxy has just become unavailable


class State(enum.StrEnum):
    """Where a session is."""

    RESERVED = "reserved"  # it has its place
    OFFERED = "offered"  # the proxy waits for its browser
    OPEN = "open"
    WAITING = "waiting"  # the browser is lost, and may come back
    LOST = "lost"  # its proxy has begun anew, and knows nothing of it; its page may come back
    ENDED = "ended"


class NoSuchSession(LookupError):
    """There is no session of that name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A session that is to be placed. `sealed` is its target, credentials and policy."""

    id: str
    vm: str
    user: str
    title: str
    zone: str
    creator: str
    secret_sha256: str
    sealed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a session was placed."""

    proxy: str
    where: Where
    link: str
    again: bool  # because the VM has another session there


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """A session as it is told; times are seconds since the epoch."""

    id: str
    vm: str
    user: str
    title: str
    zone: str
    proxy: str
    state: State
    creator: str
    created: float
    opened: float | None
    last_input: float | None
    source: str
    to_guest: int
    from_guest: int
    connections: int
    ended: float | None
    why: str


# -- placing -----------------------------------------------------------------------------------

# Built once: to build a statement costs more than to run it.
_LIVE = sessions.c.ended.is_(None)
_HELD_BY = select(func.count()).where(sessions.c.user == bindparam("of"), _LIVE)
_HELD_AT = select(func.count()).where(
    sessions.c.proxy == bindparam("of"), _LIVE, sessions.c.id != bindparam("but")
)
_THERE = select(sessions.c.proxy).where(sessions.c.vm == bindparam("of"), _LIVE).distinct()
_LOCKED = select(proxies).where(proxies.c.name == bindparam("of")).with_for_update()
_OFFERED = (
    update(sessions)
    .where(sessions.c.id == bindparam("of"), sessions.c.state == State.RESERVED.value)
    .values(state=State.OFFERED.value)
)
_NEW = insert(sessions)


def reserve(
    connection: Connection,
    wanted: Wanted,
    now: float,
    *,
    order: Order = Order.LEAST_LOADED,
    without: Collection[str] = (),
    each: int | None = None,
) -> Place | Reason:
    """Give a session its place, within `Database.placing` of its VM; or why there is none.

    `each` is how many a user may have; `placing` is of the user as well, then.
    """
    if each is not None and held_by(connection, wanted.user) >= each:
        return Reason.MANY
    reason = Reason.FULL
    for _ in range(_LOOKS):
        everyone = places.all_candidates(connection)
        found = candidates(everyone, there(connection, wanted.vm), wanted.zone, order, without)
        if isinstance(found, Reason):
            return found
        for candidate in found:
            place = _take(connection, candidate, wanted, now)
            if place is not None:
                return place
        reason = Reason.FULL_THERE if found[0].again else Reason.FULL
    return reason


def held_by(connection: Connection, user: str) -> int:
    """How many sessions a user has."""
    return connection.execute(_HELD_BY, {"of": user}).scalar_one()


def there(connection: Connection, vm: str) -> frozenset[str]:
    """The proxies on which a VM has sessions."""
    return frozenset(connection.execute(_THERE, {"of": vm}).scalars())


def _take(connection: Connection, candidate: Candidate, wanted: Wanted, now: float) -> Place | None:
    """Take a place on this proxy, unless that has just changed or become full."""
    place = _room(connection, candidate)
    if place is not None:
        connection.execute(
            _NEW,
            {name: getattr(wanted, name) for name in Wanted.__slots__}
            | {"proxy": place.proxy, "state": State.RESERVED.value, "resume_sha256": ""}
            | {"created": now, "placed": now, "source": "", "why": ""}
            | {"to_guest": 0, "from_guest": 0, "connections": 0},
        )
    return place


def _room(connection: Connection, candidate: Candidate, but: str = "") -> Place | None:
    """The proxy, locked and with room; None where it has none any more. `but` counts for none."""
    row = connection.execute(_LOCKED, {"of": candidate.proxy}).one_or_none()
    if row is None:
        return None
    load = connection.execute(_HELD_AT, {"of": candidate.proxy, "but": but}).scalar_one()
    now_is = places.as_candidate(row, load)
    limit = now_is.hard if candidate.again else now_is.soft
    if not now_is.available or now_is.load >= limit:
        return None
    return Place(
        proxy=row.name,
        where=Where(row.agent, row.server_name),
        link=row.link,
        again=candidate.again,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A session whose page waits for a proxy: its own is silent, began anew, or drains."""

    id: str
    proxy: str
    vm: str
    user: str
    title: str
    zone: str
    resume_sha256: str
    sealed: str


def lost(connection: Connection, identity: str | None = None, limit: int = 100) -> tuple[Lost, ...]:
    """Sessions that can be had at another proxy: their pages come back with a secret.

    All of them, or this one if it is lost.
    """
    forgotten = sessions.c.state == State.LOST.value
    gone = (
        ~proxies.c.up
        | forgotten
        | (
            (proxies.c.draining | proxies.c.drained_there)
            & (sessions.c.state == State.WAITING.value)
        )
    )
    query = (
        select(*(sessions.c[name] for name in Lost.__slots__))
        .join(proxies, proxies.c.name == sessions.c.proxy)
        .where(
            sessions.c.ended.is_(None),
            sessions.c.state.in_((State.OPEN.value, State.WAITING.value, State.LOST.value)),
            sessions.c.resume_sha256 != "",
            sessions.c.sealed != "",
            gone,
        )
        .order_by(sessions.c.created)
        .limit(limit)
    )
    if identity is not None:
        query = query.where(sessions.c.id == identity)
    return tuple(Lost(**row) for row in connection.execute(query).mappings())


def move(
    connection: Connection, one: Lost, now: float, order: Order = Order.LEAST_LOADED
) -> Place | Reason | None:
    """Give a lost session another place, within `Database.placing` of its VM.

    None where it is not lost any more.
    """
    if one not in lost(connection, one.id):
        return None
    # The place that it has already is its own.
    everyone = [
        replace(proxy, load=proxy.load - 1) if proxy.name == one.proxy else proxy
        for proxy in places.all_candidates(connection)
    ]
    found = candidates(everyone, there(connection, one.vm), one.zone, order)
    if isinstance(found, Reason):
        return found
    for candidate in found:
        place = _room(connection, candidate, but=one.id)
        if place is not None:
            connection.execute(
                update(sessions)
                .where(sessions.c.id == one.id)
                .values(
                    proxy=place.proxy,
                    state=State.RESERVED.value,
                    placed=now,
                    secret_sha256=one.resume_sha256,
                    resume_sha256="",
                )
            )
            return place
    return Reason.FULL


def offered(connection: Connection, identity: str) -> bool:
    """The proxy has taken it in; False where it was ended meanwhile, or a report said so.

    Nothing is lost where a power cut undoes it: the proxy's next report says so again.
    """
    return bool(connection.execute(_OFFERED, {"of": identity}).rowcount)


def expire(connection: Connection, now: float, after: float) -> tuple[str, ...]:
    """End reservations that nobody has offered, for their manager has died.

    And sessions that their proxy forgot, where there was no room for them so long.
    """
    found: list[str] = []
    for state, why in ((State.RESERVED, NOT_OFFERED), (State.LOST, places.FORGOTTEN)):
        found += connection.execute(
            update(sessions)
            .where(sessions.c.state == state.value, sessions.c.placed < now - after)
            .values(**places.over(why, now))
            .returning(sessions.c.id)
        ).scalars()
    return tuple(sorted(found))


# -- telling -----------------------------------------------------------------------------------

_TOLD = tuple(sessions.c[name] for name in SessionRow.__slots__)


def listed(
    connection: Connection,
    *,
    vm: str | None = None,
    user: str | None = None,
    proxy: str | None = None,
    ended: bool = False,
    limit: int = 1000,
) -> tuple[SessionRow, ...]:
    """Sessions that are, or those that were; the newest first."""
    over = sessions.c.ended.is_not(None) if ended else sessions.c.ended.is_(None)
    query = select(*_TOLD).where(over).order_by(sessions.c.created.desc(), sessions.c.id)
    for column, value in ((sessions.c.vm, vm), (sessions.c.user, user), (sessions.c.proxy, proxy)):
        if value is not None:
            query = query.where(column == value)
    return tuple(map(_row, connection.execute(query.limit(limit)).mappings()))


def get(connection: Connection, identity: str) -> SessionRow:
    """One of them. Raises NoSuchSession."""
    query = select(*_TOLD).where(sessions.c.id == identity)
    found = connection.execute(query).mappings().one_or_none()
    if found is None:
        raise NoSuchSession(identity)
    return _row(found)


def _row(values: RowMapping) -> SessionRow:
    return SessionRow(**{**values, "state": State(values["state"])})
