"""A session's bytes: from the screen to the browser and back, and never more than a little kept.

Callbacks of the loop, no tasks. Whoever has bytes that the other side does not take now stops
reading until it does: a slow browser slows its screen down, and costs what one read brings. All
bridges of a worker read into one buffer, in which there is room for a frame's header before the
payload, so that a piece of screen leaves in one call of the kernel. What is little, as a key and
its answer are, leaves at the end of the loop's turn, with what all others have to say by then.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable

from agent.console import websocket
from agent.console.channel import BLOCKED, Channel
from agent.console.dial import Screen
from agent.console.loop_turns import Departures
from agent.console.rfb.filter import ClientFilter, NotRfb
from agent.console.rfb.screen import ScreenFilter, ScreenUnreadable
from agent.console.sessions import End
from agent.console.websocket import HEADROOM, FrameReader, ProtocolError, client_frame, put_header

# Bytes that are read at once, and so what is kept of a direction that stalls. With the header of a
# frame they are whole records of TLS.
PIECE = 256 * 1024 - HEADROOM
# And for a browser that did not take everything lately: it sees each piece when all of it has come.
LEAST = 64 * 1024 - HEADROOM
_RECORD = 16 * 1024  # bytes of TLS at once
_SPLICED = 256 * 1024  # bytes that the kernel hands on at once
# Bytes that wait in the kernel, on their way to a browser and from a screen (which the kernel
# doubles). By itself it would let a stalled browser have eight MiB there, and what somebody types
# wait behind as many.
_TO_BROWSER = 128 * 1024
_FROM_SCREEN = 256 * 1024
_TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; what is on its way has no bound, for browsers far away
_LITTLE = 1024  # bytes that leave at the end of a turn
_TURNS = 4  # reads before the others have their turn
_FAST = 1024 * 1024.0  # bytes a second that a browser may send in the long run
_BURST = 4.0  # seconds' worth of that which it may send at once
_now = time.monotonic

_buffer = bytearray(HEADROOM + PIECE)
_view = memoryview(_buffer)
_payload = _view[HEADROOM:]
_pipe: tuple[int, int] | None = None  # empty whenever a callback ends

Ended = Callable[[End, int, str], None]  # why, the WebSocket's code, and what the user is told


class Bridge:
    """One browser and one screen, both past their handshakes."""

    __slots__ = (
        "_browser_sock", "_browser_stalls", "_browser_tls", "_departures", "_direct", "_ended",
        "_filter", "_frames", "_later", "_loop", "_most", "_paid", "_protocol", "_screen_filter",
        "_screen_sock", "_screen_stalls", "_screen_tls", "_spliced", "_to_browser", "_to_screen",
        "_unpaid", "browser", "from_guest", "heard", "last_input", "last_screen", "over", "screen",
        "to_guest",
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
        departures: Departures,
    ) -> None:
        now = _now()
        self._loop = asyncio.get_running_loop()
        self.browser = browser
        self.screen = screen
        self._browser_sock = browser.sock
        self._screen_sock = screen.channel.sock
        self._protocol = protocol
        self._frames = frames
        self._filter = client_filter
        self._screen_filter = screen_filter
        self._ended = ended
        self._departures = departures
        # What is neither read nor changed here goes as it comes; without TLS it does not even
        # come: the kernel hands it from one socket to the other.
        self._direct = screen_filter is None and screen.frames is None
        self._spliced = self._direct and browser.plain and screen.channel.plain
        self._screen_tls = not screen.channel.plain
        self._browser_tls = not browser.plain
        self._most = LEAST
        # What has not left yet. Nothing more is read of its source until it has.
        self._to_browser = b""
        self._to_screen = b""
        self._browser_stalls = self._screen_stalls = False  # does it not take all of that?
        self._paid = now - _BURST  # until when what the browser sent has been waited for
        self._unpaid = 0  # bytes that it sent since
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
            with contextlib.suppress(OSError):  # no TCP, in tests
                self.browser.sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _TO_BROWSER)
            self.screen.channel.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _FROM_SCREEN)
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
        if self._to_screen:
            with contextlib.suppress(OSError):
                self.screen.channel.send(self._to_screen)
        self.screen.channel.close()

    def ping(self) -> None:
        """Have the browser say that it is there; not where something waits for it anyway."""
        if len(self._to_browser) <= _LITTLE:
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
        turns = _TURNS
        while turns:
            turns -= 1
            if self._to_browser and not self._browser_stalls:
                self._tell_browser()  # before more is read
            if self.over or self._browser_stalls:
                return
            most = self._most
            try:
                count = self._hand_on() if most == _SPLICED else self._read_screen(most)
            except BLOCKED:
                return
            except OSError:
                count = 0
            if count == 0:
                self._end(End.SCREEN_GONE, websocket.FAULT, "The hypervisor closed the console.")
                return
            if count < most:  # there is no more now, or the loop will call again
                if most == _SPLICED and count < LEAST:
                    self._most = PIECE
                break
            if not self._to_browser:
                self._most = more_at_once(most, spliced=self._spliced)
        if self._screen_tls and self.screen.channel.pending and not self.over:
            self._loop.call_soon(self._from_screen)  # the kernel does not know of it

    def _read_screen(self, most: int) -> int:
        """Pass on what there is, through our buffer. Raises BLOCKED, OSError."""
        count = self._screen_sock.recv_into(_payload, most)
        if self._screen_tls:
            count = _fill(self._screen_sock, count, most)
        if not count:
            return 0
        self.last_screen = _now()
        if not self._direct:
            self._show(bytes(_payload[:count]))
            return count
        self.from_guest += count
        if count <= _LITTLE:
            self._to_browser = websocket.header(count) + _payload[:count]
            self._departures.add(self._tell_browser)
            return count
        begin = put_header(_view, count)
        piece, sock = _view[begin : HEADROOM + count], self._browser_sock
        try:
            if self._browser_tls and count > _RECORD:
                sent = _together(sock, piece)
            else:
                sent = sock.send(piece)
        except BLOCKED:
            sent = 0
        except OSError:
            self._lost()
            return count
        if sent < HEADROOM - begin + count:
            self._wait_for_browser(bytes(_view[begin + sent : HEADROOM + count]))
        return count

    def _hand_on(self) -> int:
        """The same of much, by way of a pipe in the kernel. Raises BLOCKED, OSError."""
        source, sink = _way()
        sock = self._browser_sock
        count = os.splice(self._screen_sock.fileno(), sink, _SPLICED)
        if not count:
            return 0
        self.last_screen = _now()
        self.from_guest += count
        header, left = websocket.header(count), count
        try:
            sent = sock.send(header, socket.MSG_MORE)
            header = header[sent:]
            if not header:
                left -= os.splice(source, sock.fileno(), count)
        except BlockingIOError:
            pass
        except OSError:
            self._lost()
        rest = header + _taken_out(source, left)
        if rest and not self.over:
            self._wait_for_browser(rest)
        return count

    def _show(self, data: bytes) -> None:
        """What the hypervisor sent, through what is around RFB and what policy says."""
        frames = self.screen.frames
        try:
            if frames is not None:
                data = frames.feed(data)
                if frames.pings and len(self._to_screen) <= _LITTLE:
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
        self._to_browser = bytes(data)
        if len(data) <= _LITTLE:
            self._departures.add(self._tell_browser)
        else:
            self._tell_browser()

    def _tell_browser(self) -> None:
        """Send what has not left yet; of what it does not take the loop says when it may."""
        data = self._to_browser
        if self.over or not data:
            return
        try:
            sent = self._browser_sock.send(data)
        except BLOCKED:
            sent = 0
        except OSError:
            self._lost()
            return
        if sent < len(data):
            self._wait_for_browser(data[sent:])
            return
        self._to_browser = b""
        if self._browser_stalls:
            self._browser_stalls = False
            self.browser.on_writable(None)
            self._watch_screen()

    def _wait_for_browser(self, rest: bytes) -> None:
        self._to_browser = rest
        if not self._browser_stalls:
            self._browser_stalls = True
            self._most = LEAST
            self.screen.channel.on_readable(None)
            self.browser.on_writable(self._tell_browser)

    def _lost(self) -> None:
        self._end(End.LOST, websocket.GOING_AWAY, "")

    # -- from the browser to the screen -------------------------------------------------------

    def _watch_browser(self) -> None:
        self.browser.on_readable(self._from_browser)
        if self.browser.pending:
            self._loop.call_soon(self._from_browser)

    def _from_browser(self) -> None:
        turns = _TURNS
        while turns:
            turns -= 1
            if self._to_screen and not self._screen_stalls:
                self._tell_screen()  # before more is read
            if self.over or self._screen_stalls or self._later is not None:
                return
            try:
                data = self._browser_sock.recv(_RECORD)
                if len(data) == _RECORD:
                    data = self._more(data)
            except BLOCKED:
                return
            except OSError:
                data = b""
            if not data:
                self._lost()
                return
            self._from_browser_bytes(data)
            if len(data) < _RECORD:
                return  # there is no more now, or the loop will call again
        if self._browser_tls and not self.over and self.browser.pending:
            self._loop.call_soon(self._from_browser)  # the kernel does not know of it

    def _more(self, data: bytes) -> bytes:
        """Where something is pasted, more than a key's worth: read a piece of it at once."""
        _payload[:_RECORD] = data
        return bytes(_payload[: _fill(self._browser_sock, _RECORD, LEAST)])

    def _from_browser_bytes(self, data: bytes) -> None:
        self.heard = _now()
        try:
            said = self._frames.feed(data)
        except ProtocolError as error:
            self._end(End.FAULT, error.code, f"The browser breaks the protocol: {error}.")
            return
        if said:
            self._pass_on(said)
        if self._frames.told:
            self._control()
        self._unpaid += len(data)
        if self._unpaid > _RECORD:
            self._pay()

    def _pay(self) -> None:
        """Nobody types or pastes that much; who sends more waits, and its screen with it."""
        now = self.heard
        self._paid = max(self._paid, now - _BURST) + self._unpaid / _FAST
        self._unpaid = 0
        if self._paid > now and not self.over:
            self.browser.on_readable(None)
            self._later = self._loop.call_later(self._paid - now, self._go_on)

    def _pass_on(self, said: bytes) -> None:
        messages = self._filter
        inputs = messages.inputs
        try:
            passed = messages.feed(said)
        except NotRfb as error:
            self._end(End.FAULT, websocket.POLICY, f"The browser breaks the protocol: {error}.")
            return
        if messages.inputs != inputs:
            self.last_input = self.heard
        if passed:
            self.to_guest += len(passed)
            self._send_to_screen(self.screen.encode(passed))

    def _control(self) -> None:
        """What the browser says to us, and not to its screen."""
        frames = self._frames
        frames.told = False
        if frames.pings:
            pings, frames.pings = frames.pings, []
            if len(self._to_browser) <= _LITTLE:  # else it gets screen, which says as much
                self._send_to_browser(self._protocol.ponging(pings[-1]))
        if frames.closed:
            # A page that is left or loaded again says 1001, and may come back.
            by_user = frames.close_code == websocket.NORMAL
            self._end(End.CLOSED if by_user else End.LOST, websocket.NORMAL, "")

    def _go_on(self) -> None:
        self._later = None
        if not self.over and not self._screen_stalls:
            self._watch_browser()

    def _send_to_screen(self, data: bytes) -> None:
        if self.over:
            return
        if self._to_screen:
            self._to_screen += data
            return
        self._to_screen = data
        if len(data) <= _LITTLE:
            self._departures.add(self._tell_screen)
        else:
            self._tell_screen()

    def _tell_screen(self) -> None:
        """Send what has not left yet; of what it does not take the loop says when it may."""
        data = self._to_screen
        if self.over or not data:
            return
        try:
            sent = self._screen_sock.send(data)
        except BLOCKED:
            sent = 0
        except OSError:
            self._end(End.SCREEN_GONE, websocket.FAULT, "The hypervisor closed the console.")
            return
        if sent < len(data):
            self._wait_for_screen(data[sent:])
            return
        self._to_screen = b""
        if self._screen_stalls:
            self._screen_stalls = False
            self.screen.channel.on_writable(None)
            if self._later is None:
                self._watch_browser()

    def _wait_for_screen(self, rest: bytes) -> None:
        self._to_screen = rest
        if not self._screen_stalls:
            self._screen_stalls = True
            self.browser.on_readable(None)
            self.screen.channel.on_writable(self._tell_screen)


def more_at_once(most: int, *, spliced: bool) -> int:
    """Bytes to ask for next, where as many as were asked for came, and left."""
    if most < PIECE:
        return min(2 * most + HEADROOM, PIECE)
    return _SPLICED if spliced else PIECE


def _fill(sock: socket.socket, count: int, enough: int) -> int:
    """Read on after `count` bytes, which of TLS are a record; returns how many there are by now.

    After a record that is not full there is nothing more, most likely, and asking costs a call.
    """
    while 0 < count < enough and count % _RECORD == 0:
        try:
            more = sock.recv_into(_payload[count:], PIECE - count)
        except OSError:  # none is there now; whatever else it is, it will be said again
            break
        if not more:
            break
        count += more
    return count


def _together(sock: socket.socket, data: memoryview) -> int:
    """Send records of TLS that leave together: one by one, TCP has four times as much to do."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    try:
        return sock.send(data)
    finally:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)


def _way() -> tuple[int, int]:
    """The worker's pipe: where to read, where to write."""
    global _pipe  # noqa: PLW0603 - one for all, as the buffer is
    if _pipe is None:
        _pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(PermissionError):  # more than this user may have
            fcntl.fcntl(_pipe[1], fcntl.F_SETPIPE_SZ, 4 * _SPLICED)
    return _pipe


def _taken_out(source: int, count: int) -> bytes:
    """What is left in the pipe."""
    parts = []
    while count:
        parts.append(os.read(source, count))
        count -= len(parts[-1])
    return b"".join(parts)
