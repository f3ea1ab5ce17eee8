"""A bridge over socket pairs: nothing is lost or changed, whoever is slow, and little is kept."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

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
from tests.unit.console.rig import PIXELS

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
async def bridged(policy: Policy | None = None, *, read: bool = False) -> AsyncIterator[Both]:
    """A bridge that has started; `read` has the screen's messages looked at."""
    loop = asyncio.get_running_loop()
    browser, to_browser = tcp_pair()
    screen, to_screen = tcp_pair()
    ended: list[tuple[End, int]] = []
    one = Bridge(
        Channel(to_browser, loop),
        Screen(Channel(to_screen, loop)),
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
        yield Both(one, browser, screen, ended)
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


def test_what_is_said_amid_a_stall_follows_what_stalls() -> None:
    """Pings to a browser that does not read: no more than a little, after what it was shown."""

    async def run() -> None:
        data = frame_update(40) * 8
        async with bridged() as both:
            loop = asyncio.get_running_loop()
            sending = loop.create_task(loop.sock_sendall(both.screen, data))
            await until(lambda: both.bridge._browser_stalls)  # noqa: SLF001 - until it stalls
            kept = len(both.bridge._to_browser)  # noqa: SLF001
            for _ in range(2000):
                both.bridge.ping()
            assert len(both.bridge._to_browser) <= max(kept, 2048)  # noqa: SLF001
            assert await both.shown(len(data)) == data
            await sending
            await loop.sock_sendall(both.screen, b"\x02")
            assert await both.shown(1) == b"\x02"

    asyncio.run(run())
