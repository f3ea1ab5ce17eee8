"""Serve the endpoint on a Unix socket, by waitress, within limits.

The socket is complete before it has its name: bound elsewhere, given its mode and its group, and
renamed. A second start takes the name over at once, and nobody ever finds a socket that is open
to everyone.
"""

import contextlib
import errno
import grp
import json
import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import ErrorTask, WSGITask

from agent.api import problems
from agent.api.app import PEER, WATCH
from agent.api.problems import Answer, Kind
from agent.api.routes import LONGEST_DOCUMENT
from agent.api.streams import SLOTS, Streams

SOCKET = Path("/run/sysvm/control.sock")
GROUP = "sysvm"

THREADS = 4 + sum(SLOTS.values())  # four are never a stream's
CONNECTIONS = 64  # sysvm-front keeps half as many, so that sysvmctl always gets in
IDLE = 30  # seconds after which a connection without a request is closed
GRACE = 15.0  # seconds that requests under way have when the agent is stopped
HEADER = 64 * 1024  # bytes
UNSENT = 512 * 1024  # bytes of a stream that wait for a slow client before the stream does

_NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE = 0.2  # seconds in which the loop does nothing

log = logging.getLogger(__name__)


def listen(path: Path, group: str | None = GROUP) -> socket.socket:
    """A listening socket at `path`, for root and this group only; it replaces what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(temporary))
    finally:
        os.umask(mask)
    if group is not None:
        os.chown(temporary, -1, grp.getgrnam(group).gr_gid)
    temporary.chmod(0o660)
    listener.listen(128)
    temporary.rename(path)
    return listener


class Server:
    """The endpoint on a listening socket: `run` serves until another thread calls `stop`."""

    def __init__(self, app: Any, listener: socket.socket, streams: Streams | None = None) -> None:
        self._stopping = False
        self._streams = streams
        # Bodies and answers stay in memory: a full disk must not keep anybody from asking why.
        self._server = create_server(
            app,
            sockets=[listener],
            threads=THREADS,
            connection_limit=CONNECTIONS,
            channel_timeout=IDLE,
            max_request_body_size=LONGEST_DOCUMENT,
            max_request_header_size=HEADER,
            inbuf_overflow=2 * LONGEST_DOCUMENT,
            outbuf_overflow=4 * LONGEST_DOCUMENT,
            outbuf_high_watermark=UNSENT,
            ident="sysvm",
            clear_untrusted_proxy_headers=True,
            expose_tracebacks=False,
        )
        self._server.channel_class = _Channel
        self._server.accept = Door(listener).accept

    def run(self) -> None:
        """Serve until `stop`, or a signal's handler that exits; requests under way are finished."""
        server = self._server
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            while not self._stopping:
                wasyncore.loop(30, True, server._map, 1)  # noqa: FBT003, SLF001 - waitress' own loop cannot be stopped
        if self._streams is not None:
            self._streams.end()
        server.task_dispatcher.shutdown(cancel_pending=True, timeout=GRACE)
        for channel in list(server.active_channels.values()):
            channel.handle_write()
        wasyncore.close_all(server._map)  # noqa: SLF001 - as above

    def stop(self) -> None:
        """Have `run` return. May be called from any thread."""
        self._stopping = True
        with contextlib.suppress(OSError):  # it has seen that, and closed its trigger, already
            self._server.pull_trigger()


def serve(
    app: Any,
    path: Path = SOCKET,
    *,
    streams: Streams | None = None,
    group: str | None = GROUP,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve the endpoint at `path`; `ready` is called once clients can connect."""
    server = Server(app, listen(path, group), streams)
    ready()
    server.run()


class Door:
    """Takes clients in.

    Where no descriptor is left for one, it is sent away: who waits unseen would have the loop turn,
    and complain, without end. A descriptor is kept for that alone.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._spare = -1
        self._full = False

    def accept(self) -> tuple[socket.socket, Any] | None:
        """As waitress' own: None where there is nobody."""
        if self._spare < 0:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            client = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:
            if error.errno not in _NONE_LEFT:
                raise
            self._send_away(error)
            return None
        if self._full:
            log.warning("clients are taken in again")
        self._full = False
        return client

    def _send_away(self, error: OSError) -> None:
        if not self._full:
            log.error("clients are sent away: %s", error)
        self._full = True
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        try:
            self._listener.accept()[0].close()
        except OSError:  # another thread was quicker
            time.sleep(_PAUSE)


class _Task(WSGITask):  # type: ignore[misc]  # waitress has no types
    def get_environment(self) -> dict[str, Any]:
        environment: dict[str, Any] = super().get_environment()
        environment[PEER] = peer(self.channel.socket)
        environment[WATCH] = self.channel.watch
        return environment


_KINDS: dict[int, Kind] = {
    413: problems.TOO_LARGE,
    431: problems.HEADERS_TOO_LARGE,
    500: problems.UNEXPECTED,
}


class _ErrorTask(ErrorTask):  # type: ignore[misc]  # waitress has no types
    """What waitress itself refuses, in the form of everything else that is refused."""

    def execute(self) -> None:
        error = self.request.error
        kind = _KINDS.get(error.code, problems.BAD_REQUEST)
        content = json.dumps(problems.body(Answer(kind, str(error.body)))).encode() + b"\n"
        self.status = f"{kind.status} {error.reason}"
        self.response_headers.append(("Content-Type", problems.MEDIA_TYPE))
        self.set_close_on_finish()
        self.content_length = len(content)
        self.write(content)


class _Channel(HTTPChannel):  # type: ignore[misc]  # waitress has no types
    task_class = _Task
    error_task_class = _ErrorTask
    _watched = False

    def watch(self) -> Callable[[], bool]:
        """Look at the client also while it is being answered; returns whether it has left.

        Only for streams: else a client that has half closed its connection would lose its answer.
        """
        self._watched = True
        self.server.pull_trigger()
        return self.check_client_disconnected  # type: ignore[no-any-return]  # no types, as above

    def readable(self) -> bool:
        if self._watched and self.requests:
            return not (self.will_close or self.close_when_flushed or len(self.requests) > 1)
        self._watched = False
        return bool(super().readable())


def peer(connection: socket.socket) -> str:
    """The process at the other end of a Unix socket (SO_PEERCRED, unix(7))."""
    try:
        size = struct.calcsize("3i")
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    except OSError:
        return "gone"
    pid, uid, _ = struct.unpack("3i", credentials)
    return f"uid {uid} pid {pid}"
