"""The manifest beside an image: what it is, what is in it, and what it was made from.

One JSON object. Everything in it follows from the build's inputs; its time is the lock's.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agent import __version__
from agent.system.run import CommandFailed, run
from appliance import data
from appliance.image import archive, checksums
from appliance.image.contents import Contents
from appliance.image.formats import Format

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Output:
    """A file of the image; sizes are in bytes."""

    path: Path
    sha256: str
    size: int
    virtual_size: int

    @classmethod
    def of(cls, path: Path, virtual_size: int) -> "Output":
        """The output that this file is."""
        return cls(path, checksums.sha256(path), path.stat().st_size, virtual_size)


@dataclass(frozen=True, slots=True)
class Root:
    """The root file system: its archive's SHA-256 and size, and the listing beside the image."""

    sha256: str
    size: int
    listing: Path


def render(
    *,
    name: str,
    epoch: int,
    contents: Contents,
    root: Root,
    outputs: Mapping[Format, tuple[Output, ...]],
    lock: Path,
    inputs: Mapping[str, str],
    revision: str,
) -> str:
    """The manifest as JSON text."""
    document = {
        "schema": SCHEMA,
        "name": name,
        "version": __version__,
        "revision": revision or None,
        "time": datetime.fromtimestamp(epoch, UTC).isoformat(),
        "epoch": epoch,
        "system": {
            "distribution": "debian",
            "suite": archive.SUITE,
            "architecture": archive.ARCHITECTURE,
            "kernel": contents.kernel or None,
        },
        "root": {"sha256": root.sha256, "size": root.size, "listing": root.listing.name},
        "formats": {
            str(form): [
                {
                    "file": output.path.name,
                    "size": output.size,
                    "virtual_size": output.virtual_size,
                    "sha256": output.sha256,
                }
                for output in made
            ]
            for form, made in outputs.items()
        },
        "packages": {
            "debian": [
                {
                    "name": package.name,
                    "version": package.version,
                    "architecture": package.architecture,
                }
                for package in contents.debian
            ],
            "python": [
                {"name": package.name, "version": package.version} for package in contents.python
            ],
        },
        "lock": {"file": lock.name, "sha256": checksums.sha256(lock)},
        "inputs": dict(inputs),
    }
    return json.dumps(document, indent=1) + "\n"


def inputs(*more: Path) -> Mapping[str, str]:
    """The SHA-256 of each file that a build reads: recipes, units, the agent, and `more` folders.

    Names are relative to the folder that is named first in them.
    """
    folders = {"image-recipes": data.recipes(), "systemd": data.units()}
    folders |= {"agent": data.agent_source()} | {folder.name: folder for folder in more}
    return {
        f"{label}/{path.relative_to(folder).as_posix()}": checksums.sha256(path)
        for label, folder in sorted(folders.items())
        for path in sorted(_sources(folder))
    }


def _sources(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def revision() -> str:
    """The git commit that this is built from, `+` behind it if files differ; empty without git."""
    checkout = ("git", "-C", str(data.recipes().parent))
    try:
        commit = run([*checkout, "rev-parse", "HEAD"], timeout=10).text.strip()
        changed = run([*checkout, "status", "--porcelain"], timeout=60).stdout
    except CommandFailed:
        return ""
    return f"{commit}+" if changed else commit
