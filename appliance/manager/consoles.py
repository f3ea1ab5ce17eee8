"""Opening consoles: a place in the database, an offer to the proxy, a link for the user.

The secret in the link is made here and told to the user alone; the proxy and the database have its
SHA-256. What the proxy needs besides (the screen's address, its password) is sealed in the
database for as long as the session lives, so that another proxy can be told when one is lost.
"""

import hashlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from appliance.manager import proxies, sessions
from appliance.manager.agents import AgentMute, AgentRefused, Agents, Where
from appliance.manager.assign import Order, Reason
from appliance.manager.database import Database
from appliance.manager.notices import Notice, note_sometimes
from appliance.manager.seal import Seal
from appliance.manager.sessions import Place, SessionRow, Wanted

log = logging.getLogger(__name__)

EACH = 20  # sessions that a user may have
_ATTEMPTS = 3  # proxies that are tried, where one does not answer
_RESUMED = 60  # seconds that a page has to come to another proxy
_OFFER = 8.0  # seconds for a proxy to take a session in
RESTARTED = "its proxy was restarted"
DISCONNECTED = "ended by management"
UNIT = "sysvm-console-proxy.service"


class NoProxy(Exception):
    """There is no proxy for the session now."""

    retryable = True

    def __init__(self, reason: Reason, vm: str, zone: str) -> None:
        self.reason = reason
        super().__init__(f"{vm} in zone {zone}: {reason.value}")


class TooMany(Exception):
    """The user has as many sessions as one may have."""


class SessionRefused(Exception):
    """The proxy does not take the session, whoever asks: its target is none, say."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        self.problem = problem
        super().__init__(str(problem.get("detail", "the proxy refuses it")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A console that somebody may open. `what` has target, credentials and policy, as pushed."""

    vm: str
    user: str
    title: str
    zone: str
    creator: str
    what: Mapping[str, Any]
    valid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A console that waits for its browser."""

    id: str
    vm: str
    user: str
    proxy: str
    again: bool  # the VM has another session at this proxy
    link: str
    valid: int  # seconds that the link waits to be opened


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Sessions that end, or may have to, by what was asked for."""

    proxy: str
    sessions: tuple[SessionRow, ...]


class Consoles:
    """What is done about sessions, at the database and at the proxies."""

    def __init__(
        self,
        database: Database,
        agents: Agents,
        seal: Seal,
        *,
        order: Order = Order.LEAST_LOADED,
        each: int = EACH,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._agents = agents
        self._seal = seal
        self._order = order
        self.each = each
        self._now = now

    # -- opening -------------------------------------------------------------------------------

    def open(self, asked: Asked) -> Opened:
        """Place a session, offer it to its proxy, and make its link.

        Raises NoProxy, TooMany and SessionRefused.
        """
        without: set[str] = set()
        secret = secrets.token_urlsafe(32)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        for _ in range(_ATTEMPTS):
            identity = secrets.token_hex(16)
            place = self._reserve(identity, digest, asked, without)
            body = self._body(asked, digest)
            if self._offer(place, identity, body):
                return Opened(
                    id=identity,
                    vm=asked.vm,
                    user=asked.user,
                    proxy=place.proxy,
                    again=place.again,
                    link=f"{place.link}#s={secret}",
                    valid=asked.valid,
                )
            without.add(place.proxy)
        raise NoProxy(Reason.SILENT, asked.vm, asked.zone)

    def _reserve(self, identity: str, digest: str, asked: Asked, without: set[str]) -> Place:
        now = self._now()
        wanted = Wanted(
            id=identity,
            vm=asked.vm,
            user=asked.user,
            title=asked.title,
            zone=asked.zone,
            creator=asked.creator,
            secret_sha256=digest,
            sealed=self._seal.close(json.dumps(dict(asked.what)), f"session {identity}"),
        )
        place = self._database.placing(
            asked.vm,
            lambda c: sessions.reserve(
                c, wanted, now, order=self._order, without=without, each=self.each
            ),
            user=asked.user,
        )
        if place is Reason.MANY:
            raise TooMany(f"{asked.user} has {self.each} sessions")
        if isinstance(place, Reason):
            self._say_no_room(place, asked.vm, asked.zone, now)
            raise NoProxy(place, asked.vm, asked.zone)
        return place

    def _say_no_room(self, reason: Reason, vm: str, zone: str, now: float) -> None:
        message = f"no console for {vm}: {reason.value}"

        def say(connection: Connection) -> bool:
            data = {"zone": zone, "vm": vm, "reason": reason.name.lower()}
            return note_sometimes(connection, Notice.NO_CAPACITY, zone, message, data, now)

        if self._database.write(say):
            log.warning("zone %s: %s", zone, message)

    def _body(self, asked: Asked, digest: str) -> dict[str, Any]:
        return {
            "secret_sha256": digest,
            "vm": asked.vm,
            "user": asked.user,
            "title": asked.title,
            "valid": asked.valid,
            **asked.what,
        }

    def _offer(self, place: Place, identity: str, body: Mapping[str, Any]) -> bool:
        """Offer a session to its proxy; False where that cannot take it now.

        Raises SessionRefused. Where the answer is lost the session is ended here, and the proxy
        is told so by whoever reads its next report.
        """
        path = f"/v1/console/sessions/{identity}"
        try:
            self._agents.ask(place.where, "PUT", path, body, seconds=_OFFER)
        except AgentRefused as error:
            self._end(identity, f"refused by {place.proxy}: {error}"[:300])
            # A proxy that drains by somebody else's wish refuses it as well, but says why.
            if error.status == 422 and "draining" not in str(error):
                raise SessionRefused(error.problem) from error
            log.warning("proxy %s does not take a session: %s", place.proxy, error)
            return False
        except AgentMute as error:
            self._end(identity, f"{place.proxy} does not answer")
            log.warning("proxy %s does not take a session: %s", place.proxy, error)
            return False
        self._database.write(lambda c: sessions.offered(c, identity), durable=False)
        return True

    def _end(self, identity: str, why: str) -> bool:
        return self._database.write(lambda c: proxies.end(c, identity, why, self._now()))

    # -- ending --------------------------------------------------------------------------------

    def disconnect(self, identity: str, why: str = DISCONNECTED) -> SessionRow:
        """End a session. Raises NoSuchSession.

        A proxy that does not answer now ends it as soon as it reports again.
        """
        with self._database.read() as connection:
            found = sessions.get(connection, identity)
            where = proxies.where(connection, found.proxy)
        if self._end(identity, why) and where is not None:
            self._tell(where, "DELETE", f"/v1/console/sessions/{identity}")
        with self._database.read() as connection:
            return sessions.get(connection, identity)

    def drain(self, name: str, within: int) -> Ending:
        """Give a proxy no sessions any more; those that it has, of which some may move.

        Raises NoSuchProxy.
        """
        self._database.write(lambda c: proxies.drain(c, name))
        ending = self._ending(name)  # now: what nobody has opened yet ends as soon as it is told
        self._tell(self._where(name), "POST", "/v1/console/drain", {"within": within})
        return ending

    def undrain(self, name: str) -> Ending:
        """Give it sessions again; those that end, for their VM is elsewhere now."""
        where = self._where(name)
        self._tell(where, "DELETE", "/v1/console/drain")
        over = self._database.returning(lambda c: proxies.undrain(c, name, self._now()))
        with self._database.read() as connection:
            ended = tuple(sessions.get(connection, identity) for identity in over)
        for one in ended:
            self._tell(where, "DELETE", f"/v1/console/sessions/{one.id}")
        return Ending(proxy=name, sessions=ended)

    def restart(self, name: str) -> Ending:
        """Restart a proxy's service; its sessions end. Raises NoSuchProxy, AgentMute, AgentRefused.

        The proxy keeps sessions in its memory alone: pages open their consoles anew, unless they
        come back to another proxy.
        """
        where = self._where(name)
        ending = self._ending(name)
        self._agents.ask(where, "POST", f"/v1/services/{UNIT}/restart")
        for one in ending.sessions:
            self._end(one.id, RESTARTED)
        return ending

    def _ending(self, name: str) -> Ending:
        with self._database.read() as connection:
            return Ending(proxy=name, sessions=sessions.listed(connection, proxy=name))

    def _where(self, name: str) -> Where:
        with self._database.read() as connection:
            where = proxies.where(connection, name)
        if where is None:
            raise proxies.NoSuchProxy(name)
        return where

    def _tell(self, where: Where, method: str, path: str, value: object = None) -> bool:
        """Tell an agent what it finds out by itself otherwise; was it told?"""
        try:
            self._agents.ask(where, method, path, value, seconds=_OFFER)
        except AgentRefused as error:
            if error.status != 404:
                log.warning("%s %s at %s: %s", method, path, where.url, error)
            return error.status == 404
        except AgentMute as error:
            log.warning("%s %s: %s", method, path, error)
            return False
        return True

    # -- moving --------------------------------------------------------------------------------

    def rescue(self) -> int:
        """Offer sessions whose proxy is lost to another one; how many were.

        Their pages promised a secret to come back with. It opens them there, once.
        """
        with self._database.read() as connection:
            found = sessions.lost(connection)
        return sum(self._move(one) for one in found)

    def _move(self, one: sessions.Lost) -> bool:
        now = self._now()
        place = self._database.placing(
            one.vm, lambda c: sessions.move(c, one, now, order=self._order)
        )
        if place is None or isinstance(place, Reason):
            return False
        what = json.loads(self._seal.open(one.sealed, f"session {one.id}"))
        body = {
            "secret_sha256": one.resume_sha256,
            "vm": one.vm,
            "user": one.user,
            "title": one.title,
            "valid": _RESUMED,
            **what,
        }
        try:
            if not self._offer(place, one.id, body):
                return False
        except SessionRefused as error:
            log.warning("session %s is not taken by %s: %s", one.id, place.proxy, error)
            return False
        log.info("session %s of %s goes on at %s", one.id, one.vm, place.proxy)
        return True
