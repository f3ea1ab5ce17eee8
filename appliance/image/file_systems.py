"""The disk's ext4 file systems, laid out anew: two disks of one root file system are equal.

diskimage-builder has the kernel fill them, which gives each file the time of day, a random number
and whatever blocks are free just then. mke2fs(8) fills one in the order of the tree instead; what
it takes of the files' own times is set to the build's (SOURCE_DATE_EPOCH).
"""

import os
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent.system.run import run
from appliance import data
from appliance.image import block_device, steps

_TIMEOUT = 300.0
_LAYOUT = "elements/sysvm-boot/block-device-default.yaml"


@dataclass(frozen=True, slots=True)
class FileSystem:
    """What mkfs.ext4(8) is told to make on a partition."""

    partition: str
    label: str
    uuid: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inode:
    """A file as its file system has it. `modified` is in seconds since 1970."""

    number: int
    modified: int


def layout() -> tuple[FileSystem, ...]:
    """The ext4 file systems of the template's disk, as its element describes them to DIB."""
    nodes: list[Mapping[str, Any]] = yaml.safe_load((data.recipes() / _LAYOUT).read_text())
    partitions = next(node["sysvm_partitioning"] for node in nodes if "sysvm_partitioning" in node)
    return tuple(
        FileSystem(
            entry["name"],
            entry["mkfs"]["label"],
            entry["mkfs"]["uuid"],
            tuple(shlex.split(entry["mkfs"]["opts"])),
        )
        for entry in partitions["partitions"]
        if entry.get("mkfs", {}).get("type") == "ext4"
    )


def settle(disk: Path, epoch: int) -> None:
    """Lay out every file system of this raw disk anew; `epoch` is what its files' times become.

    Those of the last change are kept where they are earlier. Raises CommandFailed.
    """
    steps.in_private_mounts("settle", disk, epoch=epoch)


def settle_in_place(disk: Path, epoch: int) -> None:
    """What `settle` has done in a process with mounts of its own."""
    partitions = block_device.table(disk)
    with tempfile.TemporaryDirectory(dir=disk.parent) as scratch:
        for wanted in layout():
            if wanted.partition in partitions:
                place = partitions[wanted.partition]
                made = Path(scratch) / f"{wanted.partition}.ext4"
                _fill(wanted, disk, place, made, epoch)
                _replace(disk, place, made)
                made.unlink()


def requests(inodes: Iterable[Inode], epoch: int) -> str:
    """What debugfs(8) is asked for, so that no inode tells the moment of the build."""
    lines: list[str] = []
    for inode in sorted(inodes, key=lambda inode: inode.number):
        names = ["atime", "ctime", *(["mtime"] if inode.modified > epoch else [])]
        lines += [f"sif <{inode.number}> {name} @{epoch}" for name in names]
    return "".join(f"{line}\n" for line in lines)


def _fill(
    wanted: FileSystem, disk: Path, place: block_device.Partition, made: Path, epoch: int
) -> None:
    with made.open("wb") as file:
        os.truncate(file.fileno(), place.size)
    # Both names, for e2fsprogs before and since 1.47.1.
    env = {"E2FSPROGS_FAKE_TIME": str(epoch), "SOURCE_DATE_EPOCH": str(epoch)}
    where = (f"offset={place.start}", f"sizelimit={place.size}")
    named = ("-L", wanted.label, "-U", wanted.uuid)
    with _mounted(disk, *where) as tree:
        argv = ["mkfs.ext4", "-q", *wanted.options, *named, "-d", str(tree), str(made)]
        run(argv, timeout=_TIMEOUT, env=env)
    with _mounted(made) as tree:
        text = requests(_inodes(tree), epoch)
    asked = made.with_suffix(".requests")
    asked.write_text(text)
    run(["debugfs", "-w", "-f", str(asked), str(made)], timeout=_TIMEOUT, env=env)
    asked.unlink()
    run(["e2fsck", "-f", "-n", str(made)], timeout=_TIMEOUT, env=env)


def _replace(disk: Path, place: block_device.Partition, made: Path) -> None:
    """Put a file system onto its partition; what is empty in it stays a hole."""
    where = (f"--offset={place.start}", f"--length={place.size}")
    run(["fallocate", "--punch-hole", *where, str(disk)], timeout=_TIMEOUT)
    size = block_device.MIB
    into = (f"of={disk}", f"bs={size}", f"seek={place.start // size}", "conv=notrunc,sparse")
    run(["dd", f"if={made}", *into, "status=none"], timeout=_TIMEOUT)


@contextmanager
def _mounted(file: Path, *options: str) -> Iterator[Path]:
    """A file system in a file, mounted read-only; its loop device ends with the mount."""
    tree = Path(tempfile.mkdtemp(prefix="sysvm-settle-"))
    try:
        chosen = ",".join(("ro", "noload", "loop", *options))
        run(["mount", "-t", "ext4", "-o", chosen, str(file), str(tree)], timeout=_TIMEOUT)
        try:
            yield tree
        finally:
            steps.unmount(tree)
    finally:
        tree.rmdir()


def _inodes(tree: Path) -> Iterator[Inode]:
    """Every file once, whatever its names."""
    found = {}
    for folder, folders, files in os.walk(tree):
        for name in (".", *folders, *files):
            status = os.lstat(os.path.join(folder, name))  # noqa: PTH118  # fifteen thousand
            found[status.st_ino] = Inode(status.st_ino, int(status.st_mtime))
    yield from found.values()
