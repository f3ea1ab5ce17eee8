"""chronyd's own socket: how the clock is (chrony's candm.h, protocol version 6).

`chronyc` would do, but its socket has to be made in chronyd's own folder, which the agent's sandbox
may not write; and a process for two datagrams every three minutes is one too many.
"""

import secrets
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

SOCKET = Path("/run/chrony/chronyd.sock")
_TIMEOUT = 2.0  # seconds
_VERSION, _REQUEST, _REPLY = 6, 1, 2
_N_SOURCES, _TRACKING = 14, 33
_N_SOURCES_REPLY, _TRACKING_REPLY = 2, 5
_HEADER = struct.Struct("!BBBBHHIII")
_REPLY_HEADER = struct.Struct("!BBBBHHHHHHIII")
# ref_id, address and its family, stratum, leap status, time of the reference, then floats.
_TRACKED = struct.Struct("!I16sHHHHIII9I")
_PADDING = bytes(396)  # a request has to be at least as long as its answer
_NOT_SYNCHRONISED = 3  # leap status (RFC 5905)
_INET4, _INET6 = 1, 2


class NoAnswer(Exception):
    """chronyd does not answer, or not what was asked."""


@dataclass(frozen=True, slots=True)
class Tracking:
    """What chronyd says of the clock; `offset` is how far it is off, in seconds."""

    synchronised: bool
    offset: float
    sources: int
    reference: str  # an address, or the name of a reference clock


def tracking(folder: Path, path: Path = SOCKET) -> Tracking:
    """Ask chronyd; `folder` is where a socket of ours can be made. Raises NoAnswer."""
    (sources,) = struct.unpack_from("!I", _ask(folder, path, _N_SOURCES, _N_SOURCES_REPLY))
    answer = _ask(folder, path, _TRACKING, _TRACKING_REPLY)
    if len(answer) < _TRACKED.size:
        raise NoAnswer("its answer is too short")
    values = _TRACKED.unpack_from(answer)
    reference, address, family, leap = values[0], values[1], values[2], values[5]
    correction, last = number(values[9]), number(values[10])
    return Tracking(
        synchronised=leap != _NOT_SYNCHRONISED,
        offset=max(correction, last, key=abs),
        sources=sources,
        reference=_name(reference, address, family),
    )


def number(bits: int) -> float:
    """chrony's own form: 7 bits of exponent, 25 of coefficient, both signed."""
    exponent, coefficient = bits >> 25, bits & 0x1FFFFFF
    if exponent >= 64:
        exponent -= 128
    if coefficient >= 1 << 24:
        coefficient -= 1 << 25
    return float(coefficient * 2.0 ** (exponent - 25))


def _name(reference: int, address: bytes, family: int) -> str:
    if family == _INET4:
        return socket.inet_ntop(socket.AF_INET, address[:4])
    if family == _INET6:
        return socket.inet_ntop(socket.AF_INET6, address)
    letters = reference.to_bytes(4, "big").rstrip(b"\0").decode("ascii", errors="replace")
    return letters if letters.isalnum() else "its own clock"


def _ask(folder: Path, path: Path, command: int, expected: int) -> bytes:
    """The data of the answer to a command."""
    own = folder / f"chrony-{secrets.token_hex(4)}.sock"
    sequence = secrets.randbits(32)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(_TIMEOUT)
            sock.bind(str(own))
            own.chmod(0o666)  # chronyd answers as its own user
            sock.connect(str(path))
            header = _HEADER.pack(_VERSION, _REQUEST, 0, 0, command, 0, sequence, 0, 0)
            sock.send(header + _PADDING)
            answer = sock.recv(4096)
    except OSError as error:
        raise NoAnswer(error.strerror or str(error)) from error
    finally:
        own.unlink(missing_ok=True)
    if len(answer) < _REPLY_HEADER.size:
        raise NoAnswer("its answer is too short")
    head = _REPLY_HEADER.unpack_from(answer)
    if head[:2] != (_VERSION, _REPLY) or head[5] != expected or head[6] or head[10] != sequence:
        raise NoAnswer(f"it refuses (status {head[6]})")
    return answer[_REPLY_HEADER.size :]
