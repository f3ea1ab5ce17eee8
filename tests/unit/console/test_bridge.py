"""A bridge over socket pairs: nothing is lost or changed, whoever is slow, and little is kept."""

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from agent.console import bridge as module
from agent.console.bridge import Bridge
from agent.console.channel import Channel
from agent.console.dial import Screen
from agent.console.loop_turns import Departures
from agent.console.rfb.filter import ClientFilter
from agent.console.rfb.screen import ScreenFilter
from agent.console.sessions import Clipboard, End, Policy
from agent.console.websocket import FrameReader, Protocol, client_frame
from appliance.lab.pki import Authority
from tests.unit.console.rig import PIXELS, tls_context

MASK = b"\x01\x82\x03\x84"
KEY = struct.pack(">BBxxI", 4, 1, 0x61)
POINTER = struct.pack(">BBHH", 5, 0, 1, 1)


@dataclass
class Both:
    """The bridge, the browser's end and the screen's, and how it ended."""

    bridge: Bridge
    browser: socket.socket
    screen: socket.socket
    ended: list[tuple[End, int]] = field(default_factory=list)
    sealed: "Sealed | None" = None

    async def shown(self, count: int, most: int = 65536) -> bytes:
        """So many bytes of what the browser is shown, read in such pieces."""
        frames, read = FrameReader(masks=False), b""
        while len(read) < count:
            piece = await asyncio.wait_for(
                asyncio.get_running_loop().sock_recv(self.browser, most), 20
            )
            assert piece, "it is over"
            read += frames.feed(piece)
        return read

    async def over(self) -> None:
        """It has ended."""
        await until(lambda: bool(self.ended))

    async def heard(self, count: int) -> bytes:
        """So many bytes of what the screen is told."""
        read = b""
        while len(read) < count:
            piece = await asyncio.wait_for(
                asyncio.get_running_loop().sock_recv(self.screen, 65536), 20
            )
            assert piece, "it is over"
            read += piece
        return read


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS as a client and as a server."""
    authority = Authority.create("screens")
    with TemporaryDirectory() as folder:
        server = tls_context(authority.issue("screen.example"), Path(folder))
    return ssl.create_default_context(cadata=authority.identity.certificate), server


class Sealed:
    """An end that speaks TLS, by hand: what it says leaves at once, in however many records."""

    def __init__(self, sock: socket.socket, *, server: bool) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server else "screen.example"
        self._tls = contexts()[server].wrap_bio(self._in, self._out, server, name)

    async def shake(self) -> None:
        """Do the handshake."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._exchange()
            else:
                await self._loop.sock_sendall(self._sock, self._out.read())
                return

    async def _exchange(self) -> None:
        await self._loop.sock_sendall(self._sock, self._out.read())
        self._in.write(await asyncio.wait_for(self._loop.sock_recv(self._sock, 65536), 20))

    async def say(self, *records: bytes) -> None:
        """Each in a record of its own."""
        for record in records:
            self._tls.write(record)
        await self._loop.sock_sendall(self._sock, self._out.read())

    async def heard(self, count: int) -> bytes:
        """So many bytes."""
        read = b""
        while len(read) < count:
            try:
                read += self._tls.read(count - len(read))
            except ssl.SSLWantReadError:
                await self._exchange()
        return read


async def until(true: Callable[[], bool]) -> None:
    """Let the loop run until this is so."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    for sock in (one, other):
        sock.setblocking(False)  # noqa: FBT003 - its only argument
    return one, other


@contextlib.asynccontextmanager
async def bridged(
    policy: Policy | None = None, *, read: bool = False, seal: str = ""
) -> AsyncIterator[Both]:
    """A bridge that has started; `read` has the screen's messages looked at.

    `seal` is the side that speaks TLS, "browser" or "screen".
    """
    loop = asyncio.get_running_loop()
    browser, to_browser = tcp_pair()
    screen, to_screen = tcp_pair()
    ended: list[tuple[End, int]] = []
    channels = {"browser": Channel(to_browser, loop), "screen": Channel(to_screen, loop)}
    sealed = None
    if seal:
        far, server = (browser, True) if seal == "browser" else (screen, False)
        sealed = Sealed(far, server=not server)
        name = None if server else "screen.example"
        near = channels[seal].start_tls(contexts()[server], server=server, name=name)
        await asyncio.gather(near, sealed.shake())
    one = Bridge(
        channels["browser"],
        Screen(channels["screen"]),
        Protocol(),
        FrameReader(masks=True),
        ClientFilter(policy or Policy()),
        ScreenFilter(PIXELS) if read else None,
        lambda why, code, _: ended.append((why, code)),
        Departures(loop),
    )
    one._protocol.socket = None  # noqa: SLF001 - no opening was answered
    one.start(b"")
    try:
        yield Both(one, browser, screen, ended, sealed)
    finally:
        one.close(1000, "")
        for sock in (browser, screen):
            sock.close()


def frame_update(rectangles: int) -> bytes:
    """A screen of raw pixels, as a filter can step over it."""
    one = struct.pack(">HHHHi", 0, 0, 128, 128, 0) + os.urandom(4 * 128 * 128)
    return struct.pack(">BxH", 0, rectangles) + one * rectangles


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("most", [1000, 65536, 1 << 20])
def test_a_screen_of_mebibytes_arrives_whole_however_it_is_read(read: bool, most: int) -> None:
    async def run() -> None:
        data = frame_update(40 if most > 1000 else 8)
        async with bridged(read=read) as both:
            loop = asyncio.get_running_loop()
            sending = loop.create_task(loop.sock_sendall(both.screen, data))
            assert await both.shown(len(data), most) == data
            await sending
            assert both.bridge.from_guest == len(data)
            # Small things go on afterwards, both ways.
            await loop.sock_sendall(both.screen, b"\x02")
            assert await both.shown(1) == b"\x02"
            await loop.sock_sendall(both.browser, client_frame(KEY, MASK))
            assert await both.heard(8) == KEY

    asyncio.run(run())


def test_more_is_asked_for_as_long_as_all_comes_and_leaves() -> None:
    asked = [module.LEAST]
    while len(asked) < 6:
        asked.append(module.more_at_once(asked[-1], spliced=True))
    assert [one // 1024 for one in asked] == [63, 127, 255, 256, 256, 256]
    assert module.more_at_once(module.PIECE, spliced=False) == module.PIECE


def test_keys_of_many_records_at_once_arrive_in_order_with_what_is_pasted() -> None:
    async def run() -> None:
        async with bridged(seal="browser") as both:
            assert both.sealed
            for length in (1, 16374, 16384, 60000, 200000):
                text = struct.pack(">Bxxxi", 6, length) + os.urandom(length)
                said = [KEY, POINTER, text, KEY, KEY]
                await both.sealed.say(*(client_frame(one, MASK) for one in said))
                assert await both.heard(len(b"".join(said))) == b"".join(said)
                # And what waits to leave when the next record is read.
                await both.sealed.say(*[client_frame(KEY, MASK)] * 20)
                assert await both.heard(160) == KEY * 20

    asyncio.run(run())


@pytest.mark.parametrize("read", [False, True])
def test_a_screen_over_tls_arrives_whole_whatever_its_records(read: bool) -> None:
    async def run() -> None:
        async with bridged(read=read, seal="screen") as both:
            assert both.sealed
            for rectangles, most in ((1, 16384), (8, 16384), (20, 5000), (20, 16383)):
                data = frame_update(rectangles)
                said = [data[at : at + most] for at in range(0, len(data), most)]
                speaking = asyncio.get_running_loop().create_task(both.sealed.say(*said, b"\x02"))
                assert await both.shown(len(data) + 1) == data + b"\x02"
                await speaking
            await asyncio.get_running_loop().sock_sendall(both.browser, client_frame(KEY, MASK))
            assert await both.sealed.heard(8) == KEY

    asyncio.run(run())


def test_a_browser_that_stalls_keeps_a_piece_and_gets_everything_later() -> None:
    async def run() -> None:
        data = frame_update(40) * 8
        async with bridged() as both:
            loop = asyncio.get_running_loop()
            sending = loop.create_task(loop.sock_sendall(both.screen, data))
            await until(lambda: bool(both.bridge._to_browser))  # noqa: SLF001 - until it stalls
            assert len(both.bridge._to_browser) <= module._SPLICED + 10  # noqa: SLF001
            assert not sending.done()
            # Keys go while it stalls.
            await loop.sock_sendall(both.browser, client_frame(KEY, MASK))
            assert await both.heard(8) == KEY
            assert await both.shown(len(data)) == data
            await sending

    asyncio.run(run())


def test_the_pipe_is_empty_whatever_happened() -> None:
    async def run() -> None:
        data = frame_update(40) * 4
        async with bridged() as both:
            loop = asyncio.get_running_loop()
            sending = loop.create_task(loop.sock_sendall(both.screen, data))
            await both.shown(len(data) // 2)
            both.browser.close()
            await both.over()
            assert both.ended == [(End.LOST, 1001)]
            sending.cancel()
        source, _ = module._way()  # noqa: SLF001
        with pytest.raises(BlockingIOError):
            os.read(source, 1)

    asyncio.run(run())


def test_keys_one_by_one_and_many_at_once() -> None:
    async def run() -> None:
        async with bridged() as both:
            loop = asyncio.get_running_loop()
            for _ in range(3):
                await loop.sock_sendall(both.browser, client_frame(KEY, MASK))
                assert await both.heard(8) == KEY
            many = b"".join(client_frame(one, MASK) for one in (KEY, POINTER, KEY))
            await loop.sock_sendall(both.browser, many)
            assert await both.heard(22) == KEY + POINTER + KEY
            assert both.bridge.to_guest == 46
            assert both.bridge._filter.inputs == 6  # noqa: SLF001

    asyncio.run(run())


def test_a_key_alone_does_not_pass_where_only_looking_is_allowed() -> None:
    async def run() -> None:
        async with bridged(Policy(view_only=True)) as both:
            loop = asyncio.get_running_loop()
            update = struct.pack(">BBHHHH", 3, 1, 0, 0, 8, 6)
            for message in (KEY, POINTER, update):
                await loop.sock_sendall(both.browser, client_frame(message, MASK))
            assert await both.heard(10) == update
            assert both.bridge._filter.left_out == 2  # noqa: SLF001

    asyncio.run(run())


def test_half_a_message_and_then_what_looks_like_a_key() -> None:
    """Eight bytes that begin with a key's four are text where a text has begun."""

    async def run() -> None:
        async with bridged(Policy(clipboard=Clipboard.NONE)) as both:
            loop = asyncio.get_running_loop()
            text = struct.pack(">Bxxxi", 6, 16) + KEY + KEY
            for part in (text[:8], text[8:16], text[16:], KEY):
                await loop.sock_sendall(both.browser, client_frame(part, MASK))
            assert await both.heard(8) == KEY
            assert both.bridge.to_guest == 8

    asyncio.run(run())


def test_a_screen_that_ends_and_a_browser_that_closes() -> None:
    async def run() -> None:
        async with bridged() as both:
            both.screen.close()
            await both.over()
            assert both.ended == [(End.SCREEN_GONE, 1011)]
        async with bridged() as both:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(both.browser, client_frame(b"\x03\xe8", MASK, opcode=8))
            await both.over()
            assert both.ended == [(End.CLOSED, 1000)]

    asyncio.run(run())


def test_who_sends_more_than_anybody_types_waits() -> None:
    async def run() -> None:
        async with bridged() as both:
            loop = asyncio.get_running_loop()
            text = struct.pack(">Bxxxi", 6, 5 << 20) + bytes(5 << 20)
            sending = loop.create_task(loop.sock_sendall(both.browser, client_frame(text, MASK)))
            before = loop.time()
            assert await both.heard(len(text)) == text
            assert loop.time() - before > 0.5
            await sending

    asyncio.run(run())


def test_keys_follow_what_was_pasted_too_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the browser waits, what it said leaves, and afterwards it is heard again."""
    monkeypatch.setattr(module, "_BURST", 0.001)
    monkeypatch.setattr(module, "_FAST", 4.0 * 1024 * 1024)

    async def run() -> None:
        async with bridged() as both:
            loop = asyncio.get_running_loop()
            waited = 0
            for _ in range(20):
                text = struct.pack(">Bxxxi", 6, 20000) + os.urandom(20000)
                said = [KEY, text, KEY, POINTER]
                frames = b"".join(client_frame(one, MASK) for one in said)
                before = both.bridge.to_guest
                await loop.sock_sendall(both.browser, frames)
                await until(lambda: both.bridge.to_guest >= before + 20000)  # noqa: B023 - of now
                waited += both.bridge._later is not None  # noqa: SLF001
                await loop.sock_sendall(both.browser, client_frame(KEY, MASK))
                assert await both.heard(len(b"".join(said)) + 8) == b"".join(said) + KEY
            assert waited

    asyncio.run(run())


def test_a_key_right_before_the_close_reaches_the_screen() -> None:
    async def run() -> None:
        async with bridged() as both:
            loop = asyncio.get_running_loop()
            last = client_frame(KEY, MASK) + client_frame(b"\x03\xe8", MASK, opcode=8)
            await loop.sock_sendall(both.browser, last)
            await both.over()
            assert both.ended == [(End.CLOSED, 1000)]
            assert await both.heard(8) == KEY

    asyncio.run(run())


def test_what_a_screen_says_right_before_it_ends_reaches_the_browser() -> None:
    async def run() -> None:
        async with bridged() as both:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(both.screen, b"\x02")
            both.screen.close()
            assert await both.shown(1) == b"\x02"
            await both.over()

    asyncio.run(run())


def test_a_ping_is_answered_amid_what_is_shown() -> None:
    """Whether the answer to a key waits for the end of the turn already, or not."""

    async def run() -> None:
        async with bridged() as both:
            loop = asyncio.get_running_loop()
            key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
            both.bridge._protocol.answer(key, binary=True)  # noqa: SLF001 - as if it were opened
            frames = FrameReader(masks=False)
            for _ in range(20):
                await loop.sock_sendall(both.screen, b"\x02")
                await loop.sock_sendall(both.browser, client_frame(b"", MASK, opcode=9))
                shown, pongs = b"", frames.pongs
                while not shown or frames.pongs == pongs:
                    piece = await asyncio.wait_for(loop.sock_recv(both.browser, 65536), 20)
                    assert piece, "it is over"
                    shown += frames.feed(piece)

    asyncio.run(run())


@pytest.mark.parametrize("little", [False, True])
def test_what_is_said_amid_a_stall_follows_what_stalls(little: bool) -> None:
    """Pings to a browser that does not read: no more than a little, after what it was shown."""

    async def run() -> None:
        data = os.urandom(16 * 1024 * 1024)
        async with bridged() as both:
            loop = asyncio.get_running_loop()
            key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
            both.bridge._protocol.answer(key, binary=True)  # noqa: SLF001 - as if it were opened
            sent = 0
            while not both.bridge._browser_stalls:  # noqa: SLF001
                with contextlib.suppress(BlockingIOError):
                    sent += both.screen.send(data[sent : sent + (600 if little else 200_000)])
                await asyncio.sleep(0)
            kept = len(both.bridge._to_browser)  # noqa: SLF001
            assert (kept <= 1024) is little
            for _ in range(2000):
                both.bridge.ping()
            pinged = len(both.bridge._to_browser) - kept  # noqa: SLF001
            assert (0 < pinged <= 1024) if little else pinged == 0
            assert await both.shown(sent) == data[:sent]
            await loop.sock_sendall(both.screen, b"\x02")
            assert await both.shown(1) == b"\x02"

    asyncio.run(run())
