"""The process that keeps the sessions: it starts the workers and is asked by them and the agent.

One table for all workers, so that a secret opens once whichever worker the kernel hands a browser
to. The agent comes over a Unix socket that belongs to root; workers have one end of a socket pair.
A worker that dies is started again, and its browsers come back with their resume secrets. Where
the addresses or ports change, other workers listen there, and those before them go on with the
sessions that they have.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from agent.console import configuration, listening, wire
from agent.console.configuration import Listener
from agent.console.link import LONGEST, Link
from agent.console.records import Records
from agent.console.sessions import (
    Admitted,
    End,
    Ended,
    Live,
    NotAllowed,
    Refusal,
    Session,
    State,
    Table,
    digest_of,
)
from agent.console.targets import Target, TargetKind
from agent.console.websocket import NORMAL, POLICY, RESTART

log = logging.getLogger("console")

_LAST_WORDS = 0.5  # seconds for a worker that cannot begin to say why
_RESPAWN = 1.0  # seconds before a dead worker is started again
_START = 30.0  # seconds that workers have to begin
_LEAVING = 20.0  # seconds that browsers have to open a console of a worker that is retired
_RELOAD = 15.0  # seconds that workers have to go by other files
_NOBODY = ip_address("::")


class CannotBegin(Exception):
    """No worker could go by the files that are there."""


@dataclass(slots=True)
class Worker:
    """A worker's process, and the way to it."""

    number: int
    pid: int
    link: Link
    ready: asyncio.Event
    witness: str = ""
    retired: float | None = None  # since when it takes nobody in; it is not replaced


class Keeper:
    """The sessions and the workers of this proxy."""

    def __init__(self, folder: Path, control: Path, listeners: Mapping[Listener, socket.socket]):
        self._folder = folder
        self._control = control
        self._listeners = dict(listeners)
        self._count = 0  # of workers
        self._numbers = itertools.count()
        self._reloading = asyncio.Lock()
        self._configuration = configuration.read(folder)
        self._table = Table(self._configuration.rules, self._configuration.cap)
        self._workers: dict[int, Worker] = {}
        self._places: dict[str, int] = {}  # which worker has a session
        self._watchers: set[Link] = set()
        self._changed = asyncio.Event()
        self._over: list[dict[str, Any]] = []  # ended since the last report
        self._records = Records()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._begun = False
        self._notify: Callable[[str], None] = lambda _: None
        self._drained: asyncio.TimerHandle | None = None

    # -- life ---------------------------------------------------------------------------------

    async def run(self, count: int, notify: Callable[[str], None]) -> None:
        """Keep sessions until told to stop; `notify` tells systemd. Raises CannotBegin."""
        self._notify = notify
        self._count = count
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        await self._begin()
        self._begun = True
        self._control.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._serve, self._control, limit=LONGEST)
        self._control.chmod(0o600)
        for work in (self._tick(), self._report()):
            self._go(work)
        notify("READY=1")
        await self._stop.wait()
        notify("STOPPING=1")
        server.close()
        self._close_all(RESTART, "This console proxy is restarting.")
        await asyncio.sleep(0.2)  # what was said goes out before the workers see their link end
        for worker in list(self._workers.values()):
            await worker.link.close()
        self._control.unlink(missing_ok=True)

    def _go(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _begin(self) -> None:
        """Start a worker for each core, on the listeners that there are. Raises CannotBegin."""
        begun = [await self._spawn(next(self._numbers)) for _ in range(self._count)]
        for worker in begun:
            try:
                async with asyncio.timeout(_START):
                    await worker.ready.wait()
            except TimeoutError as error:
                raise CannotBegin(f"worker {worker.number} does not begin") from error
            if not worker.witness:
                raise CannotBegin(f"worker {worker.number} ended at once")

    async def _spawn(self, number: int) -> Worker:
        ours, theirs = socket.socketpair()
        places = [(one, sock.fileno()) for one, sock in self._listeners.items()]
        handles = (theirs.fileno(), *(handle for _, handle in places))
        arguments = [sys.executable, "-I", "-m", "agent.console", "worker", str(self._folder)]
        arguments += [str(theirs.fileno()), configuration.inherited(places)]
        for handle in handles:
            os.set_inheritable(handle, True)  # noqa: FBT003 - its only argument
        pid = os.posix_spawn(sys.executable, arguments, _environment())
        for handle in handles:  # a socket that a later worker has not to do with is not handed on
            os.set_inheritable(handle, False)  # noqa: FBT003 - its only argument
        theirs.close()
        worker = Worker(number, pid, await Link.over(ours), asyncio.Event())
        self._workers[number] = worker
        self._go(self._hear(worker))
        return worker

    async def _hear(self, worker: Worker) -> None:
        """Answer a worker until it ends, and then have another in its place."""
        async for message in worker.link.messages():
            self._from_worker(worker, message)
        await worker.link.close()
        if not worker.ready.is_set():
            await asyncio.sleep(_LAST_WORDS)
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)  # it has no way to us any more
        status = await asyncio.get_running_loop().run_in_executor(None, _reap, worker.pid)
        if self._stop.is_set():
            return
        if not worker.ready.is_set():
            worker.ready.set()  # without a witness
            if not self._begun:
                return
        if worker.retired is None:
            told = "worker %d ended (%s); its browsers come back to another"
            log.error(told, worker.number, status)
            self._records.died(worker.number, status)
        del self._workers[worker.number]
        now = time.monotonic()
        for name, number in list(self._places.items()):
            live = self._table.get(name)
            if number == worker.number and live is not None:
                self._note(self._table.lose(name, live.connections, now))
                self._places.pop(name, None)
        self._changed.set()
        if worker.retired is None:
            await asyncio.sleep(_RESPAWN)
            await self._spawn(worker.number)

    def _reload(self) -> None:
        """Go by the files anew; what cannot be used leaves everything as it is."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={now}")
        self._go(self._reload_all())

    async def _reload_all(self) -> None:
        """Have all go by the files anew, and tell systemd when that is done."""
        async with self._reloading:
            try:
                new = configuration.read(self._folder)
                listeners = listening.bind(configuration.listeners(self._folder), self._listeners)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.error("the configuration cannot be gone by: %r", error)
            else:
                self._configuration = new
                self._table.rules, self._table.cap = new.rules, new.cap
                if listeners.keys() == self._listeners.keys():
                    await self._reload_workers()
                else:
                    await self._move(listeners)
            self._notify("READY=1")

    async def _reload_workers(self) -> None:
        workers = self._serving()
        for worker in workers:
            worker.ready.clear()
            worker.link.send({"op": "reload"})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RELOAD):
                for worker in workers:
                    await worker.ready.wait()

    async def _move(self, listeners: dict[Listener, socket.socket]) -> None:
        """Have other workers listen there; those that there are keep their sessions, and no more.

        Where the others cannot begin, all is as it was.
        """
        before, self._listeners = self._listeners, listeners
        old = self._serving()
        try:
            await self._begin()
        except CannotBegin as error:
            log.error("what was there before goes on: %s", error)
            self._listeners = before
            for worker in self._serving():
                if worker not in old:
                    worker.retired = time.monotonic()
                    await worker.link.close()
        else:
            for worker in old:
                worker.retired = time.monotonic()
                worker.link.send({"op": "retire"})
        kept = {sock.fileno() for sock in self._listeners.values()}
        for sock in (*before.values(), *listeners.values()):
            if sock.fileno() not in kept:
                sock.close()

    def _serving(self) -> list[Worker]:
        """The workers that take browsers in."""
        return [worker for worker in self._workers.values() if worker.retired is None]

    async def _let_go(self, now: float) -> None:
        """End the workers that have nobody left."""
        for worker in list(self._workers.values()):
            if worker.retired is None or now - worker.retired < _LEAVING:
                continue
            if worker.number not in self._places.values():
                await worker.link.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            for ended in self._table.tick(now):
                self._note(ended)
            await self._let_go(now)
            self._records.tick(drained=self._table.draining and not self._table.held)

    # -- workers ------------------------------------------------------------------------------

    def _from_worker(self, worker: Worker, message: dict[str, Any]) -> None:
        now = time.monotonic()
        match message["op"]:
            case "open":
                resume = bytes.fromhex(message["resume"])
                answer = self._open(message["secret"], message["source"], resume, worker.number)
                worker.link.send({"n": message["n"]} | answer)
            case "plugin":
                answer = self._plugin(message, worker.number)
                worker.link.send({"n": message["n"]} | answer)
            case "count":
                seen = now - message["input_ago"]
                self._table.count(message["id"], message["to"], message["from"], seen)
            case "lost":
                self._note(self._table.lose(message["id"], message["connection"], now))
                self._changed.set()
            case "ended":
                live = self._table.get(message["id"])
                if live is not None and live.connections == message["connection"]:
                    self._note(self._table.end(message["id"], End[message["why"]], now))
            case "ready":  # or, after a reload, what it goes by still
                worker.witness = message["witness"]
                worker.ready.set()

    def _open(self, secret: str, source: str, resume: bytes, number: int) -> dict[str, Any]:
        now = time.monotonic()
        admitted = self._table.open(secret, ip_address(source), now, resume)
        if isinstance(admitted, Refusal):
            log.warning("a browser at %s is refused: %s", source, admitted.logged)
            self._records.refused(source, admitted.logged)
            return {"refused": admitted.name}
        return self._admitted(admitted, source, number)

    def _admitted(self, admitted: Admitted, source: str, number: int) -> dict[str, Any]:
        session = admitted.session
        before = self._places.get(session.id)
        if before in self._workers and admitted.connection > 1:
            message = {"op": "close", "id": session.id, "connection": admitted.connection - 1}
            told = {"code": NORMAL, "reason": "The console was opened elsewhere."}
            self._workers[before].link.send(message | told)
        self._places[session.id] = number
        if admitted.connection == 1:
            self._records.opened(session, source)
        log.info(
            "session %s: %s %s the console of %s from %s",
            session.id,
            session.user,
            "opens" if admitted.connection == 1 else "comes back to",
            session.vm,
            source,
        )
        self._changed.set()
        return {
            "session": wire.unsession(session),
            "lifetime": admitted.lifetime,
            "connection": admitted.connection,
        }

    def _plugin(self, message: dict[str, Any], number: int) -> dict[str, Any]:
        """A target that a token plug-in knows: a session that nobody pushed."""
        secret = secrets.token_urlsafe(32)
        address = ip_address(message["address"])
        session = Session(
            id=f"token-{secrets.token_hex(8)}",
            digest=digest_of(secret),
            vm=f"{address}:{message['port']}",
            user="a token",
            title="",
            target=Target(kind=TargetKind.VNC, address=address, port=message["port"]),
        )
        try:
            self._table.offer(session, time.monotonic())
        except NotAllowed as error:
            log.warning("a token's target is refused: %s", error)
            return {"refused": Refusal.UNKNOWN.name}
        answer = self._open(secret, message["source"], b"", number)
        if "refused" in answer:
            self._table.end(session.id, End.REVOKED, time.monotonic())
        return answer

    def _note(self, ended: Ended | None) -> None:
        """Record a session that is over; its browser, if one is there, is told."""
        if ended is None:
            return
        live, session = ended.live, ended.live.session
        now = time.monotonic()
        number = self._places.pop(session.id, None)
        if number in self._workers and live.state is State.OPEN:
            self._workers[number].link.send(
                {"op": "close", "id": session.id, "connection": live.connections, "code": POLICY}
                | {"reason": f"The console was closed: {ended.why.value}."}
            )
        if live.opened is None:
            log.info("session %s of %s for %s: %s", session.id, session.vm, session.user, ended.why)
        else:
            log.info(
                "session %s: %s saw %s from %s for %.0f s, %d bytes to it and %d from it: %s",
                session.id,
                session.user,
                session.vm,
                live.source,
                now - live.opened,
                live.to_guest,
                live.from_guest,
                ended.why.value,
            )
        self._over = [*self._over[-999:], wire.ended_row(ended, now)]
        self._records.ended(ended, now)
        self._changed.set()

    def _close_all(self, code: int, reason: str) -> None:
        """Every browser is told to come back later; what waits for it goes on waiting."""
        now = time.monotonic()
        for live in list(self._table):
            name = live.session.id
            worker = self._workers.get(self._places.get(name, -1))
            if live.state is State.OPEN and worker is not None:
                worker.link.send(
                    {"op": "close", "id": name, "connection": live.connections}
                    | {"code": code, "reason": reason}
                )
                self._note(self._table.lose(name, live.connections, now))

    # -- the agent ----------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(reader, writer)
        try:
            async for message in link.messages():
                if message.get("op") == "watch":
                    self._watchers.add(link)
                    link.send(self._state())
                    continue
                try:
                    new = message.get("op") == "records"
                    link.send(await self._records.after(message) if new else self._asked(message))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    link.send({"error": "malformed", "detail": f"{type(error).__name__}: {error}"})
        finally:
            self._watchers.discard(link)
            await link.close()

    def _asked(self, message: dict[str, Any]) -> dict[str, Any]:
        now = time.monotonic()
        match message["op"]:
            case "put":
                return self._put(wire.session(message["session"]), now)
            case "get":
                live = self._table.get(message["id"])
                return {"error": "unknown"} if live is None else {"session": wire.row(live, now)}
            case "delete":
                ended = self._table.end(message["id"], End.REVOKED, now)
                self._note(ended)
                return {"error": "unknown"} if ended is None else {"result": "ended"}
            case "drain":
                return self._drain(message["within"], now)
            case "undrain":
                self._table.resume_service()
                if self._drained is not None:
                    self._drained.cancel()
                self._changed.set()
                return self._state()
            case "open":  # by our plug-in in another proxy, which does the rest by itself
                return self._hand_over(message["secret"])
            case "state":
                return self._state()
            case other:
                return {"error": "malformed", "detail": f"no {other!r}"}

    def _put(self, session: Session, now: float) -> dict[str, Any]:
        try:
            if (moved := self._table.move(session)) is not None:
                self._send_after(moved, now)
                return {"result": "moved"}
            new = self._table.offer(session, now)
        except NotAllowed as error:
            return {"error": "refused", "detail": str(error)}
        if new:
            self._changed.set()
        return {"result": "created" if new else "unchanged"}

    def _send_after(self, moved: Live, now: float) -> None:
        """Have the browser of a VM that has moved come back, and so to where it is now."""
        name, number = moved.session.id, self._places.get(moved.session.id, -1)
        log.info("session %s: %s has moved", name, moved.session.vm)
        if moved.state is State.OPEN and number in self._workers:
            message = {"op": "close", "id": name, "connection": moved.connections}
            self._workers[number].link.send(
                message | {"code": RESTART, "reason": "The VM has moved."}
            )
            self._note(self._table.lose(name, moved.connections, now))
        self._changed.set()

    def _drain(self, within: float, now: float) -> dict[str, Any]:
        """Take nobody new, and after so many seconds tell those who are there to come back."""
        log.info("draining: sessions may go on for %.0f s", within)
        self._records.draining(within, self._table.held)
        for ended in self._table.drain(now):
            self._note(ended)
        if self._drained is not None:
            self._drained.cancel()
        self._drained = asyncio.get_running_loop().call_later(
            within, self._close_all, RESTART, "This console proxy is being replaced."
        )
        self._changed.set()
        return self._state()

    def _hand_over(self, secret: str) -> dict[str, Any]:
        now = time.monotonic()
        admitted = self._table.open(secret, _NOBODY, now)
        if isinstance(admitted, Refusal):
            log.warning("a browser at another proxy is refused: %s", admitted.logged)
            return {"error": "unknown"}
        self._note(self._table.end(admitted.session.id, End.HANDED_OVER, now))
        target = admitted.session.target
        return {"target": [str(target.address), target.port]}

    # -- reports ------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        now = time.monotonic()
        return {
            "draining": self._table.draining,
            "cap": self._table.cap,
            "held": self._table.held,
            "workers": len(self._serving()),
            "witnesses": sorted({worker.witness for worker in self._serving()}),
            "sessions": [wire.row(live, now) for live in self._table],
        }

    async def _report(self) -> None:
        """Tell who watches: every few seconds, and soon after a change."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._configuration.report_every):
                    await self._changed.wait()
                    await asyncio.sleep(0.2)  # what comes together is told together
            self._changed.clear()
            over, self._over = self._over, []
            if self._watchers:
                report = self._state() | {"ended": over}
                for link in self._watchers:
                    link.send(report)


def _environment() -> dict[str, str]:
    kept = ("PATH", "LANG", "MALLOC_ARENA_MAX")
    return {name: os.environ[name] for name in kept if name in os.environ}


def _reap(pid: int) -> str:
    _, status = os.waitpid(pid, 0)
    return f"status {os.waitstatus_to_exitcode(status)}"
