"""The host's ends of the channels by which a VM is handed its boot configuration."""

import base64
import contextlib
import json
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

from agent.system.run import run
from appliance import tools
from appliance.errors import ApplianceError
from appliance.lab.wait import TookTooLong

LABEL, ON_DRIVE = "SYSVM", "boot.json"
PORT = "org.sysvm.boot.0"
GUEST_AGENT = "org.qemu.guest_agent.0"
COMMAND_LINE = "/var/cache/cloud/cmdline"  # where CloudStack's KVM host writes
FIRMWARE = "opt/io.systemd.credentials/sysvm.boot"  # a fw_cfg file's name

_TIMEOUT = 60.0
_SECTOR = 512


def drive(path: Path, configuration: bytes) -> Path:
    """A drive with a FAT file system of the label that the VM looks for."""
    tools.need("mkfs.vfat", "mcopy")
    with path.open("wb") as file:
        os.truncate(file.fileno(), 2880 * _SECTOR)
    run(["mkfs.vfat", "-n", LABEL, str(path)], timeout=_TIMEOUT)
    run(["mcopy", "-i", str(path), "-", f"::{ON_DRIVE}"], timeout=_TIMEOUT, stdin=configuration)
    return path


def send(port: Path, configuration: bytes, timeout: float) -> dict[str, Any]:
    """Send it by the virtio-serial port, which has this socket; what the VM answers.

    One line, again and again until it is answered: what comes before the guest has opened the
    port is lost. Raises TookTooLong.
    """
    line = json.dumps(json.loads(configuration)).encode() + b"\n"
    with _Lines(port) as lines:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            lines.send(line)
            if answer := lines.receive(10):
                value: dict[str, Any] = json.loads(answer)
                return value
    raise TookTooLong(f"an answer by the virtio-serial port: not within {timeout:g} s")


def write_by_agent(port: Path, content: bytes, timeout: float) -> None:
    """Have qemu-guest-agent write a file in the VM, as libvirt does. Raises ApplianceError."""
    with _Lines(port) as lines:
        _synchronise(lines, timeout)
        handle = _agent(lines, "guest-file-open", path=COMMAND_LINE, mode="w")
        encoded = base64.b64encode(content).decode()
        _agent(lines, "guest-file-write", **{"handle": handle, "buf-b64": encoded})
        _agent(lines, "guest-file-close", handle=handle)


def _synchronise(lines: "_Lines", timeout: float) -> None:
    """QEMU's docs/interop/qemu-ga-ref: wait for the answer to a number of ours."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        number = secrets.randbelow(1 << 30)
        lines.send(_command("guest-sync", id=number))
        while answer := lines.receive(5):
            with contextlib.suppress(ValueError):
                if json.loads(answer).get("return") == number:
                    return
    raise TookTooLong(f"qemu-guest-agent: no answer within {timeout:g} s")


def _agent(lines: "_Lines", command: str, **arguments: object) -> Any:
    lines.send(_command(command, **arguments))
    answer = json.loads(lines.receive(_TIMEOUT) or b"{}")
    if "return" not in answer:
        raise ApplianceError(f"qemu-guest-agent: {command}: {answer or 'no answer'}")
    return answer["return"]


def _command(command: str, **arguments: object) -> bytes:
    return json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"


class _Lines:
    """A serial port's socket, line by line."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._came = b""

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.settimeout(_TIMEOUT)
        self._socket.sendall(data)

    def receive(self, timeout: float) -> bytes:
        """The next line; nothing if none comes in time."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._came:
            left = deadline - time.monotonic()
            if left <= 0:
                return b""
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                return b""
            if not data:
                return b""
            self._came += data
        line, _, self._came = self._came.partition(b"\n")
        return line.strip()
