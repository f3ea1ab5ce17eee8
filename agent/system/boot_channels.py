"""The channels by which a hypervisor hands in the boot configuration: small, dumb readers.

Each looks at one place, gives back bytes, and interprets nothing. A channel that this hypervisor
cannot offer is not looked at; one that is not there has nothing. Sizes and times are bounded.
What was there but could not be read is found all the same, with the problem: it is somebody's
broken hand-in, and no reason to look further.
"""

import contextlib
import errno
import functools
import json
import logging
import os
import select
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent.document.boot_source import (
    LARGEST,
    Form,
    Found,
    Source,
    form_of,
    of_kernel,
    of_kvp,
    too_large,
)
from agent.engine.model import Problem
from agent.system import credentials, files
from agent.system.credentials import Credential
from agent.system.run import CommandFailed, run

log = logging.getLogger(__name__)

LABEL = "SYSVM"  # of the drive's file system
ON_DRIVE = "boot.json"
KEY = "sysvm.boot"
CLOUDSTACK_KVP = "cloudstack-vm-userdata"

DEVICE_WAIT = 15  # seconds for which devices may be late
_ASK_TIMEOUT = 5.0  # seconds; the hypervisor answers at once, or is not the one that we think
_MOUNT_TIMEOUT = 15.0  # seconds
_ANSWER_TIMEOUT = 2.0  # seconds
_LINE_TIMEOUT = 3.0  # seconds from one piece of a line to the next
_PAUSE = 0.1  # seconds between two looks at a port that no host has opened

# What systemd-detect-virt(1) says of containers. Their /proc/cmdline is the host's.
_CONTAINERS = frozenset(
    {
        "systemd-nspawn", "lxc", "lxc-libvirt", "docker", "podman", "rkt", "wsl", "proot", "pouch",
        "openvz", "container-other",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Places:
    """Where the channels are on this machine."""

    credentials: Path = field(default_factory=credentials.folder)
    mount_point: Path = Path("/run/sysvm/boot-drive")
    file_systems: tuple[str, ...] = ("vfat", "iso9660")
    kernel: Path = Path("/proc/cmdline")
    port: Path = Path("/dev/virtio-ports/org.sysvm.boot.0")
    from_port: Path = Path("/run/sysvm/handed-in/port.json")  # what came by it, once understood
    guest_agent: Path = Path("/var/cache/cloud/cmdline")
    udev: Path = Path("/run/udev/control")
    kvp_pool: Path = Path("/var/lib/hyperv/.kvp_pool_0")
    blkid: str = "/usr/sbin/blkid"
    rpctool: str = "/usr/bin/vmware-rpctool"
    xenstore_read: str = "/usr/bin/xenstore-read"


@functools.cache
def virtualization() -> str:
    """What this machine runs on, in the words of systemd-detect-virt(1); `none` if unknown."""
    try:
        said = run(["systemd-detect-virt"], timeout=_ASK_TIMEOUT, check=False)
    except CommandFailed as error:
        log.warning("%s", error)
        return "none"
    return said.text.strip() or "none"


def wait_for_devices(places: Places) -> bool:
    """Wait until udev is through with what was there at power-on; False where there is no udev.

    A CD's drive may be found seconds after the disk that the VM runs from.
    """
    if not places.udev.exists():
        return False
    try:
        run(["udevadm", "settle", f"--timeout={DEVICE_WAIT}"], timeout=DEVICE_WAIT + 5, check=False)
    except CommandFailed as error:
        log.warning("%s", error)
    return True


def look(places: Places, hypervisor: str = "", port_wait: float = 0.0) -> Found | None:
    """The first channel's that has something, in the order of `Source`.

    The `hypervisor` is asked for where it is not given and a channel depends on it. `port_wait` is
    for how many seconds the host may take to send by the virtio-serial port.
    """
    for channel in _offered(places, hypervisor, port_wait):
        if (found := channel()) is not None:
            return found
    return None


def _offered(
    places: Places, hypervisor: str, port_wait: float
) -> Iterator[Callable[[], Found | None]]:
    yield lambda: _credential(places)
    yield lambda: _drive(places)
    hypervisor = hypervisor or virtualization()
    if hypervisor not in _CONTAINERS:
        yield lambda: _kernel(places)
    yield lambda: _port(places, port_wait)
    yield lambda: _guest_agent(places)
    match hypervisor:
        case "vmware":
            yield lambda: _vmware(places)
        case "xen":
            yield lambda: _xenstore(places)
        case "microsoft":
            yield lambda: _hyper_v(places)


# -- files -------------------------------------------------------------------------------------


def _credential(places: Places) -> Found | None:
    """systemd.exec(5): SMBIOS type 11, fw_cfg, or the container's manager."""
    return _file(Source.CREDENTIAL, places.credentials / Credential.BOOT)


def _kernel(places: Places) -> Found | None:
    found = _file(Source.KERNEL, places.kernel)
    return found if found is None or found.problem else of_kernel(found.data)


def _guest_agent(places: Places) -> Found | None:
    """What qemu-guest-agent wrote for the host, which may be later than the boot."""
    found = _file(Source.GUEST_AGENT, places.guest_agent)
    if found is None or found.problem:
        return found
    data = found.data.strip()
    return Found(found.source, form_of(data), data) if data else None


def _file(source: Source, path: Path, *, follow: bool = True) -> Found | None:
    """A regular file's bytes; None where there is none."""
    data = b""
    problem: Problem | None = None
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        link = error.errno == errno.ELOOP
        said = "is a symbolic link" if link else f"cannot be read: {error.strerror}"
        return Found(source, Form.JSON, data, Problem("", f"{path.name} {said}"))
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            with os.fdopen(os.dup(descriptor), "rb") as stream:
                data = stream.read(LARGEST + 1)
            if len(data) > LARGEST:
                data, problem = b"", too_large()
        else:
            problem = Problem("", f"{path.name} is not a file")
    except OSError as error:
        problem = Problem("", f"{path.name} cannot be read: {error.strerror}")
    finally:
        os.close(descriptor)
    return Found(source, Form.JSON, data, problem)


# -- the labelled drive ------------------------------------------------------------------------


def _drive(places: Places) -> Found | None:
    """`boot.json` on the file system that is labelled SYSVM."""
    argv = [places.blkid, "-c", "/dev/null", "-L", LABEL]
    try:
        device = run(argv, timeout=_MOUNT_TIMEOUT, check=False).text.strip()
    except CommandFailed as error:
        log.warning("no labelled drive can be looked for: %s", error)
        return None
    if not device:
        return None
    try:
        with _mounted(device, places) as folder:
            found = _file(Source.DRIVE, folder / ON_DRIVE, follow=False)
    except CommandFailed as error:
        said = error.stderr.decode(errors="replace").strip() or error.reason
        found = _broken_drive(f"cannot be mounted: {said}")
    except OSError as error:
        found = _broken_drive(f"cannot be mounted: {error.strerror}")
    return found or _broken_drive(f"has no {ON_DRIVE}")


def _broken_drive(said: str) -> Found:
    return Found(Source.DRIVE, Form.JSON, b"", Problem("", f"the drive labelled {LABEL} {said}"))


@contextlib.contextmanager
def _mounted(device: str, places: Places) -> Iterator[Path]:
    """A file system, for reading, where root alone sees it, and for as short as can be."""
    point = places.mount_point
    files.make_folder(point, 0o700)
    options = "ro,nosuid,nodev,noexec"
    kinds = ",".join(places.file_systems)
    run(["mount", "-t", kinds, "-o", options, "--", device, str(point)], timeout=_MOUNT_TIMEOUT)
    try:
        yield point
    finally:
        try:
            run(["umount", "--", str(point)], timeout=_MOUNT_TIMEOUT)
        except CommandFailed as error:
            log.warning("%s", error)
            run(["umount", "--lazy", "--", str(point)], timeout=_MOUNT_TIMEOUT, check=False)


# -- virtio-serial -----------------------------------------------------------------------------


def _port(places: Places, wait: float) -> Found | None:
    """What came by the port before in this boot, or what comes by it within `wait` seconds."""
    if (found := _file(Source.VIRTIO_SERIAL, places.from_port)) is not None:
        return found
    data = receive(places.port, wait)
    return None if data is None else Found(Source.VIRTIO_SERIAL, Form.JSON, data)


def receive(port: Path, wait: float) -> bytes | None:
    """A line from a serial port, or what came before the host closed it; None if nothing did.

    One byte more than may be read is given back where it has no end. Only one process at a time
    can have such a port open.
    """
    try:
        descriptor = os.open(port, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.EBUSY, errno.ENXIO}:
            log.warning("%s cannot be opened: %s", port, error.strerror)
        return None
    try:
        data = _line(descriptor, time.monotonic() + wait)
    finally:
        os.close(descriptor)
    return _latest(data.strip()) or None


def _latest(data: bytes) -> bytes:
    """The last of several lines: a host says it again, or another thing, until it is answered."""
    lines = [line.strip() for line in data.splitlines()]
    whole = [line for line in lines if line.startswith(b"{") and line.endswith(b"}")]
    # Where the first line is not whole by itself, one value is spread over all of them.
    return whole[-1] if whole and whole[0] == lines[0] else data


def _line(descriptor: int, deadline: float) -> bytes:
    data = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while b"\n" not in data.lstrip() and len(data) <= LARGEST:
        left = deadline - time.monotonic()
        events = poll.poll(max(left, 0) * 1000)
        piece = b""
        if events and events[0][1] & select.POLLIN:
            with contextlib.suppress(BlockingIOError, OSError):  # EIO: the other end has gone
                piece = os.read(descriptor, LARGEST)
        if piece:
            data += piece
            deadline = max(deadline, time.monotonic() + _LINE_TIMEOUT)
        elif data.strip() and events:  # the host has closed it
            break
        elif left <= 0:
            return b""  # half a line is none: it may come whole later
        elif events:
            time.sleep(min(_PAUSE, left))
    return data


def answer(port: Path, problems: tuple[Problem, ...]) -> None:
    """Tell the host by the port, in one line, whether what it sent is accepted."""
    told = [{"path": p.path, "message": p.message, "hint": p.hint} for p in problems]
    value = {"result": "refused" if told else "accepted", "problems": told}
    line = json.dumps(value).encode() + b"\n"
    try:
        descriptor = os.open(port, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        log.warning("%s cannot be answered by: %s", port, error.strerror)
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    try:
        while line and poll.poll(_ANSWER_TIMEOUT * 1000):
            line = line[os.write(descriptor, line) :]
    except OSError as error:
        log.warning("%s cannot be answered by: %s", port, error.strerror)
    finally:
        os.close(descriptor)


# -- what hypervisors' tools say ---------------------------------------------------------------


def _vmware(places: Places) -> Found | None:
    """guestinfo.sysvm.boot of the VM's settings, or CloudStack's machine.id."""
    if data := _asked([places.rpctool, f"info-get guestinfo.{KEY}"]):
        return Found(Source.VMWARE, Form.ENCODED, data)
    if data := _asked([places.rpctool, "machine.id.get"]):
        return Found(Source.VMWARE, Form.CLOUDSTACK, data)
    return None


def _xenstore(places: Places) -> Found | None:
    """vm-data/sysvm/boot, or CloudStack's vm-data/cloudstack/init."""
    if data := _asked([places.xenstore_read, "vm-data/sysvm/boot"]):
        return Found(Source.XENSTORE, Form.ENCODED, data)
    if data := _asked([places.xenstore_read, "vm-data/cloudstack/init"]):
        return Found(Source.XENSTORE, Form.CLOUDSTACK, data.replace(b"%", b" "))
    return None


def _asked(argv: list[str]) -> bytes:
    """What a tool prints; nothing where it has nothing or is not there."""
    try:
        said = run(argv, timeout=_ASK_TIMEOUT, check=False)
    except CommandFailed as error:
        log.warning("%s", error)
        return b""
    return said.stdout.strip() if said.returncode == 0 else b""


def _hyper_v(places: Places) -> Found | None:
    """The pool of pairs that come from the host; hv_kvp_daemon keeps it."""
    pool = _file(Source.HYPER_V, places.kvp_pool)
    if pool is None or pool.problem:
        return pool
    if data := of_kvp(pool.data, KEY):
        return Found(Source.HYPER_V, Form.ENCODED, data)
    if data := of_kvp(pool.data, CLOUDSTACK_KVP):
        return Found(Source.HYPER_V, Form.CLOUDSTACK, data.replace(b"%", b" "))
    return None
