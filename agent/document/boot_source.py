"""Where a boot configuration came from, and what it says: bytes in, `BootConfig` or problems out.

Channels differ in how they carry it: as JSON, as JSON in base64 where a channel does not carry
every character, or as CloudStack's words. The readers are `agent.system.boot_channels`.
"""

import base64
import binascii
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.document import boot, cloudstack_boot
from agent.document.boot import BootConfig, InvalidBootConfig, NoSuchNic
from agent.engine.model import Link, Problem, pointer

LARGEST = 256 * 1024  # bytes that a boot configuration may have

_KVP_KEY, _KVP_VALUE = 512, 2048  # bytes, hv_kvp_daemon(8): fixed fields, filled up with NULs
_KERNEL_KEY = b"sysvm.boot="


class Source(enum.StrEnum):
    """The channels, in the order in which they are looked at: the first that has it wins."""

    CREDENTIAL = "credential"
    DRIVE = "drive"
    KERNEL = "kernel-command-line"
    VIRTIO_SERIAL = "virtio-serial"
    GUEST_AGENT = "guest-agent"
    VMWARE = "vmware-guestinfo"
    XENSTORE = "xenstore"
    HYPER_V = "hyper-v-kvp"
    KEPT = "kept"  # of an earlier boot
    NONE = "none"


class Form(enum.Enum):
    """How a channel carries a boot configuration."""

    JSON = "JSON"
    ENCODED = "JSON, or its base64"
    CLOUDSTACK = "CloudStack's words"


@dataclass(frozen=True, slots=True)
class Found:
    """What a channel had: bytes, or why they could not be had."""

    source: Source
    form: Form
    data: bytes
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """What this boot goes by. Without a configuration the VM stays closed."""

    source: Source
    config: BootConfig | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def broken(self) -> bool:
        """Did somebody hand in what cannot be used?"""
        return self.config is None and self.source not in {Source.NONE, Source.KEPT}

    def status(self) -> Mapping[str, object]:
        """What anybody on the VM may know of it: no keys, no certificates."""
        config = self.config
        return {
            "source": self.source.value,
            "ok": config is not None,
            "problems": [{"path": p.path, "message": _told(p)} for p in self.problems],
            "role": config and config.role.value,
            "hostname": config and config.hostname,
            "control": [
                str(interface.ip)
                for nic in (config.control_nics().values() if config else ())
                for interface in nic.addresses
            ],
        }


def _told(problem: Problem) -> str:
    return f"{problem.message} ({problem.hint})" if problem.hint else problem.message


NOTHING = Settled(
    Source.NONE,
    problems=(Problem("", "no channel has a boot configuration", "docs/boot-configuration.md"),),
)


def understand(found: Found, links: Sequence[Link]) -> BootConfig:
    """The boot configuration that was found, on a machine with these NICs.

    Raises InvalidBootConfig with every problem, and NoSuchNic where its control NICs are missing.
    """
    if found.problem is not None:
        raise InvalidBootConfig((found.problem,))
    if len(found.data) > LARGEST:
        raise InvalidBootConfig((too_large(),))
    match found.form:
        case Form.CLOUDSTACK:
            config = cloudstack_boot.parse(_text(found.data), links)
        case Form.ENCODED:
            config = boot.parse(_decoded(found.data))
        case Form.JSON:
            config = boot.parse(found.data)
    present = {link.mac for link in links}
    missing = tuple(
        Problem(
            pointer("nics", mac),
            "is not a NIC of this machine",
            f"it has {', '.join(sorted(present)) or 'none'}",
        )
        for mac in sorted(config.control_nics().keys() - present)
    )
    if missing:
        raise NoSuchNic(missing)
    return config


def too_large() -> Problem:
    return Problem("", f"is larger than {LARGEST} bytes")


def form_of(data: bytes) -> Form:
    """The form of what may be JSON or CloudStack's words."""
    return Form.JSON if data.lstrip().startswith(b"{") else Form.CLOUDSTACK


def of_kernel(command_line: bytes) -> Found | None:
    """What the kernel's command line has: `sysvm.boot=`, or CloudStack's words themselves."""
    ours = [word for word in command_line.split() if word.startswith(_KERNEL_KEY)]
    if len(set(ours)) > 1:
        problem = Problem("", "sysvm.boot is on the kernel's command line twice")
        return Found(Source.KERNEL, Form.ENCODED, b"", problem)
    if ours:
        return Found(Source.KERNEL, Form.ENCODED, ours[0].removeprefix(_KERNEL_KEY))
    words = command_line.replace(b"%", b" ")
    if cloudstack_boot.MARK.encode() in words.split():
        return Found(Source.KERNEL, Form.CLOUDSTACK, words)
    return None


def of_kvp(pool: bytes, key: str) -> bytes | None:
    """A value of Hyper-V's pool of key-value pairs; None where it has no such key.

    Source: hv_kvp_daemon.c of the kernel's tools. A record that is not whole is being written.
    """
    size = _KVP_KEY + _KVP_VALUE
    for start in range(0, len(pool) - size + 1, size):
        record = pool[start : start + size]
        if record[:_KVP_KEY].partition(b"\0")[0] == key.encode():
            return record[_KVP_KEY:].partition(b"\0")[0]
    return None


def _text(data: bytes) -> str:
    """Words in ASCII, as CloudStack sends them. Raises InvalidBootConfig."""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise InvalidBootConfig((Problem("", f"is not text: byte {error.start}"),)) from error
    if any(not character.isprintable() and not character.isspace() for character in text):
        raise InvalidBootConfig((Problem("", "has control characters"),))
    return text


def _decoded(data: bytes) -> bytes:
    """JSON as it is, or out of base64 (RFC 4648, either alphabet). Raises InvalidBootConfig."""
    bare = b"".join(data.split())
    if bare.startswith(b"{"):
        return data
    bare = bare.translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(bare + b"=" * (-len(bare) % 4), validate=True)
    except binascii.Error as error:
        problem = Problem("", "is neither JSON nor base64 of it")
        raise InvalidBootConfig((problem,)) from error
