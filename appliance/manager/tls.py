"""TLS of the manager's own doors: what it shows, renewed without a restart, and HTTP behind it.

Files that were replaced are noticed at the next connection. A pair that does not fit, or that is
half written, is said once and changes nothing: what was shown before is shown on.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from asyncio import StreamReader, StreamReaderProtocol, StreamWriter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from waitress.channel import HTTPChannel

from appliance.errors import ApplianceError

log = logging.getLogger(__name__)

HANDSHAKE = 10.0  # seconds
STALLED = 60.0  # seconds that whoever reads nothing is waited for
_GREETING = 500  # connections at once whose handshake is under way; more are closed
_PIECE = 65536  # bytes

Mark = tuple[tuple[int, int, int], ...]


class Shown:
    """A certificate and its key, as files; with `ca`, clients have to show one of that authority's.

    By it both listeners do TLS, of version 1.2 at least.
    """

    def __init__(self, certificate: Path, key: Path, ca: Path | None = None) -> None:
        """Raises ApplianceError."""
        self._certificate, self._key, self._ca = certificate, key, ca
        self._lock = threading.RLock()
        try:
            self._mark = self._look()
            self._context = self._load()
        except (OSError, ssl.SSLError) as error:
            raise ApplianceError(
                f"the certificate {certificate} cannot be used: {error}",
                "certificate, key and authority are PEM files, the first one with its chain",
            ) from error

    def context(self) -> ssl.SSLContext:
        """That of the next connection; a new one where the files are others than before."""
        with self._lock:
            with contextlib.suppress(FileNotFoundError):  # it is being replaced
                mark = self._look()
                if mark != self._mark:
                    self._mark = mark
                    self._renew()
            return self._context

    def _renew(self) -> None:
        try:
            self._context = self._load()
        except (OSError, ssl.SSLError) as error:
            log.error("%s cannot be used, and is not shown: %s", self._certificate, error)
        else:
            log.info("%s is shown from now on", self._certificate)

    def _look(self) -> Mark:
        files = (one.stat() for one in (self._certificate, self._key, self._ca) if one is not None)
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in files)

    def _load(self) -> ssl.SSLContext:
        # A context that is loaded into twice is left half changed by a pair that does not fit.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._certificate, self._key)
        if self._ca is not None:
            context.load_verify_locations(self._ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Wrap:
    """TLS before waitress, which has none: each connection's bytes go on over a socket pair.

    One loop in a thread does it for all. Waitress counts and bounds connections as ever, and knows
    who each comes from.
    """

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._greeting = 0
        threading.Thread(target=self._loop.run_forever, name="tls", daemon=True).start()

    def before(self, server: Any) -> None:
        """Have the connections of a server of waitress's come through here."""

        def begin(server: Any, conn: socket.socket, addr: object, adj: Any, map: Any) -> None:  # noqa: A002 - waitress's name
            def arrived(plain: socket.socket) -> None:
                def go_on() -> None:
                    HTTPChannel(server, plain, addr, adj, map=map)

                server.trigger.pull_trigger(go_on)  # in the thread that the server runs in

            self._loop.call_soon_threadsafe(self._begin, conn, arrived)

        server.channel_class = begin

    def close(self) -> None:
        """Take no more."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _begin(self, conn: socket.socket, arrived: Callable[[socket.socket], None]) -> None:
        if self._greeting >= _GREETING:
            conn.close()
            return
        task = self._loop.create_task(self._serve(conn, arrived))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, conn: socket.socket, arrived: Callable[[socket.socket], None]) -> None:
        # Who is refused, or leaves, is not our affair.
        with contextlib.suppress(OSError, TimeoutError):
            reader, writer = await self._greet(conn)
            ours, theirs = socket.socketpair()
            plain_reader, plain_writer = await asyncio.open_connection(sock=ours)
            arrived(theirs)
            try:
                await asyncio.gather(_pump(reader, plain_writer), _pump(plain_reader, writer))
            finally:
                plain_writer.transport.abort()
                writer.transport.abort()

    async def _greet(self, conn: socket.socket) -> tuple[StreamReader, StreamWriter]:
        self._greeting += 1
        try:
            conn.settimeout(0)
            reader = StreamReader()
            protocol = StreamReaderProtocol(reader)
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, conn, ssl=self._shown.context(), ssl_handshake_timeout=HANDSHAKE
            )
            return reader, StreamWriter(transport, protocol, reader, self._loop)
        except BaseException:
            conn.close()
            raise
        finally:
            self._greeting -= 1


async def _pump(reader: StreamReader, writer: StreamWriter) -> None:
    """Hand on what comes, then that nothing more does."""
    while data := await reader.read(_PIECE):
        writer.write(data)
        async with asyncio.timeout(STALLED):
            await writer.drain()
    writer.close()
    with contextlib.suppress(OSError):
        async with asyncio.timeout(STALLED):
            await writer.wait_closed()
