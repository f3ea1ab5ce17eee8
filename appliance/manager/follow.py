"""Following console proxies: their reports are taken as they come, their silence is noted.

Each proxy is followed by one manager, by a lease in the database; when that one dies, another takes
it over within seconds. A report is all that a proxy has, so none that was missed is missed.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection

from agent.turns import turns
from appliance.manager import proxies, reports, sessions
from appliance.manager.agents import AgentMute, AgentRefused, Agents, Where
from appliance.manager.consoles import Consoles
from appliance.manager.database import Database
from appliance.manager.notices import Notice, note
from appliance.manager.proxies import NoSuchProxy
from appliance.manager.reports import Report, Reported

log = logging.getLogger(__name__)

EVERY = 2.0  # seconds between two looks at all of them
SILENT = 20.0  # seconds without a report: longer than another manager takes to follow
LOST = 120.0  # seconds of silence after which nobody comes back
UNOFFERED = 60.0  # seconds after which a reservation's manager is dead
_PAUSE = 1.0  # seconds before a proxy is asked again that could not be followed
_SHARE = 50  # proxies that a manager takes at a look, so that others get some


def parse(value: Mapping[str, Any]) -> Report:
    """A report of an agent's. Raises ValueError, KeyError, TypeError."""
    return Report(
        draining=bool(value["draining"]),
        cap=int(value["cap"]),
        sessions=tuple(
            Reported(
                id=str(row["id"]),
                state=sessions.State(row["state"]).value,
                source=str(row["source"] or ""),
                opened_ago=row["opened_ago"],
                input_ago=row["input_ago"],
                to_guest=int(row["to_guest"]),
                from_guest=int(row["from_guest"]),
                connections=int(row["connections"]),
                resume_sha256=str(row["resume_sha256"] or ""),
            )
            for row in value["sessions"]
        ),
        ended={str(row["id"]): str(row["why"]) for row in value["ended"]},
    )


class Follower:
    """A thread that takes one proxy's reports."""

    def __init__(self, name: str, where: Where, database: Database, agents: Agents) -> None:
        self.where = where
        self._name = name
        self._database = database
        self._agents = agents
        self._fault = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"follow {name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no report any more."""
        self._stop.set()

    def _run(self) -> None:
        failed = f"proxy {self._name} cannot be followed"
        turns(self._listen, _PAUSE, self._stop, log, failed, at_once=True)

    def _listen(self) -> None:
        """Take reports for as long as they come."""
        try:
            for value in self._agents.reports(self.where):
                if self._stop.is_set():
                    return
                self._take(parse(value))
                if self._fault:
                    log.info("proxy %s is heard again", self._name)
                self._fault = ""
        except (AgentMute, AgentRefused, ValueError, KeyError, TypeError) as error:
            self._note(f"{error}" or type(error).__name__)
        except NoSuchProxy:
            self._stop.set()

    def _note(self, fault: str) -> None:
        if self._stop.is_set():
            return
        if not self._fault:
            log.warning("proxy %s is not heard: %s", self._name, fault)
        if fault != self._fault:
            self._database.write(lambda c: proxies.note_fault(c, self._name, fault))
        self._fault = fault

    def _take(self, report: Report) -> None:
        now = time.time()

        def take(connection: Connection, *, alone: bool) -> tuple[str, ...] | None:
            proxies.note_fault(connection, self._name, "")
            return reports.take_report(connection, self._name, report, now, alone=alone)

        over = self._database.write(lambda c: take(c, alone=False), durable=False)
        if over is None:
            over = self._database.returning(lambda c: take(c, alone=True))
            log.info("proxy %s takes sessions", self._name)
        for identity in over or ():
            try:
                self._agents.ask(self.where, "DELETE", f"/v1/console/sessions/{identity}")
            except (AgentMute, AgentRefused) as error:
                log.warning("session %s stays at %s for now: %s", identity, self._name, error)


class Follow:
    """All proxies that this manager follows."""

    def __init__(
        self,
        name: str,
        database: Database,
        agents: Agents,
        consoles: Consoles,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._database = database
        self._agents = agents
        self._consoles = consoles
        self._now = now
        self._begun = now()
        self._followers: dict[str, Follower] = {}

    def run(self, stop: threading.Event) -> None:
        """Until told to stop."""
        failed = "the proxies could not be looked after"
        turns(self.look, EVERY, stop, log, failed, at_once=True)
        for follower in self._followers.values():
            follower.stop()
        self._database.write(lambda c: proxies.release(c, self._name))

    def look(self) -> None:
        """Follow those that nobody follows, and note what has become of the others."""
        now = self._now()
        mine = self._database.write(
            lambda c: proxies.claim(c, self._name, now, _SHARE), durable=False
        )
        with self._database.read() as connection:
            wanted = {name: proxies.where(connection, name) for name in mine}
        for name, follower in list(self._followers.items()):
            if wanted.get(name) != follower.where:
                follower.stop()
                del self._followers[name]
        for name, where in wanted.items():
            if name not in self._followers and where is not None:
                follower = Follower(name, where, self._database, self._agents)
                self._followers[name] = follower
        self._database.write(lambda c: sessions.expire(c, now, UNOFFERED))
        # Whoever has just begun has not listened long enough to call anybody silent.
        if now - self._begun > SILENT:
            self._silence(now)

    def rescue(self, stop: threading.Event) -> None:
        """Offer sessions whose proxy is lost to others, until told to stop.

        Beside `run`, for a proxy that does not answer must not keep this manager from saying that
        it follows the others.
        """
        turns(self._consoles.rescue, EVERY, stop, log, "sessions could not be moved")

    def _silence(self, now: float) -> None:
        def look(connection: Connection) -> tuple[str, ...]:
            silent = proxies.silence(connection, now, SILENT)
            for name in silent:
                note(connection, Notice.PROXY_SILENT, name, f"{name} reports no more", {}, now)
            return silent

        for name in self._database.write(look):
            log.warning("proxy %s is silent: it gets no sessions", name)
        for identity in self._database.write(lambda c: proxies.give_up(c, now, LOST)):
            log.warning("session %s is lost with its proxy", identity)
