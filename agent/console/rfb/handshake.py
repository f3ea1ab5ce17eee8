"""RFB's handshakes, to the hypervisor on the user's behalf and to the browser.

Each is a generator: it yields what it wants done (`Receive`, `Send`, `Encrypt`), is sent what came
of it, and returns what was agreed. So every step is tried without a socket, and whoever drives it
sets the time that it may take. To the browser the proxy speaks 3.8 and asks for nothing; whether
it may see the screen was decided before.
"""

import struct
from collections.abc import Collection, Generator
from dataclasses import dataclass
from typing import TypeVar

from agent.console.rfb.des import vnc_response
from agent.console.sessions import Credentials

_NONE, _VNC, _VENCRYPT = 1, 2, 19
_X509_NONE, _X509_VNC, _X509_PLAIN = 260, 261, 262
_LONGEST_REASON = 512  # bytes that are shown of what the hypervisor says
_LONGEST_NAME = 65536  # bytes of a desktop's name that are read over
_KINDS = {
    0: "invalid", 1: "None", 2: "VNC password", 5: "RA2", 6: "RA2ne", 16: "Tight", 18: "TLS",
    19: "VeNCrypt", 20: "SASL", 22: "xvp", 30: "Apple", 129: "RSA-AES-256",
    256: "Plain", 257: "TLSNone", 258: "TLSVnc", 259: "TLSPlain", 260: "X509None", 261: "X509Vnc",
    262: "X509Plain", 263: "TLSSASL", 264: "X509SASL",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Receive:
    """Exactly so many bytes."""

    count: int


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes that go out."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Encrypt:
    """From here on TLS, as the client, with the session's certificates."""


Step = Receive | Send | Encrypt
T = TypeVar("T")
Steps = Generator[Step, bytes, T]


class HandshakeFailed(Exception):
    """The hypervisor's screen cannot be had; the message is for the user.

    `theirs` is what the hypervisor said, made printable; it goes to the log as well.
    """

    def __init__(self, message: str, theirs: str = "") -> None:
        super().__init__(f"{message}: {theirs}" if theirs else message)


def printable(data: bytes) -> str:
    """What somebody else said, as one line that can be shown."""
    text = data[:_LONGEST_REASON].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in text).strip()


# -- the hypervisor ----------------------------------------------------------------------------


def to_screen(credentials: Credentials) -> Steps[None]:
    """Come in at the hypervisor, up to where ClientInit is next. Raises HandshakeFailed."""
    theirs = yield Receive(12)
    version = _version(theirs)
    yield Send(b"RFB 003.%03d\n" % version)
    kind = yield from (_told_kind(credentials) if version == 3 else _chosen_kind(credentials))
    if kind == _VENCRYPT:
        kind = yield from _vencrypt(credentials)
    if kind in {_VNC, _X509_VNC}:
        if not credentials.password:
            raise HandshakeFailed("the hypervisor asks for a VNC password, and there is none")
        challenge = yield Receive(16)
        yield Send(vnc_response(credentials.password, challenge))
    elif kind == _X509_PLAIN:
        user, password = credentials.username.encode(), credentials.password.encode()
        yield Send(struct.pack(">II", len(user), len(password)) + user + password)
    if version == 8 or kind not in {_NONE, _X509_NONE}:
        yield from _result(version)


def _version(theirs: bytes) -> int:
    """The minor version to speak: 3, 7 or 8. Some say 3.5 or 3.889; there is nothing after 3.8."""
    if theirs[:4] != b"RFB " or theirs[7:8] != b"." or theirs[11:] != b"\n":
        raise HandshakeFailed("what answers at the hypervisor is no VNC server")
    try:
        major, minor = int(theirs[4:7]), int(theirs[8:11])
    except ValueError:
        raise HandshakeFailed("what answers at the hypervisor is no VNC server") from None
    if (major, minor) < (3, 3):
        raise HandshakeFailed(f"the hypervisor speaks RFB {major}.{minor}, which is too old")
    if (major, minor) >= (3, 8):
        return 8
    return 7 if minor == 7 else 3


def _told_kind(credentials: Credentials) -> Steps[int]:
    """In 3.3 the server says how it is."""
    (kind,) = struct.unpack(">I", (yield Receive(4)))
    if kind == 0:
        yield from _refusal()
    if credentials.ca:
        raise HandshakeFailed("the hypervisor has no TLS, it speaks RFB 3.3")
    if kind not in {_NONE, _VNC}:
        raise HandshakeFailed("the hypervisor wants", _name(kind))
    return int(kind)


def _chosen_kind(credentials: Credentials) -> Steps[int]:
    count = (yield Receive(1))[0]
    if count == 0:
        yield from _refusal()
    offered = yield Receive(count)
    kind = choose(offered, credentials)
    yield Send(bytes((kind,)))
    return kind


def choose(offered: Collection[int], credentials: Credentials) -> int:
    """The security type to ask for. Where there is a CA nothing but TLS will do.

    Raises HandshakeFailed.
    """
    if credentials.ca:
        if _VENCRYPT in offered:
            return _VENCRYPT
        raise HandshakeFailed("the hypervisor has no TLS, it offers only", _names(offered))
    if credentials.password and _VNC in offered:
        return _VNC
    if _NONE in offered:
        return _NONE
    if _VNC in offered:
        return _VNC
    if _VENCRYPT in offered:
        raise HandshakeFailed("the hypervisor wants TLS, and the session has no CA to know it by")
    raise HandshakeFailed("the proxy cannot do what the hypervisor offers", _names(offered))


def _vencrypt(credentials: Credentials) -> Steps[int]:
    """VeNCrypt 0.2 up to the type's own part; anonymous TLS is none, for it knows nobody."""
    version = yield Receive(2)
    if version < b"\x00\x02":
        raise HandshakeFailed("the hypervisor speaks VeNCrypt before 0.2")
    yield Send(b"\x00\x02")
    if (yield Receive(1)) != b"\x00":
        raise HandshakeFailed("the hypervisor does not speak VeNCrypt 0.2")
    count = (yield Receive(1))[0]
    if count == 0:
        raise HandshakeFailed("the hypervisor offers no kind of VeNCrypt")
    offered = struct.unpack(f">{count}I", (yield Receive(4 * count)))
    kind = _choose_x509(offered, credentials)
    yield Send(struct.pack(">I", kind))
    if (yield Receive(1)) != b"\x01":
        raise HandshakeFailed("the hypervisor takes back", _name(kind))
    yield Encrypt()
    return kind


def _choose_x509(offered: Collection[int], credentials: Credentials) -> int:
    wanted = []
    if credentials.username:
        wanted.append(_X509_PLAIN)
    if credentials.password:
        wanted.append(_X509_VNC)
    for kind in (*wanted, _X509_NONE):
        if kind in offered:
            return kind
    if _X509_VNC in offered or _X509_PLAIN in offered:
        raise HandshakeFailed(
            "the hypervisor asks for credentials that are missing", _names(offered)
        )
    raise HandshakeFailed("the proxy cannot do what the hypervisor offers", _names(offered))


def _result(version: int) -> Steps[None]:
    (result,) = struct.unpack(">I", (yield Receive(4)))
    if result == 0:
        return
    reason = ""
    if version == 8:
        reason = yield from _reason()
    message = "the hypervisor refused the VNC credentials"
    raise HandshakeFailed(message if result == 1 else f"{message} (too many attempts)", reason)


def _refusal() -> Steps[None]:
    reason = yield from _reason()
    raise HandshakeFailed("the hypervisor refuses", reason or "it does not say why")


def _reason() -> Steps[str]:
    (length,) = struct.unpack(">I", (yield Receive(4)))
    return printable((yield Receive(min(length, _LONGEST_REASON)))) if length else ""


def _name(kind: int) -> str:
    return _KINDS.get(kind, f"security type {kind}")


def _names(kinds: Collection[int]) -> str:
    return ", ".join(map(_name, kinds))


@dataclass(frozen=True, slots=True)
class ServerInit:
    """The screen as it is at first: its size, the form of its pixels (16 bytes), its name."""

    width: int
    height: int
    pixels: bytes
    name: str

    def encoded(self, title: str) -> bytes:
        """The message for the browser, with the VM's own name in place of the hypervisor's."""
        name = (title or self.name).encode()[:1024]
        return (
            struct.pack(">HH", self.width, self.height)
            + self.pixels
            + struct.pack(">I", len(name))
            + name
        )


def begin_screen() -> Steps[ServerInit]:
    """ClientInit and ServerInit. Always shared: one more viewer throws nobody out."""
    yield Send(b"\x01")
    head = yield Receive(24)
    width, height, pixels, length = struct.unpack(">HH16sI", head)
    if length > _LONGEST_NAME:
        raise HandshakeFailed("the hypervisor's answer makes no sense")
    name = (yield Receive(length)) if length else b""
    return ServerInit(width, height, pixels, printable(name))


# -- the browser -------------------------------------------------------------------------------


def greet_browser() -> Steps[int]:
    """Exchange versions; returns the minor version that the browser speaks: 3, 7 or 8."""
    yield Send(b"RFB 003.008\n")
    return _version((yield Receive(12)))


def let_in(version: int) -> Steps[None]:
    """Nothing is asked of the browser; it has its say on sharing, which does not matter."""
    if version == 3:
        yield Send(struct.pack(">I", _NONE))
    else:
        yield Send(bytes((1, _NONE)))
        if (yield Receive(1))[0] != _NONE:
            raise HandshakeFailed("the browser chose what it was not offered")
        if version == 8:
            yield Send(struct.pack(">I", 0))
    yield Receive(1)


def turn_away(version: int, reason: str) -> bytes:
    """What makes a browser that was greeted show this reason."""
    text = reason.encode()[:1024]
    nothing = struct.pack(">I", 0) if version == 3 else b"\x00"
    return nothing + struct.pack(">I", len(text)) + text
