"""Many browsers before a console proxy and the screens behind it, in one process of its own.

    python -m appliance.lab.crowd ADDRESS PORT NAME AUTHORITY SCREEN_ADDRESS SCREEN_PORT

It runs on the node where both are, and does what each line of its standard input asks for: `open`
with secrets opens a console with each, over TLS, and keeps it open; `keys` presses another key in
each and waits until its screen shows it. The answer is a line of JSON. A screen has one pixel: the
key that was pressed last.
"""

import asyncio
import base64
import json
import os
import resource
import ssl
import struct
import sys
from collections import Counter
from pathlib import Path

from agent.console.channel import Channel, Closed, connect

_PATIENCE = 120.0  # seconds for a console to open, and for a key's answer
_OPENING = 8  # at once: the proxy's cores are what it takes time of, not the way to it
_PRESSING = 100
_PIXELS = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
_INIT = struct.pack(">HH16sI", 1, 1, _PIXELS, 5) + b"crowd"
_UPDATE = struct.pack(">BxHHHHHi", 0, 1, 0, 0, 1, 1, 0)
_KEY = 4  # a message of eight bytes, the only one that these browsers send
_BINARY, _CLOSE, _PING, _PONG = 2, 8, 9, 10


class Screen(asyncio.Protocol):
    """A screen as one viewer has it: RFB 3.8 without a password."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.WriteTransport):
            raise TypeError("not a way to write")
        self._out = transport
        self._said = b""
        self._steps = [(12, b"\x01\x01"), (1, bytes(4)), (1, _INIT)]
        transport.write(b"RFB 003.008\n")

    def data_received(self, data: bytes) -> None:
        self._said += data
        while self._steps and len(self._said) >= self._steps[0][0]:
            count, answer = self._steps.pop(0)
            self._said = self._said[count:]
            self._out.write(answer)
        while not self._steps and len(self._said) >= 8:
            message, self._said = self._said[:8], self._said[8:]
            if message[0] != _KEY:
                self._out.abort()
                return
            self._out.write(_UPDATE + message[4:])


class Browser:
    """One console, from its secret on."""

    def __init__(self) -> None:
        self._channel: Channel | None = None
        self._coming = b""  # bytes of frames
        self._data = b""  # bytes of RFB
        self._task: asyncio.Task[None] | None = None
        self._wanted = b""  # to be seen
        self._seen = asyncio.Event()  # or it is over

    async def open(
        self, place: tuple[str, int], name: str, context: ssl.SSLContext, secret: str
    ) -> None:
        """Open it, and answer pings from then on. Raises Closed with what a user would read."""
        loop = asyncio.get_running_loop()
        channel = self._channel = await connect(*place, loop, _PATIENCE)
        await channel.start_tls(context, server=False, name=name)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = ["GET /socket HTTP/1.1", f"Host: {name}", f"Origin: https://{name}"]
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        lines += [f"Sec-WebSocket-Key: {key}", f"Sec-WebSocket-Protocol: binary, secret.{secret}"]
        await channel.write("\r\n".join([*lines, "", ""]).encode())
        head = await channel.read_until(b"\r\n\r\n", 8192)
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            raise Closed(head.split(b"\r\n", 1)[0].decode("latin-1"))
        await self._take(12)
        await self._say(_BINARY, b"RFB 003.008\n")
        if await self._take(1) == b"\0":
            (length,) = struct.unpack(">I", await self._take(4))
            raise Closed((await self._take(length)).decode(errors="replace"))
        await self._take(1)
        await self._say(_BINARY, b"\x01")  # no authentication: the proxy has done it
        await self._take(4)
        await self._say(_BINARY, b"\x01")  # shared
        (length,) = struct.unpack(">20xI", await self._take(24))
        await self._take(length)
        self._task = loop.create_task(self._listen())

    async def press(self, keysym: int) -> bool:
        """Press a key; does the screen come to show it?"""
        self._wanted = _UPDATE + keysym.to_bytes(4)
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._say(_BINARY, struct.pack(">BBxxI", _KEY, 1, keysym))
                await self._seen.wait()
        except (TimeoutError, OSError):
            return False
        if self._task is None or self._task.done():
            return False
        self._seen.clear()
        return True

    async def _listen(self) -> None:
        try:
            while True:
                self._data = (self._data + await self._payload())[-len(_UPDATE) - 4 :]
                if self._wanted and self._data.endswith(self._wanted):
                    self._wanted = b""
                    self._seen.set()
        except OSError:
            return
        finally:
            self._seen.set()

    async def _take(self, count: int) -> bytes:
        while len(self._data) < count:
            self._data += await self._payload()
        whole, self._data = self._data[:count], self._data[count:]
        return whole

    async def _payload(self) -> bytes:
        """The next frame's; a server's has no mask, and all that come here are short."""
        kind, length = (await self._bytes(2))[:2]
        payload = await self._bytes(length & 127)
        if kind & 15 == _CLOSE:
            raise Closed(payload[2:].decode(errors="replace") or "the console is closed")
        if kind & 15 == _PING:
            await self._say(_PONG, payload)
        return payload if kind & 15 == _BINARY else b""

    async def _bytes(self, count: int) -> bytes:
        if self._channel is None:
            raise Closed("it was not opened")
        while len(self._coming) < count:
            self._coming += await self._channel.read(4096)
        found, self._coming = self._coming[:count], self._coming[count:]
        return found

    async def _say(self, kind: int, data: bytes) -> None:
        """A frame of fewer than 126 bytes; a client's is masked, and by zeros as well as any."""
        if self._channel is None:
            raise Closed("it was not opened")
        await self._channel.write(bytes((0x80 | kind, 0x80 | len(data))) + bytes(4) + data)


class Crowd:
    """All of them."""

    def __init__(self, place: tuple[str, int], name: str, authority: str) -> None:
        self._place = place
        self._name = name
        self._context = ssl.create_default_context(cadata=authority)
        self._turns = asyncio.Semaphore(_OPENING)
        self._browsers: list[Browser] = []
        self._keysym = 0x61

    async def open(self, secrets: list[str]) -> dict[str, object]:
        """How many of these are open now, and why the others are not."""
        failed: Counter[str] = Counter()

        async def one(secret: str) -> None:
            browser = Browser()
            async with self._turns:
                try:
                    async with asyncio.timeout(_PATIENCE):
                        await browser.open(self._place, self._name, self._context, secret)
                except (OSError, TimeoutError) as error:
                    failed[str(error) or type(error).__name__] += 1
                else:
                    self._browsers.append(browser)

        await asyncio.gather(*map(one, secrets))
        return {"opened": len(secrets) - failed.total(), "failed": failed}

    async def keys(self) -> dict[str, object]:
        """How many screens show a key that was pressed now."""
        self._keysym += 1
        turns = asyncio.Semaphore(_PRESSING)

        async def one(browser: Browser) -> bool:
            async with turns:
                return await browser.press(self._keysym)

        return {"answered": sum(await asyncio.gather(*map(one, self._browsers)))}


async def serve(crowd: Crowd, screen: tuple[str, int]) -> None:
    """Do as each line says, until there are no more."""
    await asyncio.get_running_loop().create_server(Screen, *screen, backlog=1024)
    while line := await asyncio.to_thread(sys.stdin.readline):
        word, *secrets = line.split()
        answer = await (crowd.open(secrets) if word == "open" else crowd.keys())
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


def main() -> None:
    """Be the crowd."""
    address, port, name, authority, screen, screen_port = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    crowd = Crowd((address, int(port)), name, Path(authority).read_text(encoding="ascii"))
    asyncio.run(serve(crowd, (screen, int(screen_port))))


if __name__ == "__main__":
    main()
