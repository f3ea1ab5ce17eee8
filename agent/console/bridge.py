"""A session's bytes: from the screen to the browser and back, and never more than a little kept.

Callbacks of the loop, no tasks. Whoever has bytes that the other side does not take now stops
reading until it does: a slow browser slows its screen down, and costs what one read brings. All
bridges of a worker read into one buffer, in which there is room for a frame's header before the
payload, so that a piece of screen leaves in one call of the kernel.
"""

import asyncio
import os
import time
from collections.abc import Callable

from agent.console import websocket
from agent.console.channel import Channel, Closed
from agent.console.dial import Screen
from agent.console.rfb.filter import ClientFilter, NotRfb
from agent.console.rfb.screen import ScreenFilter, ScreenUnreadable
from agent.console.sessions import End
from agent.console.websocket import HEADROOM, FrameReader, ProtocolError, client_frame, put_header

PIECE = 128 * 1024  # bytes that are read at once, and so what is kept of a stalled direction
_TURNS = 4  # reads before the others have their turn
_FAST = 1024 * 1024.0  # bytes a second that a browser may send in the long run
_BURST = 4 * 1024 * 1024.0

_buffer = bytearray(HEADROOM + PIECE)
_view = memoryview(_buffer)
_payload = _view[HEADROOM:]

Ended = Callable[[End, int, str], None]  # why, the WebSocket's code, and what the user is told


class Bridge:
    """One browser and one screen, both past their handshakes."""

    __slots__ = (
        "_allowance", "_ended", "_filter", "_frames", "_later", "_loop", "_protocol",
        "_refilled", "_screen_filter", "_to_browser", "_to_screen", "browser", "from_guest",
        "heard", "last_input", "last_screen", "over", "screen", "to_guest",
    )  # fmt: skip

    def __init__(
        self,
        browser: Channel,
        screen: Screen,
        protocol: websocket.Protocol,
        frames: FrameReader,
        client_filter: ClientFilter,
        screen_filter: ScreenFilter | None,
        ended: Ended,
    ) -> None:
        now = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self.browser = browser
        self.screen = screen
        self._protocol = protocol
        self._frames = frames
        self._filter = client_filter
        self._screen_filter = screen_filter
        self._ended = ended
        self._to_browser = b""
        self._to_screen = b""
        self._allowance = _BURST
        self._refilled = now
        self._later: asyncio.TimerHandle | None = None
        self.over = False
        self.to_guest = self.from_guest = 0  # bytes of RFB
        self.last_input = self.last_screen = self.heard = now

    def start(self, said: bytes) -> None:
        """Begin, with what was read while hands were shaken; the browser `said` as much of RFB."""
        ahead = self.screen.channel.take_ahead()
        if ahead:
            self._show(ahead)
        if said and not self.over:
            self._pass_on(said)
        ahead = self.browser.take_ahead()
        if ahead and not self.over:
            self._from_browser_bytes(ahead)
        if not self.over:
            self._watch_screen()
            self._watch_browser()

    def close(self, code: int, reason: str) -> None:
        """Tell the browser, as far as it takes it, and end both connections."""
        if self.over:
            return
        self.over = True
        if self._later is not None:
            self._later.cancel()
        farewell = self._to_browser + self._protocol.closing(code, reason)
        self.browser.finish(farewell)
        self.screen.channel.close()

    def ping(self) -> None:
        """Have the browser say that it is there; not where something waits for it anyway."""
        if not self._to_browser:
            self._send_to_browser(self._protocol.pinging())

    def _end(self, why: End, code: int, reason: str) -> None:
        if not self.over:
            self.close(code, reason)
            self._ended(why, code, reason)

    # -- from the screen to the browser -------------------------------------------------------

    def _watch_screen(self) -> None:
        self.screen.channel.on_readable(self._from_screen)
        if self.screen.channel.pending:
            self._loop.call_soon(self._from_screen)

    def _from_screen(self) -> None:
        for _ in range(_TURNS):
            if self.over or self._to_browser:
                return
            try:
                count = self._fill()
            except BlockingIOError:
                return
            except Closed:
                count = 0
            if count == 0:
                self._end(End.SCREEN_GONE, websocket.FAULT, "The hypervisor closed the console.")
                return
            self.last_screen = time.monotonic()
            if self._screen_filter is None and self.screen.frames is None:
                self.from_guest += count
                begin = put_header(_view, count)
                self._send_to_browser(_view[begin : HEADROOM + count])
            else:
                self._show(bytes(_payload[:count]))
        if not self.over and not self._to_browser and self.screen.channel.pending:
            self._loop.call_soon(self._from_screen)

    def _fill(self) -> int:
        """Read into the buffer. Of TLS a record comes at a time: as many as there are."""
        channel = self.screen.channel
        count = channel.receive_into(_payload)
        while count and channel.pending and count < PIECE:
            try:
                more = channel.receive_into(_payload[count:])
            except (BlockingIOError, Closed):
                break
            if not more:
                break
            count += more
        return count

    def _show(self, data: bytes) -> None:
        """What the hypervisor sent, through what is around RFB and what policy says."""
        frames = self.screen.frames
        try:
            if frames is not None:
                data = frames.feed(data)
                if frames.pings and not self._to_screen:
                    ping = frames.pings[-1]
                    self._send_to_screen(client_frame(ping, os.urandom(4), opcode=10))
                frames.pings = []
            if self._screen_filter is not None:
                if self._filter.pixels is not None:
                    self._screen_filter.set_pixels(self._filter.pixels)
                data = self._screen_filter.feed(data)
        except (ProtocolError, ScreenUnreadable) as error:
            self._end(
                End.SCREEN_GONE, websocket.FAULT, f"The hypervisor is not understood: {error}."
            )
            return
        while data and not self.over:
            piece, data = data[:PIECE], data[PIECE:]
            self.from_guest += len(piece)
            _payload[: len(piece)] = piece
            begin = put_header(_view, len(piece))
            self._send_to_browser(_view[begin : HEADROOM + len(piece)])
        if frames is not None and frames.closed:
            self._end(End.SCREEN_GONE, websocket.FAULT, "The hypervisor closed the console.")

    def _send_to_browser(self, data: memoryview | bytes) -> None:
        if self.over:
            return
        if self._to_browser:
            self._to_browser += data
            return
        try:
            sent = self.browser.send(data)
        except OSError as error:
            if isinstance(error, Closed):
                self._lost()
                return
            sent = 0
        if sent < len(data):
            self._to_browser = bytes(data[sent:])
            self.screen.channel.on_readable(None)
            self.browser.on_writable(self._browser_writable)

    def _browser_writable(self) -> None:
        try:
            sent = self.browser.send(self._to_browser)
        except OSError as error:
            if isinstance(error, Closed):
                self._lost()
            return
        self._to_browser = self._to_browser[sent:]
        if not self._to_browser:
            self.browser.on_writable(None)
            self._watch_screen()

    def _lost(self) -> None:
        self._end(End.LOST, websocket.GOING_AWAY, "")

    # -- from the browser to the screen -------------------------------------------------------

    def _watch_browser(self) -> None:
        self.browser.on_readable(self._from_browser)
        if self.browser.pending:
            self._loop.call_soon(self._from_browser)

    def _from_browser(self) -> None:
        for _ in range(_TURNS):
            if self.over or self._to_screen or self._later is not None:
                return
            try:
                count = self.browser.receive_into(_payload)
            except BlockingIOError:
                return
            except Closed:
                count = 0
            if count == 0:
                self._lost()
                return
            self._from_browser_bytes(bytes(_payload[:count]))
        if not self.over and self.browser.pending:
            self._loop.call_soon(self._from_browser)

    def _from_browser_bytes(self, data: bytes) -> None:
        self.heard = now = time.monotonic()
        try:
            said = self._frames.feed(data)
        except ProtocolError as error:
            self._end(End.FAULT, error.code, f"The browser breaks the protocol: {error}.")
            return
        if said:
            self._pass_on(said)
        if self._frames.pings:
            self._pong()
        if self._frames.closed:
            # A page that is left or loaded again says 1001, and may come back.
            by_user = self._frames.close_code == websocket.NORMAL
            self._end(End.CLOSED if by_user else End.LOST, websocket.NORMAL, "")
        elif not self.over:
            self._slow_down(len(data), now)

    def _pass_on(self, said: bytes) -> None:
        inputs = self._filter.inputs
        try:
            passed = self._filter.feed(said)
        except NotRfb as error:
            self._end(End.FAULT, websocket.POLICY, f"The browser breaks the protocol: {error}.")
            return
        if self._filter.inputs != inputs:
            self.last_input = self.heard
        if passed:
            self.to_guest += len(passed)
            self._send_to_screen(self.screen.encode(passed))

    def _pong(self) -> None:
        pings, self._frames.pings = self._frames.pings, []
        if not self._to_browser:  # else it gets screen, which says as much
            self._send_to_browser(self._protocol.ponging(pings[-1]))

    def _slow_down(self, count: int, now: float) -> None:
        """Nobody types or pastes that much; who sends more waits, and its screen with it."""
        gained = (now - self._refilled) * _FAST
        self._allowance = min(_BURST, self._allowance + gained) - count
        self._refilled = now
        if self._allowance < 0:
            self.browser.on_readable(None)
            self._later = self._loop.call_later(-self._allowance / _FAST, self._go_on)

    def _go_on(self) -> None:
        self._later = None
        if not self.over and not self._to_screen:
            self._watch_browser()

    def _send_to_screen(self, data: bytes) -> None:
        if self.over:
            return
        if self._to_screen:
            self._to_screen += data
            return
        channel = self.screen.channel
        try:
            sent = channel.send(data)
        except OSError as error:
            if isinstance(error, Closed):
                self._end(End.SCREEN_GONE, websocket.FAULT, "The hypervisor closed the console.")
                return
            sent = 0
        if sent < len(data):
            self._to_screen = data[sent:]
            self.browser.on_readable(None)
            channel.on_writable(self._screen_writable)

    def _screen_writable(self) -> None:
        try:
            sent = self.screen.channel.send(self._to_screen)
        except OSError as error:
            if isinstance(error, Closed):
                self._end(End.SCREEN_GONE, websocket.FAULT, "The hypervisor closed the console.")
            return
        self._to_screen = self._to_screen[sent:]
        if not self._to_screen:
            self.screen.channel.on_writable(None)
            if self._later is None:
                self._watch_browser()
