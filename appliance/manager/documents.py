"""Documents: pushed to their VM, kept, and pushed again to one that was recreated.

A document is kept before it is pushed, so that a manager that dies in between has lost nothing; one
that the VM refuses is taken out again, and the one before it is back. However many are asked for,
only so many pushes go on at once.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, update

from agent.document.document import Document, InvalidDocument, canonical, parse
from agent.engine.model import Problem
from agent.roles import Role
from appliance.manager import blobs, fleet, problems
from appliance.manager.agents import PUSH, AgentMute, AgentRefused, Agents
from appliance.manager.bodies import count
from appliance.manager.database import Database
from appliance.manager.fleet import Kept
from appliance.manager.notices import Notice, note
from appliance.manager.problems import Refusal
from appliance.manager.seal import Seal
from appliance.manager.tables import vms

log = logging.getLogger(__name__)

PARALLEL = 8
_ASK_AGAIN = 1.0  # seconds between two looks whether a VM's agent answers yet
_STATUS = 5.0  # seconds
_LATER = (502, 503, 504)
PUSHING = "pushing"  # the manager waits for the VM's answer, or has died while it did


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """How a push ended."""

    vm: str
    result: str  # committed, provisional, unchanged, planned, or why it was not done
    generation: int | None
    revision: int | None
    done: bool


class TooOld(Exception):
    """The VM's agent is too old to be changed."""


class Documents:
    """What is done about documents, at the database and at agents."""

    def __init__(
        self,
        database: Database,
        agents: Agents,
        seal: Seal,
        *,
        least: str,
        parallel: int = PARALLEL,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`least` is the oldest agent that may be changed."""
        self.least = least
        self._database = database
        self._agents = agents
        self._seal = seal
        self._now = now
        self._parallel = parallel
        self._free = threading.BoundedSemaphore(parallel)

    # -- pushing -------------------------------------------------------------------------------

    def put(self, name: str, data: bytes, *, force: bool = False, dry_run: bool = False) -> Pushed:
        """Push a new document. Raises NoSuchVm, Stale, Refusal, TooOld, AgentMute, AgentRefused."""
        row = self._row(name)
        document = _read(data, row)
        with self._free:
            self._gate(row, force=force)
            if dry_run:
                answer = self._send(row, document.canonical, "?dry_run=1")
                return _pushed(name, document.generation, "planned", answer)
            kept = self._kept(name, document)
            self._database.write(lambda c: _keep(c, name, kept, self._now()))
            try:
                answer = self._send(row, document.canonical)
            except AgentRefused as error:
                self._take_back(row, kept, error)
                raise
            except AgentMute as error:
                self._failed(name, f"no answer: {error}")
                raise
            return self._done(name, document.generation, answer)

    def again(self, name: str, within: float = 0) -> Pushed:
        """Push the document that is kept, as soon as the VM's agent answers, within some seconds.

        Raises NoSuchVm, Refusal where none is kept, AgentMute and AgentRefused. The gate stays
        open: it is what the VM ran before.
        """
        row = self._row(name)
        if not row.document:
            raise Refusal(problems.NOT_FOUND, f"no document of {name} is kept")
        data = self._seal.open(row.document, f"document {name}").encode()
        deadline = time.monotonic() + within
        while True:
            try:
                with self._free:
                    self._look(row)
                    return self._done(name, row.generation, self._send(row, data))
            except AgentMute as error:
                if time.monotonic() >= deadline:
                    self._failed(name, f"no answer: {error}")
                    raise
            except AgentRefused as error:
                # Its front is there before the agent is, or the agent has another change.
                if error.status not in _LATER or time.monotonic() >= deadline:
                    self._failed(name, str(error))
                    raise
            time.sleep(_ASK_AGAIN)

    def look(self, name: str) -> str:
        """The version that a VM's agent says it is; empty where it does not answer."""
        try:
            return self._look(self._row(name))
        except (AgentMute, AgentRefused):
            return ""

    def keep_blob(self, name: str, content: bytes) -> bool:
        """Keep what documents name by this SHA-256; is it new? Raises Refusal."""
        try:
            return self._database.write(
                lambda c: blobs.keep(c, self._seal, name, content, self._now())
            )
        except blobs.OtherContent as error:
            raise Refusal(problems.BAD_REQUEST, "the content has another SHA-256") from error

    def certificates(self, given: Mapping[str, Any]) -> tuple[Pushed, ...]:
        """Give all console proxies these certificates, several at a time, and say how it went."""
        with self._database.read() as connection:
            found = fleet.listed(connection, self.least, role=Role.CONSOLE_PROXY.value)
        names = [one.name for one in found]
        return self._each(names, lambda name: self._certify(name, given))

    def _certify(self, name: str, given: Mapping[str, Any]) -> Pushed:
        row = self._row(name)
        if not row.document:
            raise Refusal(problems.NOT_FOUND, f"no document of {name} is kept")
        value = json.loads(self._seal.open(row.document, f"document {name}"))
        console = {k: v for k, v in value.get("console", {}).items() if k not in _CERTIFICATES}
        value["console"] = console | dict(given)
        value["generation"] = row.generation + 1
        return self.put(name, canonical(value))

    def _each(self, names: Sequence[str], work: Callable[[str], Pushed]) -> tuple[Pushed, ...]:
        def one(name: str) -> Pushed:
            try:
                return work(name)
            except (
                AgentMute, AgentRefused, Refusal, TooOld, fleet.Stale, fleet.NoSuchVm,
            ) as error:  # fmt: skip
                return Pushed(
                    vm=name, result=str(error), generation=None, revision=None, done=False
                )

        with ThreadPoolExecutor(max_workers=self._parallel) as pool:
            return tuple(pool.map(one, names))

    # -- its parts -----------------------------------------------------------------------------

    def _row(self, name: str) -> Row[tuple[object, ...]]:
        with self._database.read() as connection:
            return fleet.whole(connection, name)

    def _look(self, row: Row[tuple[object, ...]]) -> str:
        status = self._agents.ask(fleet.where(row), "GET", "/v1/status", seconds=_STATUS)
        version = str(status["agent"]["version"])
        self._database.write(lambda c: fleet.note_version(c, row.name, version))
        return version

    def _gate(self, row: Row[tuple[object, ...]], *, force: bool) -> None:
        """A VM that is too old serves on as it is. Raises TooOld, AgentMute, AgentRefused."""
        version = self._look(row)
        if fleet.too_old(version, self.least) and not force:
            raise TooOld(f"{row.name} has agent {version}; {self.least} is the least")

    def _send(self, row: Row[tuple[object, ...]], data: bytes, query: str = "") -> Any:
        """Push it, what it names first. The agent knows already what it has."""
        where = fleet.where(row)
        with self._database.read() as connection:
            named = list(blobs.named(connection, self._seal, data))
        for name, content in named:
            self._agents.ask(where, "PUT", f"/v1/blobs/{name}", content)
        return self._agents.ask(
            where, "PUT", f"/v1/document{query}", json.loads(data), seconds=PUSH
        )

    def _kept(self, name: str, document: Document) -> Kept:
        heartbeat = getattr(document.sections.get("events"), "heartbeat", None)
        key = "" if heartbeat is None else self._seal.close(heartbeat.key, f"heartbeat {name}")
        return Kept(
            generation=document.generation,
            digest=document.digest,
            sealed=self._seal.close(document.canonical.decode(), f"document {name}"),
            heartbeat_key=key,
        )

    def _done(self, name: str, generation: int | None, answer: Any) -> Pushed:
        result = str(answer.get("result", ""))
        self._database.write(lambda c: fleet.note_push(c, name, result, self._now()))
        return _pushed(name, generation, result, answer)

    def _failed(self, name: str, why: str) -> None:
        def say(connection: Connection) -> None:
            now = self._now()
            fleet.note_push(connection, name, why, now)
            note(connection, Notice.PUSH_FAILED, name, f"push to {name}: {why}"[:1000], {}, now)

        self._database.write(say)

    def _take_back(self, before: Row[tuple[object, ...]], given: Kept, error: AgentRefused) -> None:
        """Keep what was kept before, unless somebody has pushed meanwhile."""
        self._database.write(
            lambda c: c.execute(
                update(vms)
                .where(vms.c.name == before.name, vms.c.digest == given.digest)
                .values(
                    generation=before.generation,
                    digest=before.digest,
                    document=before.document,
                    heartbeat_key=before.heartbeat_key,
                )
            )
        )
        self._failed(before.name, str(error))


_CERTIFICATES = frozenset({"certificates", "key", "passphrase"})


def _keep(connection: Connection, name: str, kept: Kept, now: float) -> None:
    fleet.keep(connection, name, kept)
    fleet.note_push(connection, name, PUSHING, now)


def _read(data: bytes, row: Row[tuple[object, ...]]) -> Document:
    """The document, if it is this VM's. Raises Refusal with every problem."""
    try:
        document = parse(data)
    except InvalidDocument as error:
        raise Refusal(
            problems.INVALID, count(len(error.problems)), problems=error.problems
        ) from error
    found = []
    if document.role.value != row.role:
        found.append(Problem("/role", f"is {document.role.value}, the VM is a {row.role}"))
    events = document.sections.get("events")
    called = getattr(events, "vm", None) or document.site.hostname
    sends = getattr(events, "push", None) or getattr(events, "heartbeat", None)
    if sends and called != row.name:
        hint = f"events and heartbeats have to come from {row.name}"
        found.append(Problem("/events/vm", f"is {called}", hint))
    if found:
        raise Refusal(problems.INVALID, count(len(found)), problems=tuple(found))
    return document


def _pushed(name: str, generation: int | None, result: str, answer: Any) -> Pushed:
    revision = answer.get("revision") if isinstance(answer, dict) else None
    return Pushed(vm=name, result=result, generation=generation, revision=revision, done=True)
