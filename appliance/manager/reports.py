"""What a console proxy reports, taken into the database.

A report has all of a proxy's sessions, so each is the whole truth of that proxy and none before it
matters. Sessions that a proxy still has and should not are named to it again until it has not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, exists, select, update

from appliance.manager.proxies import AVAILABLE, LOST, caps, end, lock, reunite
from appliance.manager.tables import proxies, sessions

GONE = "gone from its proxy"
NOBODY_CAME = "nobody opened it in time"  # as a proxy says it
SETTLE = 10.0  # seconds before a session that a report lacks is taken for gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A session as its proxy reports it."""

    id: str
    state: str
    source: str
    opened_ago: float | None
    input_ago: float | None
    to_guest: int
    from_guest: int
    connections: int
    resume_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a proxy says of itself: all its sessions, and why some ended since the last report."""

    draining: bool
    cap: int
    sessions: Sequence[Reported]
    ended: Mapping[str, str]


def take_report(
    connection: Connection, name: str, report: Report, now: float, *, alone: bool
) -> tuple[str, ...] | None:
    """Bring a proxy's sessions up to date; those that it has to be told to end.

    None, with nothing done, where the proxy would become available and the transaction is not
    `alone` (within `returning`). Raises NoSuchProxy.
    """
    row = lock(connection, name)
    available = row.up and not row.draining and not row.drained_there
    becomes = not available and not row.draining and not report.draining
    if becomes and not alone:
        return None
    ours = {
        one.id: one
        for one in connection.execute(
            select(sessions).where(sessions.c.proxy == name, sessions.c.ended.is_(None))
        )
    }
    if becomes:
        _reclaim(connection, row, report, ours, now)
    strangers = _strangers(connection, report, ours)
    connection.execute(
        update(proxies)
        .where(proxies.c.name == name)
        .values(
            up=True,
            drained_there=report.draining,
            reported=now,
            cap=report.cap,
            foreign_load=len(report.sessions) - _known(report, ours) - len(strangers),
        )
    )
    for one in report.sessions:
        if one.id in ours:
            _bring_up_to_date(connection, ours[one.id], one, now)
    here = {one.id for one in report.sessions}
    for identity, known in ours.items():
        if identity in here:
            continue
        if identity in report.ended:
            end(connection, identity, report.ended[identity], now)
        elif known.placed < now - SETTLE and known.state != "lost":
            _miss(connection, known, now)
    return (*strangers, *(reunite(connection, name, now) if becomes else ()))


def _reclaim(
    connection: Connection,
    row: Row[tuple[object, ...]],
    report: Report,
    ours: dict[str, Row[tuple[object, ...]]],
    now: float,
) -> None:
    """Take back what was held for lost while only the managers did not hear the proxy.

    That is a session that is open here still, and that nobody has come back to elsewhere; unless
    its VM has other sessions elsewhere by now.
    """
    here = {one.id: one for one in report.sessions if one.state == "open" and one.id not in ours}
    not_opened = sessions.c.state.in_(("reserved", "offered"))
    given_up = sessions.c.why.in_((LOST, NOBODY_CAME))
    room = caps(row)[1] - len(ours)
    for identity in sorted(here)[: max(0, room)]:
        other = sessions.alias("other")
        elsewhere = (
            select(other.c.id)
            .join(proxies, proxies.c.name == other.c.proxy)
            .where(other.c.vm == sessions.c.vm, other.c.id != sessions.c.id, *AVAILABLE)
            .where(other.c.ended.is_(None), other.c.proxy != row.name)
        )
        taken = connection.execute(
            update(sessions)
            .where(sessions.c.id == identity, not_opened | given_up, ~exists(elsewhere))
            .values(proxy=row.name, state="open", placed=now, ended=None, why="")
            .returning(sessions)
        ).one_or_none()
        if taken is not None:
            ours[identity] = taken


def _miss(connection: Connection, known: Row[tuple[object, ...]], now: float) -> None:
    """A session is not there any more, and its proxy does not say why: it has begun anew.

    A page that promised a secret comes back with it, so it is held for that (`Consoles.rescue`).
    """
    if known.state not in {"open", "waiting"} or not known.resume_sha256 or not known.sealed:
        end(connection, known.id, GONE, now)
        return
    connection.execute(
        update(sessions)
        .where(sessions.c.id == known.id, sessions.c.ended.is_(None))
        .values(state="lost", placed=now)
    )


def _known(report: Report, ours: Iterable[str]) -> int:
    known = set(ours)
    return sum(one.id in known for one in report.sessions)


def _strangers(
    connection: Connection, report: Report, ours: Mapping[str, object]
) -> tuple[str, ...]:
    """Sessions of ours that the proxy has, and should not have any more."""
    unknown = [one.id for one in report.sessions if one.id not in ours]
    found: list[str] = []
    for start in range(0, len(unknown), 500):
        part = unknown[start : start + 500]
        found += connection.execute(select(sessions.c.id).where(sessions.c.id.in_(part))).scalars()
    return tuple(sorted(found))


def _bring_up_to_date(
    connection: Connection, known: Row[tuple[object, ...]], said: Reported, now: float
) -> None:
    def at(ago: float | None, before: float | None) -> float | None:
        if ago is None:
            return before
        moment = now - ago
        return before if before is not None and abs(before - moment) < 1 else moment

    new = {
        "state": said.state,
        "source": said.source,
        "opened": at(said.opened_ago, known.opened),
        "last_input": at(said.input_ago, known.last_input),
        "to_guest": said.to_guest,
        "from_guest": said.from_guest,
        "connections": said.connections,
        "resume_sha256": said.resume_sha256,
    }
    changed = {name: value for name, value in new.items() if getattr(known, name) != value}
    if changed:
        connection.execute(
            update(sessions)
            .where(sessions.c.id == known.id, sessions.c.ended.is_(None))
            .values(**changed)
        )
