"""Proxies in memory, with the real proxy's table of sessions, and the calls that managers make."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TypeVar

from sqlalchemy import Connection, func, select

from agent.console import wire
from agent.console.sessions import Admitted, End, NotAllowed, Table, digest_of
from agent.console.sessions import Session as ProxySession
from agent.console.targets import PortSpan, Target, TargetKind, TargetRules
from appliance.manager import proxies, reports, sessions, tables
from appliance.manager.assign import Order, Reason
from appliance.manager.database import Database
from appliance.manager.proxies import Registration
from appliance.manager.reports import Report, Reported

Result = TypeVar("Result")
RULES = TargetRules(networks=(ip_network("10.2.0.0/24"),), ports=(PortSpan(5900, 6900),))
BROWSER = ip_address("192.0.2.7")


class Mute(Exception):
    """The proxy does not answer."""


@dataclass
class SimulatedProxy:
    """One proxy: what it holds it loses when it dies; while it is cut off it only says nothing."""

    name: str
    hard: int
    zone: str = "z1"
    soft: int = 6
    cut_off: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)
    ended: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.table = Table(RULES, self.hard)

    def registration(self) -> Registration:
        return Registration(
            name=self.name, zone=self.zone, agent=f"https://{self.name}:8443", server_name="",
            link=f"https://{self.name}.console.example/", soft=self.soft, hard=self.hard,
            position=0,
        )  # fmt: skip

    def die(self) -> None:
        """Begin anew, with nothing."""
        with self.lock:
            self.table = Table(RULES, self.hard)
            self.ended = {}

    def offer(self, identity: str, vm: str, secret: str, now: float) -> None:
        """Raises Mute, and NotAllowed."""
        with self.lock:
            if self.cut_off:
                raise Mute
            self.table.offer(_session(identity, vm, digest_of(secret)), now)

    def resume(self, identity: str, vm: str, digest: str, now: float) -> None:
        """Take in a session of another proxy. Raises Mute, and NotAllowed."""
        with self.lock:
            if self.cut_off:
                raise Mute
            self.table.offer(_session(identity, vm, bytes.fromhex(digest)), now)

    def open(self, identity: str, now: float) -> bool:
        """A browser comes with its secret, and promises one to come back with."""
        back = digest_of(secret_of(f"back {identity}"))
        with self.lock:
            return isinstance(self.table.open(secret_of(identity), BROWSER, now, back), Admitted)

    def end(self, identity: str, why: End, now: float) -> None:
        with self.lock:
            if self.table.end(identity, why, now) is not None:
                self.ended[identity] = why.value

    def set_draining(self, now: float, *, draining: bool) -> None:
        with self.lock:
            if draining:
                for one in self.table.drain(now):
                    self.ended[one.live.session.id] = one.why.value
            else:
                self.table.resume_service()

    def report(self, now: float) -> Report:
        """Raises Mute."""
        with self.lock:
            if self.cut_off:
                raise Mute
            ended, self.ended = self.ended, {}
            rows = [wire.row(live, now) for live in self.table]
            said = tuple(
                Reported(
                    id=row["id"], state=row["state"], source=row["source"] or "",
                    opened_ago=row["opened_ago"], input_ago=row["input_ago"],
                    to_guest=row["to_guest"], from_guest=row["from_guest"],
                    connections=row["connections"], resume_sha256=row["resume_sha256"] or "",
                )
                for row in rows
            )  # fmt: skip
            return Report(draining=self.table.draining, cap=self.hard, sessions=said, ended=ended)


def _session(identity: str, vm: str, digest: bytes) -> ProxySession:
    target = Target(kind=TargetKind.VNC, address=ip_address("10.2.0.7"), port=5901)
    return ProxySession(
        id=identity, digest=digest, vm=vm, user="alice", title="", valid=1e9, target=target
    )


def secret_of(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:43]


@dataclass
class Caller:
    """What a manager does with the database and the proxies, with neither HTTP nor threads."""

    database: Database
    proxies: dict[str, SimulatedProxy]
    clock: Callable[[], float]

    def open(
        self, identity: str, vm: str, zone: str = "z1", *, die_after: str = ""
    ) -> sessions.Place | Reason:
        """Place a session and offer it; `die_after` is where the manager is killed."""
        wanted = sessions.Wanted(
            id=identity, vm=vm, user="alice", title="", zone=zone, creator="test",
            secret_sha256=digest_of(secret_of(identity)).hex(), sealed="x",
        )  # fmt: skip

        def reserve(connection: Connection) -> sessions.Place | Reason:
            return sessions.reserve(connection, wanted, self.clock(), order=Order.LEAST_LOADED)

        place = self.database.placing(vm, reserve)
        if isinstance(place, Reason) or die_after == "reserved":
            return place
        try:
            self.proxies[place.proxy].offer(identity, vm, secret_of(identity), self.clock())
        except (Mute, NotAllowed) as error:
            self._end(identity, f"not taken: {error!r}")
            return Reason.GONE_THERE
        if die_after != "offered":
            self.database.write(lambda c: sessions.offered(c, identity))
        return place

    def hear(self, name: str) -> None:
        """Take a proxy's report, and have it end what it should not have."""
        proxy = self.proxies[name]
        with proxy.lock:  # one manager follows a proxy
            try:
                report = proxy.report(self.clock())
            except Mute:
                return

            def take(connection: Connection, *, alone: bool) -> tuple[str, ...] | None:
                return reports.take_report(connection, name, report, self.clock(), alone=alone)

            over = self.database.write(lambda c: take(c, alone=False))
            if over is None:
                over = self.database.returning(lambda c: take(c, alone=True))
            assert over is not None
            for identity in over:
                proxy.end(identity, End.REVOKED, self.clock())

    def rescue(self) -> int:
        """Move what lost its proxy; how many were."""
        with self.database.read() as connection:
            found = sessions.lost(connection)
        moved = 0
        for one in found:
            place = self.database.placing(
                one.vm,
                lambda c, one=one: sessions.move(c, one, self.clock()),  # type: ignore[misc]  # the default binds
            )
            if place is None or isinstance(place, Reason):
                continue
            try:
                self.proxies[place.proxy].resume(one.id, one.vm, one.resume_sha256, self.clock())
            except (Mute, NotAllowed) as error:
                self._end(one.id, f"not taken: {error!r}")
            else:
                moved += 1
        return moved

    def _end(self, identity: str, why: str) -> None:
        self.database.write(lambda c: proxies.end(c, identity, why, self.clock()))

    def close(self, identity: str) -> None:
        """An operator ends a session."""
        with self.database.read() as connection:
            found = sessions.get(connection, identity)
        self._end(identity, "ended")
        proxy = self.proxies[found.proxy]
        if not proxy.cut_off:
            proxy.end(identity, End.REVOKED, self.clock())

    def drain(self, name: str) -> None:
        self.database.write(lambda c: proxies.drain(c, name))
        if not self.proxies[name].cut_off:
            self.proxies[name].set_draining(self.clock(), draining=True)

    def undrain(self, name: str) -> None:
        proxy = self.proxies[name]
        if not proxy.cut_off:
            proxy.set_draining(self.clock(), draining=False)
        over = self.database.returning(lambda c: proxies.undrain(c, name, self.clock()))
        for identity in over:
            if not proxy.cut_off:
                proxy.end(identity, End.REVOKED, self.clock())


def broken(connection: Connection) -> list[str]:
    """Which of the promises do not hold."""
    s, p = tables.sessions, tables.proxies
    found = []
    loads = connection.execute(
        select(p.c.name, p.c.hard, func.count())
        .join(s, s.c.proxy == p.c.name)
        .where(s.c.ended.is_(None))
        .group_by(p.c.name, p.c.hard)
    ).all()
    found += [f"{name} has {load} of {hard}" for name, hard, load in loads if load > hard]
    split = connection.execute(
        select(s.c.vm, func.count(s.c.proxy.distinct()))
        .join(p, s.c.proxy == p.c.name)
        .where(s.c.ended.is_(None), p.c.up, ~p.c.draining, ~p.c.drained_there)
        .group_by(s.c.vm)
        .having(func.count(s.c.proxy.distinct()) > 1)
    ).all()
    found += [f"{vm} is at {count} proxies" for vm, count in split]
    return found


def register(database: Database, given: Sequence[SimulatedProxy]) -> dict[str, SimulatedProxy]:
    for one in given:
        database.write(lambda c, one=one: proxies.register(c, one.registration()))  # type: ignore[misc]  # the default binds
    return {one.name: one for one in given}
