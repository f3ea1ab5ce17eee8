"""systemd's credentials: what whoever boots this machine hands to it (systemd.exec(5))."""

import enum
from pathlib import Path

FOLDER = Path("/run/credentials/@system")


class Credential(enum.StrEnum):
    """The names that are read; no other ever is."""

    BOOT = "sysvm.boot"  # the boot configuration
    FAULT = "sysvm.fault"  # where to fail on purpose; tests only


def read(name: Credential, folder: Path = FOLDER) -> bytes | None:
    """A credential's bytes, or None where none was handed in."""
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        return None
