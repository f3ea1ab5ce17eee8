"""The heartbeat: one UDP datagram that says how a VM is, and cannot be forged or replayed.

    4 bytes   "SVHB"
    1 byte    the version, 1
    32 bytes  HMAC-SHA256, with the VM's key, of the five bytes before and all bytes after
    the rest  one JSON object in UTF-8, canonical: sorted names, no blanks

Its members are those of `Beat`. `seq` grows within a boot, also over restarts of the agent. The
sender and whoever receives share this module: both ends stand on the same code.
"""

import enum
import hmac
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

MAGIC = b"SVHB"
VERSION = 1
LONGEST = 1200  # bytes: fits any path unfragmented
BOOTS = 64  # boots that a receiver remembers of a VM

_PREFIX = MAGIC + bytes([VERSION])
_MAC = 32


class Health(enum.StrEnum):
    """The worst that the VM knows of itself."""

    OK = "ok"
    WARNING = "warning"  # degraded, but serving
    FAILED = "failed"  # something that the document wants does not serve
    UNKNOWN = "unknown"  # it cannot tell

    @property
    def rank(self) -> int:
        """0 for the best."""
        return _RANKS[self]


_RANKS: Mapping[Health, int] = {
    Health.OK: 0, Health.UNKNOWN: 1, Health.WARNING: 2, Health.FAILED: 3,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a heartbeat says."""

    vm: str  # the id in the document's `events` section, by default the host name
    boot: str  # the kernel's id of this boot
    seq: int
    role: str
    generation: int | None  # of the document that runs
    revision: int | None
    health: Health
    monotonic: float  # seconds since the boot


@dataclass(frozen=True, slots=True)
class Condition:
    """How a VM is."""

    generation: int | None
    revision: int | None
    health: Health


class Refused(ValueError):
    """A datagram that is no heartbeat of this VM, or one that has been before."""


def encode(beat: Beat, key: bytes) -> bytes:
    """The datagram."""
    text = json.dumps(asdict(beat), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    content = text.encode()
    return _PREFIX + _authentic(content, key) + content


def decode(datagram: bytes, key: bytes) -> Beat:
    """What it says, if whoever has the key said it. Raises Refused.

    Nothing of the content is looked at before it is known to be authentic.
    """
    if len(datagram) > LONGEST:
        raise Refused("it is too long")
    if datagram[: len(MAGIC)] != MAGIC:
        raise Refused("it is no heartbeat")
    if datagram[: len(_PREFIX)] != _PREFIX:
        raise Refused("its version is not known")
    start = len(_PREFIX) + _MAC
    content = datagram[start:]
    if not hmac.compare_digest(datagram[len(_PREFIX) : start], _authentic(content, key)):
        raise Refused("it is not authentic")
    try:
        return _beat(json.loads(content))
    except (ValueError, TypeError, KeyError) as error:
        raise Refused(f"it is not understood: {error}") from error


def _authentic(content: bytes, key: bytes) -> bytes:
    return hmac.digest(key, _PREFIX + content, "sha256")


def _beat(value: Mapping[str, object]) -> Beat:
    """Members that are not known are left out: a newer VM may say more."""
    known = {field.name: value[field.name] for field in fields(Beat)}
    number, monotonic = known["seq"], known["monotonic"]
    if type(number) is not int or number < 0:
        raise ValueError("seq is no number")
    if not isinstance(monotonic, int | float) or not math.isfinite(monotonic):
        raise ValueError("monotonic is no number")
    for name in ("vm", "boot", "role"):
        if not isinstance(known[name], str):
            raise TypeError(f"{name} is no text")
    for name in ("generation", "revision"):
        if known[name] is not None and type(known[name]) is not int:
            raise TypeError(f"{name} is no number")
    return Beat(**{**known, "health": Health(known["health"])})  # type: ignore[arg-type]


class Receiver:
    """One VM's heartbeats, each accepted once: what was said before is refused."""

    def __init__(self, key: bytes, seen: Mapping[str, int] | None = None) -> None:
        """`seen` is what `seen()` was, when the receiver last ran."""
        self._key = key
        self._seen = dict(seen or {})  # greatest number by boot, the last boot last

    def accept(self, datagram: bytes) -> Beat:
        """Raises Refused."""
        beat = decode(datagram, self._key)
        last = self._seen.get(beat.boot)
        if last is not None and beat.seq <= last:
            raise Refused(f"it has been before: {beat.seq} after {last}")
        if last is None and len(self._seen) >= BOOTS:
            del self._seen[next(iter(self._seen))]
        self._seen[beat.boot] = beat.seq
        return beat

    def seen(self) -> Mapping[str, int]:
        """The greatest number by boot, to be kept while the receiver does not run."""
        return dict(self._seen)
