"""JSON, a line for each message, between the keeper and whoever talks to it over a socket."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

LONGEST = 1024 * 1024  # bytes of a message; a session has certificates in it
_WAITING = 4 * 1024 * 1024  # bytes that wait for somebody who does not read


class Link:
    """One such connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> "Link":
        """A connection that is there already, of a socket pair or inherited."""
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=LONGEST)
        return cls(reader, writer)

    def send(self, message: dict[str, Any]) -> None:
        """Say it. Whoever does not listen for too long is cut off."""
        transport = self._writer.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() > _WAITING:
            transport.abort()
            return
        self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """What comes, until the other side ends, or says what is no message."""
        while True:
            try:
                line = await self._reader.readline()
                message = json.loads(line) if line.endswith(b"\n") else None
            except (ValueError, ConnectionError):
                return
            if not isinstance(message, dict):
                return
            yield message

    async def close(self) -> None:
        """Send what waits, and end."""
        with contextlib.suppress(OSError):
            self._writer.close()
            await self._writer.wait_closed()
