"""Kernel settings below /proc/sys."""

import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from agent.engine.model import Sysctl
from agent.system.files import told_as

ROOT = Path("/proc/sys")
HOSTNAME = "kernel.hostname"


def path_of(key: str, root: Path = ROOT) -> Path:
    """The file of a dotted key; a '/' in it stands for a dot inside a NIC's name (sysctl(8))."""
    return root / key.translate(str.maketrans("./", "/."))


def observe(keys: Iterable[str], root: Path = ROOT) -> Mapping[str, str]:
    """The value of each key that this kernel has, blanks collapsed."""
    found = {}
    for key in keys:
        try:
            found[key] = _canonical(path_of(key, root).read_text())
        except FileNotFoundError:
            continue
    return found


def put(sysctl: Sysctl, root: Path = ROOT) -> None:
    """Set a key, unless it has that value: some act each time that they are written."""
    path = path_of(sysctl.key, root)
    with told_as(f"set {sysctl.key}"):
        if sysctl.key == HOSTNAME:  # by its own call: /proc/sys is read-only in a container
            socket.sethostname(sysctl.value)
        elif _canonical(path.read_text()) != _canonical(sysctl.value):
            path.write_text(sysctl.value)


def put_if_there(sysctl: Sysctl, root: Path = ROOT) -> None:
    """Set a key of a NIC that may have gone."""
    if path_of(sysctl.key, root).exists():
        put(sysctl, root)


def _canonical(text: str) -> str:
    return " ".join(text.split())
