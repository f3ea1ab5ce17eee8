"""What a lab leaves on disk about itself, so that any process can find it and take it down."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from appliance.lab.process import Identity

NAME = re.compile(r"[a-z][a-z0-9]{0,20}")
"""A lab's name: a part of the names of name spaces and containers, without their separator."""


def folder() -> Path:
    """Where labs keep their state: SYSVM_LAB, or /run/sysvm-lab."""
    return Path(os.environ.get("SYSVM_LAB", "/run/sysvm-lab"))


def names() -> Iterator[str]:
    """The labs that exist, wholly or in part."""
    for path in sorted(folder().glob("*/")):
        if NAME.fullmatch(path.name):
            yield path.name


def layers() -> frozenset[Path]:
    """The layers that labs' system VMs are made of, running or not."""
    found = (Container(path.parent).settings() for path in folder().glob("*/**/settings.json"))
    return frozenset(Path(lower) for settings in found for lower in settings.lowers)


@dataclass(frozen=True, slots=True)
class Container:
    """The folder of one system VM's container, and what is known of its processes."""

    path: Path

    @property
    def upper(self) -> Path:
        """What the VM wrote: its disk, over the template's layers."""
        return self.path / "upper"

    @property
    def credentials(self) -> Path:
        """Files that systemd in the VM finds as credentials, by their names."""
        return self.path / "credentials"

    @property
    def console(self) -> Path:
        """What the container's supervisor and its console said."""
        return self.path / "console.log"

    def settings(self) -> "Settings":
        """What the container is to be."""
        return Settings(**json.loads((self.path / "settings.json").read_text()))

    def configure(self, settings: "Settings") -> None:
        """Write down what the container is to be."""
        write(self.path / "settings.json", asdict(settings))

    def status(self) -> "Status":
        """What its supervisor last wrote down."""
        try:
            value = json.loads((self.path / "status.json").read_text())
        except FileNotFoundError:
            return Status()
        return Status(
            boots=value["boots"],
            supervisor=_identity(value["supervisor"]),
            nspawn=_identity(value["nspawn"]),
            leader=_identity(value["leader"]),
        )

    def report(self, status: "Status") -> None:
        """Write down what runs."""
        write(self.path / "status.json", asdict(status))


@dataclass(frozen=True, slots=True)
class Settings:
    """What a supervisor needs to know: plain values, for they cross a file."""

    lab: str
    node: str
    topology: str
    lowers: list[str]


@dataclass(frozen=True, slots=True)
class Status:
    """A container's processes; `boots` counts the times that its systemd was started."""

    boots: int = 0
    supervisor: Identity | None = None
    nspawn: Identity | None = None
    leader: Identity | None = None


def write(path: Path, value: object) -> None:
    """Replace a JSON file in one step: a reader sees the old one or the new one."""
    partial = path.with_name(f".{path.name}")
    partial.touch(mode=0o600)
    partial.write_text(json.dumps(value))
    partial.rename(path)


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote."""
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def _identity(value: dict[str, int] | None) -> Identity | None:
    return None if value is None else Identity(**value)
