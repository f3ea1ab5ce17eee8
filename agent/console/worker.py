"""A worker: one process, one loop, any number of browsers.

It accepts, does TLS, hands out the page, opens WebSockets and screens, and leaves a `Bridge` for
each session; who may see what is the keeper's to say. Everything that a stranger can make it do
has a time, a size and a number.
"""

import asyncio
import itertools
import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from agent.console import configuration, http, pages, plugins, websocket, wire
from agent.console.bridge import Bridge
from agent.console.channel import Channel, Closed
from agent.console.configuration import Configuration, Listener, Service
from agent.console.dial import Screen, Unreachable, detail, dial, follow, why
from agent.console.http import BadRequest, Request
from agent.console.limits import Buckets, HalfOpen, source_key
from agent.console.link import Link
from agent.console.loop_turns import Departures, Turns
from agent.console.rfb import handshake
from agent.console.rfb.filter import ClientFilter
from agent.console.rfb.handshake import HandshakeFailed, Steps, T
from agent.console.rfb.screen import ScreenFilter
from agent.console.sessions import End, Refusal, Session
from agent.console.targets import Address
from agent.console.websocket import FrameReader, Protocol, ProtocolError

log = logging.getLogger("console")

SOCKET_PATH = "/socket"  # where the WebSocket is
_TLS_TIME = 5.0  # seconds for a handshake
_HEAD_TIME = 5.0  # seconds for a request
_KEPT_TIME = 10.0  # seconds that a connection for pages stays without a request
_OPEN_TIME = 10.0  # seconds that a browser has for each part of opening a console
_REQUESTS = 100  # of one connection
_HANDSHAKES = 4  # of TLS, before the others have their turn
_ACCEPTS = 32  # before the others have their turn
_PING = 25.0  # seconds without a word from the browser until it is asked
_DEAD = 60.0  # seconds after which it is lost
_LOOKUP_TIME = 5.0  # seconds that a plug-in has
_EARLY = 1024  # sessions that are remembered to have ended before they were going
_SECRET_MESSAGE = 256  # bytes of a first message at most


@dataclass(slots=True)
class Going:
    """A session that this worker bridges."""

    bridge: Bridge
    session: Session
    connection: int
    ends: float | None  # when it has been open for as long as it may be
    pinged: float = 0.0
    to_guest: int = 0  # what the keeper knows of
    from_guest: int = 0


class Browser:
    """A browser while hands are shaken: RFB in frames."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.protocol = Protocol()
        self.frames = FrameReader(masks=True)
        self._ahead = b""

    async def run(self, steps: Steps[T]) -> T:
        """Do what a handshake wants done. Raises HandshakeFailed, ProtocolError, Closed."""

        async def encrypt() -> None:
            raise HandshakeFailed("TLS is done already")

        return await follow(steps, self.read, self.write, encrypt)

    async def read(self, count: int) -> bytes:
        """So many bytes of what the browser says."""
        while len(self._ahead) < count:
            await self._more()
        data, self._ahead = self._ahead[:count], self._ahead[count:]
        return data

    async def line(self, limit: int) -> str:
        """A line of it."""
        while b"\n" not in self._ahead:
            if len(self._ahead) > limit:
                raise ProtocolError(websocket.POLICY, "a secret is expected first")
            await self._more()
        line, _, self._ahead = self._ahead.partition(b"\n")
        return line.decode("latin-1")

    async def _more(self) -> None:
        self._ahead += self.frames.feed(await self.channel.read(4096))
        if self.frames.closed:
            raise Closed("the browser closes")

    async def write(self, data: bytes) -> None:
        """Say this."""
        buffer = bytearray(websocket.HEADROOM) + data
        begin = websocket.put_header(buffer, len(data))
        await self.channel.write(bytes(buffer[begin:]))

    def rest(self) -> bytes:
        """What it has said already of what comes after the handshake."""
        return self._ahead

    def close(self, code: int, reason: str) -> None:
        """End it, with a reason."""
        self.channel.finish(self.protocol.closing(code, reason))


class Worker:
    """What one process does."""

    def __init__(
        self, folder: Path, link: Link, listeners: Sequence[tuple[Listener, socket.socket]]
    ) -> None:
        self._folder = folder
        self._link = link
        self._listeners = listeners
        self._loop = asyncio.get_running_loop()
        self._tls = any(listener.service is Service.TLS for listener, _ in listeners)
        self._configuration: Configuration
        self._pages: Mapping[str, pages.Page] = {}
        self._context: ssl.SSLContext | None = None
        self._tokens: plugins.TokenPlugin | None = None
        self._auth: plugins.AuthPlugin | None = None
        self._half_open: HalfOpen
        self._handshakes: Buckets
        self._threads: ThreadPoolExecutor | None = None
        self._turns = Turns(self._loop, _HANDSHAKES)
        self._departures = Departures(self._loop)
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._going: dict[tuple[str, int], Going] = {}
        self._early: dict[tuple[str, int], tuple[int, str]] = {}  # ended before it was going
        self._tasks: set[asyncio.Task[None]] = set()
        self._apply(configuration.read(folder))

    # -- life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until the keeper is gone."""
        for listener, sock in self._listeners:
            self._loop.add_reader(sock, self._accept, listener, sock)
        ticks = self._loop.create_task(self._tick())
        self._link.send({"op": "ready", "witness": self._configuration.witness})
        async for message in self._link.messages():
            self._from_keeper(message)
        ticks.cancel()

    def _apply(self, new: Configuration) -> None:
        """Go by this configuration. Raises OSError, ValueError (ssl.SSLError), PluginRefused."""
        context = server_context(self._folder) if self._tls else None
        loaded = pages.load(Path(new.novnc))
        tokens = plugins.load(new.token_plugin, "lookup") if new.token_plugin else None
        auth = plugins.load(new.auth_plugin, "authenticate") if new.auth_plugin else None
        self._context, self._pages, self._tokens, self._auth = context, loaded, tokens, auth
        self._half_open = HalfOpen(new.half_open, new.half_open_each)
        self._handshakes = Buckets(new.handshakes)
        self._configuration = new
        if tokens or auth:
            self._threads = self._threads or ThreadPoolExecutor(4, "plugin")

    def _reload(self) -> None:
        try:
            self._apply(configuration.read(self._folder))
        except (OSError, ValueError, KeyError, TypeError, plugins.PluginRefused) as error:
            log.error("what was there before goes on: %s", error)
        self._link.send({"op": "ready", "witness": self._configuration.witness})

    def _retire(self) -> None:
        """Take nobody in any more; the consoles that are open go on."""
        for _, sock in self._listeners:
            self._loop.remove_reader(sock)
            sock.close()
        self._listeners = ()

    def _from_keeper(self, message: dict[str, Any]) -> None:
        if "n" in message:
            waiting = self._answers.pop(message["n"], None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
        elif message["op"] == "reload":
            self._reload()
        elif message["op"] == "retire":
            self._retire()
        elif message["op"] == "close":
            key, told = (message["id"], message["connection"]), (message["code"], message["reason"])
            going = self._going.pop(key, None)
            if going is not None:
                self._count(going)
                going.bridge.close(*told)
            else:  # it is still being opened, or was over already
                self._early[key] = told
                while len(self._early) > _EARLY:
                    del self._early[next(iter(self._early))]

    async def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._answers[number] = answer
        self._link.send(message | {"n": number})
        try:
            async with asyncio.timeout(_OPEN_TIME):
                return await answer
        finally:
            self._answers.pop(number, None)

    async def _tick(self) -> None:
        """Once a second: who is idle, done, or gone; and every few seconds what went through."""
        reported = time.monotonic()
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            due = now - reported >= self._configuration.report_every
            if due:
                reported = now
            for key, going in list(self._going.items()):
                if due:
                    self._count(going)
                if verdict := over(going, now):
                    end, told = verdict
                    del self._going[key]
                    self._tell_end(going, end)
                    code = websocket.GOING_AWAY if end is End.LOST else websocket.POLICY
                    going.bridge.close(code, told)
                elif now - max(going.bridge.heard, going.pinged) >= _PING:
                    going.pinged = now
                    going.bridge.ping()

    def _count(self, going: Going) -> None:
        bridge = going.bridge
        to_guest, from_guest = (
            bridge.to_guest - going.to_guest,
            bridge.from_guest - going.from_guest,
        )
        if to_guest or from_guest:
            going.to_guest, going.from_guest = bridge.to_guest, bridge.from_guest
            self._link.send(
                {"op": "count", "id": going.session.id, "to": to_guest, "from": from_guest}
                | {"input_ago": time.monotonic() - bridge.last_input}
            )

    def _tell_end(self, going: Going, end: End) -> None:
        self._count(going)
        message = {"id": going.session.id, "connection": going.connection}
        if end is End.LOST:
            self._link.send(message | {"op": "lost"})
        else:
            self._link.send(message | {"op": "ended", "why": end.name})

    # -- connections --------------------------------------------------------------------------

    def _accept(self, listener: Listener, sock: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            try:
                accepted, peer = sock.accept()
            except OSError:  # none is there any more, or no file is left for it
                return
            address = ip_address(peer[0].partition("%")[0])
            balanced = any(address in network for network in self._configuration.balancers)
            # Of a balancer nobody knows yet who it is that comes.
            key = object() if balanced else source_key(address)
            if not self._half_open.enter(key):
                accepted.close()
                continue
            serving = self._serve(accepted, address, listener, self._half_open, key)
            task = self._loop.create_task(serving)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(
        self,
        sock: socket.socket,
        peer: Address,
        listener: Listener,
        counted: HalfOpen,
        key: Hashable,
    ) -> None:
        """One connection, up to where it is a bridge or over; `key` is whom it was counted for."""
        channel = Channel(sock, self._loop)
        kept = False
        try:
            source = peer
            if any(peer in network for network in self._configuration.balancers):
                async with asyncio.timeout(_HEAD_TIME):
                    source = await _proxied(channel) or peer
                if not counted.change(key, source_key(source)):
                    return
                key = source_key(source)
            if not self._handshakes.take(source_key(source), time.monotonic()):
                return
            if listener.service is Service.TLS and self._context is not None:
                async with asyncio.timeout(_TLS_TIME):
                    await channel.readable()
                    await self._turns.take()
                    await channel.start_tls(self._context, server=True)
            kept = await self._requests(channel, source, listener)
        except (TimeoutError, Closed, ssl.SSLError):
            pass
        except (BadRequest, ValueError) as error:
            refused = error if isinstance(error, BadRequest) else BadRequest(431, "too large")
            log.debug("%s: %s", peer, refused)
            kept = True
            channel.finish(http.refusal(refused))
        finally:
            counted.leave(key)
            if not kept:
                channel.close()

    async def _requests(self, channel: Channel, source: Address, listener: Listener) -> bool:
        """Answer requests; returns whether somebody else closes the channel."""
        wait = _HEAD_TIME
        for _ in range(_REQUESTS):
            async with asyncio.timeout(wait):
                request = http.parse(await channel.read_until(http.END, http.LONGEST_HEAD))
            wait = _KEPT_TIME
            if listener.service is Service.STATUS:
                known = request.path == f"/witness/{self._configuration.witness}"
                channel.finish(http.answer(204 if known else 404, {}, keep=False))
                return True
            if listener.service is Service.REDIRECT:
                channel.finish(http.answer(308, {"Location": f"{listener.to}/"}, keep=False))
                return True
            if http.is_upgrade(request):
                return await self._console(channel, source, request)
            http.check_host(request, self._configuration.hosts)
            answer = pages.respond(
                self._pages,
                request,
                framed_by=self._configuration.framed_by,
                secure=listener.service is Service.TLS,
            )
            async with asyncio.timeout(_KEPT_TIME):
                await channel.write(answer)
            if not request.keep:
                channel.finish(b"")
                return True
        return False

    # -- consoles -----------------------------------------------------------------------------

    async def _console(self, channel: Channel, source: Address, request: Request) -> bool:
        """Open a WebSocket, and a console in it."""
        current = self._configuration
        http.check_place(
            request, hosts=current.hosts, origins=current.origins, native=current.native
        )
        http.check_upgrade(request)
        offer = http.offer(request)
        if request.path != SOCKET_PATH:
            raise BadRequest(404, "no console here")
        found: tuple[str, int] | None = None
        if request.query:
            found = await self._lookup(request.query)
        if self._auth is not None:
            try:
                await self._in_thread(
                    plugins.authenticate, self._auth, request.headers, *(found or (None, None))
                )
            except plugins.Denied as error:
                fields = {"WWW-Authenticate": error.challenge} if error.challenge else {}
                channel.finish(http.refusal(BadRequest(error.status, "denied"), fields))
                return True
        browser = Browser(channel)
        await channel.write(browser.protocol.answer(request.headers, binary=offer.binary))
        try:
            await self._open(browser, source, offer, found)
        except ProtocolError as error:
            browser.close(error.code, f"The browser breaks the protocol: {error}.")
        except BadRequest as error:
            browser.close(websocket.POLICY, str(error))
        except HandshakeFailed as error:
            browser.close(websocket.PROTOCOL, str(error))
        except (TimeoutError, Closed):
            channel.close()
        return True

    async def _open(
        self, browser: Browser, source: Address, offer: http.Offer, found: tuple[str, int] | None
    ) -> None:
        async with asyncio.timeout(_OPEN_TIME):
            if offer.secret is None and found is None:
                line = await browser.line(_SECRET_MESSAGE)
                offer = http.parse_offer(line.split(" "))
            version = await browser.run(handshake.greet_browser())
        if found is not None:
            question: dict[str, Any] = {"op": "plugin", "address": found[0], "port": found[1]}
        else:
            question = {"op": "open", "secret": offer.secret or "", "resume": offer.resume.hex()}
        answer = await self._ask(question | {"source": str(source)})
        if "refused" in answer:
            await self._turn_away(browser, version, Refusal[answer["refused"]].told)
            return
        session, connection = wire.session(answer["session"]), int(answer["connection"])
        screen = None
        going = (session.id, connection)
        try:
            screen = await dial(session, self._loop)
            try:
                async with asyncio.timeout(_OPEN_TIME):
                    credentials, target = session.credentials, session.target
                    init = await screen.run(handshake.begin_screen(), credentials, target)
            except (TimeoutError, HandshakeFailed, Closed, ssl.SSLError) as error:
                raise Unreachable(why(error) or "") from error
            async with asyncio.timeout(_OPEN_TIME):
                await browser.run(handshake.let_in(version))
                if offer.policy:
                    await browser.channel.write(websocket.text_frame(pages.told(session)))
                await browser.write(init.encoded(session.title))
        except Unreachable as error:
            self._close_screen(screen)
            log.warning("session %s: %s%s", session.id, error, detail(error))
            self._end_unopened(going, End.REFUSED_BY_SCREEN)
            await self._turn_away(browser, version, str(error))
            return
        except BaseException:
            self._close_screen(screen)
            self._end_unopened(going, End.LOST)
            raise
        if (told := self._early.pop(going, None)) is not None:
            self._close_screen(screen)
            browser.close(*told)
            return
        self._bridge(browser, screen, session, connection, init, answer["lifetime"])

    def _close_screen(self, screen: Screen | None) -> None:
        if screen is not None:
            screen.channel.close()

    def _end_unopened(self, key: tuple[str, int], end: End) -> None:
        message = {"id": key[0], "connection": key[1]}
        if end is End.LOST:
            self._link.send(message | {"op": "lost"})
        else:
            self._link.send(message | {"op": "ended", "why": end.name})

    async def _turn_away(self, browser: Browser, version: int, reason: str) -> None:
        """Say why, in RFB for the page and in the close for the browser's own tools."""
        async with asyncio.timeout(_OPEN_TIME):
            await browser.write(handshake.turn_away(version, reason))
        browser.close(websocket.POLICY, reason)

    def _bridge(
        self,
        browser: Browser,
        screen: Screen,
        session: Session,
        connection: int,
        init: handshake.ServerInit,
        lifetime: float | None,
    ) -> None:
        policy = session.policy
        free = policy.clipboard.from_guest
        key = (session.id, connection)

        def ended(end: End, code: int, reason: str) -> None:
            going = self._going.pop(key, None)
            if going is not None:
                self._tell_end(going, end)

        bridge = Bridge(
            browser.channel,
            screen,
            browser.protocol,
            browser.frames,
            ClientFilter(policy),
            None if free else ScreenFilter(init.pixels),
            ended,
            self._departures,
        )
        ends = None if lifetime is None else time.monotonic() + lifetime
        self._going[key] = Going(bridge, session, connection, ends)
        bridge.start(browser.rest())

    # -- plug-ins -----------------------------------------------------------------------------

    async def _lookup(self, query: str) -> tuple[str, int]:
        """What a token plug-in knows of the query's token. Raises BadRequest."""
        name, _, token = query.partition("=")
        if name != "token" or "&" in token:
            raise BadRequest(400, "a console has no query")
        if self._tokens is None:
            raise BadRequest(400, "a secret does not belong into an address")
        import urllib.parse

        try:
            answer = await self._in_thread(self._tokens.lookup, urllib.parse.unquote(token))
            target = plugins.target(answer)
        except TimeoutError:
            raise BadRequest(503, "the token plug-in does not answer") from None
        except Exception as error:
            log.warning("the token plug-in failed: %s", type(error).__name__)
            raise BadRequest(403, "no such token") from error
        if target is None:
            raise BadRequest(403, "no such token")
        return str(target.address), target.port

    async def _in_thread(self, call: Any, *arguments: Any) -> Any:
        async with asyncio.timeout(_LOOKUP_TIME):
            return await self._loop.run_in_executor(self._threads, call, *arguments)


def over(going: Going, now: float) -> tuple[End, str] | None:
    """Why a session is over, and what its user is told."""
    bridge, policy = going.bridge, going.session.policy
    if going.ends is not None and now >= going.ends:
        return End.LIFETIME, "The console was open for as long as it may be."
    quiet = now - max(bridge.last_input, bridge.last_screen)
    if policy.idle and quiet >= policy.idle:
        return End.IDLE, f"The console was closed after {policy.idle:.0f} s without use."
    if now - bridge.heard >= _DEAD:
        return End.LOST, ""
    return None


def server_context(folder: Path) -> ssl.SSLContext:
    """TLS as a server, by the files that are there now. Raises OSError (ssl.SSLError), ValueError.

    A new one for each change: one that is loaded into twice is left half changed by a pair that
    does not match, and connections keep theirs.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    # A browser knows what it is quick at: AES with 128 bits, or ChaCha20 where nothing does AES.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(folder / configuration.CHAIN, folder / configuration.KEY)
    return context


async def _proxied(channel: Channel) -> Address | None:
    """Who it is that a balancer sends. Raises BadRequest, Closed."""
    head = await channel.read_exactly(12)
    if head == http.PROXY_2:
        head += await channel.read_exactly(4)
        return http.proxy_2(head, await channel.read_exactly(http.proxy_2_length(head)))
    while not head.endswith(b"\r\n"):
        if len(head) >= 107:
            raise BadRequest(400, "not the PROXY protocol")
        head += await channel.read_exactly(1)
    return http.proxy_1(head)


def main(folder: Path, link: int, listeners: Sequence[tuple[Listener, int]]) -> None:
    """Be a worker: `link` is the handle of the way to the keeper, the others listen."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    way, *socks = (socket.socket(fileno=handle) for handle in (link, *(h for _, h in listeners)))
    for sock in (way, *socks):
        os.set_inheritable(sock.fileno(), False)  # noqa: FBT003 - its only argument
        sock.settimeout(0)
    places = [(listener, sock) for (listener, _), sock in zip(listeners, socks, strict=True)]

    async def run() -> None:
        await Worker(folder, await Link.over(way), places).run()

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run())


def loop_factory() -> Any:
    """uvloop's loop where it is installed: a tenth less CPU for a small message."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
