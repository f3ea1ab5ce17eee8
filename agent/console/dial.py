"""The way to a hypervisor's screen: TCP, what is around RFB there, and RFB's own handshake."""

import asyncio
import base64
import hashlib
import os
import secrets
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from agent.console import channel
from agent.console.channel import Channel, Closed
from agent.console.rfb import handshake
from agent.console.rfb.handshake import Encrypt, HandshakeFailed, Receive, Send, Steps, T, printable
from agent.console.sessions import Credentials, Session
from agent.console.targets import Target, TargetKind
from agent.console.websocket import FrameReader, ProtocolError, client_frame

_MISMATCHES = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
CONNECT_TIME = 5.0  # seconds
HANDSHAKE_TIME = 10.0  # seconds, from the connection to the screen
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Unreachable(Exception):
    """The screen cannot be had; the message is for the user."""


async def follow(
    steps: Steps[T],
    read: Callable[[int], Awaitable[bytes]],
    write: Callable[[bytes], Awaitable[None]],
    encrypt: Callable[[], Awaitable[None]],
) -> T:
    """Do what a handshake wants done, by these means. Raises HandshakeFailed, and what they do."""
    answer: bytes | None = None
    while True:
        try:
            step = next(steps) if answer is None else steps.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result
        answer = b""
        match step:
            case Receive(count):
                answer = await read(count)
            case Send(data):
                await write(data)
            case Encrypt():
                await encrypt()


@dataclass(slots=True)
class Screen:
    """A hypervisor's screen: its channel, and the frames around RFB where it has them."""

    channel: Channel
    frames: FrameReader | None = None  # of a hypervisor that speaks WebSocket

    async def run(self, steps: Steps[T], credentials: Credentials, target: Target) -> T:
        """Do what a handshake wants done. Raises HandshakeFailed, Closed, ssl.SSLError."""

        async def encrypt() -> None:
            name = target.name or str(target.address)
            context = client_context(credentials)
            await self.channel.start_tls(context, server=False, name=name)

        async def write(data: bytes) -> None:
            await self.channel.write(self.encode(data))

        return await follow(steps, self._read, write, encrypt)

    def encode(self, data: bytes) -> bytes:
        """RFB as it goes to this hypervisor."""
        return data if self.frames is None else client_frame(data, os.urandom(4))

    async def _read(self, count: int) -> bytes:
        if self.frames is None:
            return await self.channel.read_exactly(count)
        data = b""
        while len(data) < count:
            data += self.frames.feed(await self.channel.read())
            if self.frames.closed:
                raise Closed("the hypervisor closes the WebSocket")
        if len(data) > count:  # back it goes, as the frame that it might have come in
            rest = data[count:]
            size = len(rest)
            self.channel.put_back(b"\x82\x7f" + size.to_bytes(8) + rest)
        return data[:count]


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """TLS towards a hypervisor: its certificate has to come from the session's CA and bear its
    name. Without a CA there is none; nobody is trusted for want of one. Raises HandshakeFailed.
    """
    if not credentials.ca:
        raise HandshakeFailed("the session has no CA to know the hypervisor by")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=credentials.ca)
        if credentials.certificate:
            load_pair(context, credentials.certificate, credentials.key)
    except (ssl.SSLError, ValueError) as error:
        raise HandshakeFailed("the session's certificates cannot be used") from error
    return context


def load_pair(context: ssl.SSLContext, certificates: str, key: str) -> None:
    """A certificate with its key, from memory: OpenSSL only takes files, and this one is none."""
    handle = os.memfd_create("pair", os.MFD_CLOEXEC)
    try:
        data = f"{certificates.rstrip()}\n{key.rstrip()}\n".encode()
        while data:
            data = data[os.write(handle, data) :]
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


async def dial(session: Session, loop: asyncio.AbstractEventLoop) -> Screen:
    """The session's screen, up to where ClientInit is next. Raises Unreachable."""
    target, credentials = session.target, session.credentials
    address = str(target.address)
    try:
        link = await channel.connect(address, target.port, loop, CONNECT_TIME)
    except Closed as error:
        raise Unreachable(f"The hypervisor cannot be reached: {error}.") from error
    screen = Screen(link)
    try:
        async with asyncio.timeout(HANDSHAKE_TIME):
            if target.kind is not TargetKind.VNC:
                await link.start_tls(
                    client_context(credentials), server=False, name=target.name or address
                )
            if target.kind is TargetKind.CONNECT:
                await _connect_method(link, target, credentials)
            elif target.kind is TargetKind.WEBSOCKET:
                await _upgrade(link, target)
                screen.frames = FrameReader(masks=False)
            inner = credentials if target.kind is TargetKind.VNC else _inside(session)
            await screen.run(handshake.to_screen(inner), inner, target)
    except BaseException as error:
        link.close()
        if (reason := why(error)) is None:
            raise
        raise Unreachable(reason) from error
    return screen


def _inside(session: Session) -> Credentials:
    """What is left to show where TLS, and the first admission, are around RFB."""
    xen = session.target.kind is TargetKind.CONNECT
    return Credentials(password="" if xen else session.credentials.password)


def why(error: BaseException) -> str | None:
    """What the user is told of an error on the way to the screen; None for what is no such."""
    match error:
        case TimeoutError():
            return "The hypervisor does not answer in time."
        case HandshakeFailed():
            text = str(error)
            return f"{text[0].upper()}{text[1:]}."
        case ssl.SSLCertVerificationError():
            # OpenSSL would say for which name or address, which is none of the user's affair.
            other = error.verify_code in _MISMATCHES
            said = "it is for another name" if other else error.verify_message
            return f"The hypervisor's certificate is not believed: {said}."
        case ssl.SSLError():
            return f"TLS with the hypervisor failed: {error.reason or 'it ended'}."
        case Closed():
            return f"The hypervisor closed the connection: {error}."
        case ProtocolError():
            return f"The hypervisor breaks the WebSocket protocol: {error}."
        case ValueError():
            return "The hypervisor's answer is too long."
        case _:
            return None


_CONNECT = {
    b"401": "the hypervisor does not accept the session",
    b"403": "the hypervisor does not accept the session",
    b"404": "the hypervisor has no such console",
}
_TICKET = dict.fromkeys((b"401", b"403", b"404"), "the ticket is not valid (any more)")


def _refused(known: Mapping[bytes, str], status: Sequence[bytes]) -> str:
    """What a status says, of a hypervisor that answers with another than the one hoped for."""
    code = status[1] if len(status) > 1 else b""
    return known.get(code, "the hypervisor refuses the console")


def detail(error: Unreachable) -> str:
    """What the log says of it besides, and no user is told."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError) and cause.verify_code in _MISMATCHES:
        return f" ({cause.verify_message})"
    return ""


async def _connect_method(link: Channel, target: Target, credentials: Credentials) -> None:
    """XenServer: CONNECT to the console's path, with the session of the one who may see it."""
    cookie = f"Cookie: session_id={credentials.password}\r\n" if credentials.password else ""
    await link.write(f"CONNECT {target.path} HTTP/1.0\r\n{cookie}\r\n".encode("latin-1"))
    head = await link.read_until(b"\r\n\r\n", 8192)
    status = head.split(b"\r\n", 1)[0].split(b" ")
    if len(status) < 2 or status[1] != b"200":
        raise HandshakeFailed(_refused(_CONNECT, status), printable(b" ".join(status[1:])))


async def _upgrade(link: Channel, target: Target) -> None:
    """ESXi: a WebSocket at the path that the ticket is part of."""
    key = base64.b64encode(secrets.token_bytes(16))
    host = target.name or (f"[{target.address}]" if target.address.version == 6 else target.address)
    await link.write(
        f"GET {target.path} HTTP/1.1\r\nHost: {host}:{target.port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: binary\r\n"
        f"Origin: https://{host}:{target.port}\r\n"
        f"Sec-WebSocket-Key: {key.decode()}\r\n\r\n".encode("latin-1")
    )
    head = await link.read_until(b"\r\n\r\n", 8192)
    first, *lines = head.split(b"\r\n")
    status = first.split(b" ")
    if len(status) < 2 or status[1] != b"101":
        raise HandshakeFailed(_refused(_TICKET, status), printable(b" ".join(status[1:])))
    digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
    fields = {name.strip().lower(): value.strip() for name, _, value in _split(lines)}
    if fields.get(b"sec-websocket-accept") != base64.b64encode(digest):
        raise HandshakeFailed("what answers at the hypervisor is no WebSocket")


def _split(lines: list[bytes]) -> list[tuple[bytes, bytes, bytes]]:
    return [line.partition(b":") for line in lines if line]
