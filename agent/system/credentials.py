"""systemd's credentials: what whoever boots this machine hands to it (systemd.exec(5))."""

import enum
import os
from pathlib import Path

FOLDER = Path("/run/credentials/@system")


class Credential(enum.StrEnum):
    """The names that are read; no other ever is."""

    BOOT = "sysvm.boot"  # the boot configuration
    FAULT = "sysvm.fault"  # where to fail on purpose; tests only


def read(name: Credential, folder: Path = FOLDER) -> bytes | None:
    """A credential's bytes, or None where none was handed in.

    A process in a sandbox sees those only that its unit imports, in a folder of its own.
    """
    own = os.environ.get("CREDENTIALS_DIRECTORY")
    places: list[Path] = [folder, Path(own)] if own else [folder]
    for place in places:
        try:
            return (place / name).read_bytes()
        except (FileNotFoundError, PermissionError):
            continue
    return None
