"""systemd's credentials: what whoever boots this machine hands to it (systemd.exec(5))."""

import enum
import os
from pathlib import Path

FOLDER = Path("/run/credentials/@system")


class Credential(enum.StrEnum):
    """The names that are read; no other ever is."""

    BOOT = "sysvm.boot"  # the boot configuration
    FAULT = "sysvm.fault"  # where to fail on purpose; tests only


def folder() -> Path:
    """Where this process sees credentials.

    One in a sandbox sees those only that its unit imports, in a folder of its own.
    """
    return Path(os.environ.get("CREDENTIALS_DIRECTORY", FOLDER))


def read(name: Credential) -> bytes | None:
    """A credential's bytes, or None where none was handed in."""
    try:
        return (folder() / name).read_bytes()
    except (FileNotFoundError, PermissionError):
        return None
