"""One connection, plain or TLS, in an event loop: a non-blocking socket, read and written by hand.

asyncio's own TLS keeps a quarter of a MiB for each connection, and its streams copy what passes
several times. Here an SSLSocket does TLS on the socket itself, with what OpenSSL needs and no
more. While hands are shaken, coroutines wait (`read_exactly`, `write`); afterwards whoever pumps
calls the socket's own, or `send`, when the loop says that the socket is ready (`on_readable`,
`on_writable`).
"""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Callable

# What says of a socket, plain or TLS, that nothing can be done with it now.
BLOCKED = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_PIECE = 16384
_FAREWELL = 2.0  # seconds that the other side has to hear the last thing
_UNREAD = 4 * 1024 * 1024  # bytes that it may still send meanwhile


class Closed(ConnectionError):
    """The other side has closed, or the connection broke."""


class Channel:
    """A connected socket, which this owns and closes."""

    __slots__ = ("_ahead", "_loop", "_reader", "_writer", "sock")

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        sock.settimeout(0)
        with contextlib.suppress(OSError):  # a Unix socket has no such thing
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._loop = loop
        self._ahead = b""  # read, and not asked for yet
        self._reader = self._writer = False  # does the loop watch?

    # -- for coroutines -----------------------------------------------------------------------

    async def start_tls(
        self, context: ssl.SSLContext, *, server: bool, name: str | None = None
    ) -> None:
        """Do TLS from here on. Raises ssl.SSLError, Closed."""
        if self._ahead:
            raise Closed("bytes came before TLS began")
        wrapped = context.wrap_socket(
            self.sock, server_side=server, server_hostname=name, do_handshake_on_connect=False
        )
        self.sock = wrapped
        while True:
            try:
                wrapped.do_handshake()
            except ssl.SSLWantReadError:
                await self.readable()
            except ssl.SSLWantWriteError:
                await self.writable()
            except (ssl.SSLEOFError, ConnectionError) as error:
                raise Closed(error.strerror or str(error)) from error
            else:
                return

    async def read(self, most: int = _PIECE) -> bytes:
        """What comes next, at least one byte. Raises Closed."""
        if self._ahead:
            data, self._ahead = self._ahead[:most], self._ahead[most:]
            return data
        while True:
            try:
                data = self.sock.recv(most)
            except ssl.SSLWantWriteError:
                await self.writable()
            except BLOCKED:
                await self.readable()
            except OSError as error:
                raise Closed(error.strerror or str(error)) from error
            else:
                if not data:
                    raise Closed("the other side has closed")
                return data

    async def read_exactly(self, count: int) -> bytes:
        """So many bytes, and not one more off the wire's order. Raises Closed."""
        parts: list[bytes] = []
        while count:
            parts.append(await self.read(min(count, _PIECE)))
            count -= len(parts[-1])
        return b"".join(parts)

    async def read_until(self, end: bytes, limit: int) -> bytes:
        """Up to and with `end`. Raises Closed, or ValueError where it is not within the limit."""
        data = b""
        while (found := data.find(end)) < 0:
            if len(data) > limit:
                raise ValueError(f"more than {limit} bytes")
            data += await self.read()
        whole = found + len(end)
        self.put_back(data[whole:])
        if whole > limit:
            raise ValueError(f"more than {limit} bytes")
        return data[:whole]

    async def write(self, data: bytes) -> None:
        """All of it. Raises Closed."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.send(view) :]
            except ssl.SSLWantReadError:
                await self.readable()
            except BLOCKED:
                await self.writable()

    def put_back(self, data: bytes) -> None:
        """Bytes that were read and belong to whoever reads next."""
        self._ahead = data + self._ahead

    def take_ahead(self) -> bytes:
        """The bytes that were read already; a pump begins with them."""
        data, self._ahead = self._ahead, b""
        return data

    async def readable(self) -> None:
        """Wait until there is something to read, or the connection has ended."""
        ready: asyncio.Future[None] = self._loop.create_future()
        self.on_readable(lambda: None if ready.done() else ready.set_result(None))
        try:
            await ready
        finally:
            self.on_readable(None)

    async def writable(self) -> None:
        """Wait until there is room to write."""
        ready: asyncio.Future[None] = self._loop.create_future()
        self.on_writable(lambda: None if ready.done() else ready.set_result(None))
        try:
            await ready
        finally:
            self.on_writable(None)

    # -- for a pump ---------------------------------------------------------------------------

    def on_readable(self, call: Callable[[], object] | None) -> None:
        """Call this whenever there is something to read; None ends it."""
        if call is not None:
            self._loop.add_reader(self.sock, call)
        elif self._reader:
            self._loop.remove_reader(self.sock)
        self._reader = call is not None

    def on_writable(self, call: Callable[[], object] | None) -> None:
        """Call this whenever there is room to write; None ends it."""
        if call is not None:
            self._loop.add_writer(self.sock, call)
        elif self._writer:
            self._loop.remove_writer(self.sock)
        self._writer = call is not None

    def send(self, view: memoryview | bytes) -> int:
        """How many bytes went. Raises Closed, and BlockingIOError or OpenSSL's where none could.

        After that OpenSSL wants to be offered the same bytes again.
        """
        try:
            return self.sock.send(view)
        except BLOCKED:
            raise
        except OSError as error:
            raise Closed(error.strerror or str(error)) from error

    @property
    def plain(self) -> bool:
        """Is there nothing between its bytes and the kernel?"""
        return not isinstance(self.sock, ssl.SSLSocket)

    @property
    def pending(self) -> bool:
        """Has OpenSSL read more than was asked for, so that the loop will not call?"""
        return isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0

    def finish(self, data: bytes) -> None:
        """Say this last thing, as far as there is room, and end it when the other side has heard.

        Closed at once, with something unread, the kernel would take back what was said.
        """
        self.on_writable(None)
        with contextlib.suppress(OSError):
            self.send(data)
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        timer = self._loop.call_later(_FAREWELL, self.close)
        left = _UNREAD

        def drain() -> None:
            nonlocal left
            try:
                count = len(self.sock.recv(_PIECE))
            except BLOCKED:
                return
            except OSError:
                count = 0
            left -= count
            if count == 0 or left < 0:
                timer.cancel()
                self.close()

        self.on_readable(drain)

    def close(self) -> None:
        """End it now."""
        if self.sock.fileno() >= 0:
            self.on_readable(None)
            self.on_writable(None)
            self.sock.close()


async def connect(
    address: str, port: int, loop: asyncio.AbstractEventLoop, timeout: float
) -> Channel:
    """A connection to a numeric address. Raises Closed with the reason.

    The loop's own way looks the address up in another thread, numeric or not. In a process of one
    thread the C library takes no locks, of which each call of the kernel would have several.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    channel = Channel(socket.socket(family, socket.SOCK_STREAM), loop)
    try:
        async with asyncio.timeout(timeout):
            error = channel.sock.connect_ex((address, port))
            if error == errno.EINPROGRESS:
                await channel.writable()
                error = channel.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise Closed(os.strerror(error))
    except TimeoutError as error:
        channel.close()
        raise Closed("it does not answer") from error
    except BaseException:
        channel.close()
        raise
    return channel
