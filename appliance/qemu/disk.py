"""Disks of machines: over an image that stays as it is, and one that forgets what was not flushed.

Killing QEMU is kinder than a power cut: what the guest had written without a flush has reached
the host's page cache, and is there afterwards, in whichever of QEMU's cache modes. So the disk of
a power cut records every write (QEMU's blklogwrites, in the format of the kernel's
dm-log-writes), and a cut leaves what had been written before the last flush: all that a disk
with a volatile cache promises.
"""

import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agent.system.run import run
from appliance import tools
from appliance.qemu.machine import Bus, Disk

_TIMEOUT = 120.0

# The format is described in the kernel's admin-guide, under device-mapper: log-writes.
_MAGIC = 0x6A736677736872
_SUPER = struct.Struct("<QQQI")  # magic, version, entries, bytes of a sector
_ENTRY = struct.Struct("<QQQQ")  # sector, sectors, flags, bytes of a mark (never here)
_FLUSH, _FUA, _DISCARD = 1, 2, 4


def overlay(image: Path, form: str, path: Path, bus: Bus = Bus.VIRTIO) -> Disk:
    """A disk over this image file, which stays as it is; `path` holds what is written.

    Where `path` exists, what was written before is there.
    """
    tools.need("qemu-img")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        backing = ["-b", str(image.resolve()), "-F", form]
        run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(path)], timeout=_TIMEOUT)
    return Disk((f"driver=qcow2,node-name=disk,file.driver=file,file.filename={path}",), bus)


def copy(contents: Path, target: Path) -> None:
    """A raw disk of one's own, with what this one has."""
    target.parent.mkdir(parents=True, exist_ok=True)
    run(["cp", "--sparse=always", str(contents), str(target)], timeout=_TIMEOUT)


def raw(path: Path, bus: Bus = Bus.VIRTIO) -> Disk:
    """A raw disk, which is written to."""
    return Disk((f"driver=raw,node-name=disk,file.driver=file,file.filename={path}",), bus)


@dataclass(frozen=True, slots=True)
class VolatileDisk:
    """A disk with a cache that a power cut empties. `raw` is what has come to stay."""

    raw: Path
    bus: Bus = Bus.VIRTIO

    @classmethod
    def copied(cls, contents: Path, raw: Path, bus: Bus = Bus.VIRTIO) -> "VolatileDisk":
        """A disk that has this raw image in it."""
        copy(contents, raw)
        return cls(raw, bus)

    def attach(self) -> Disk:
        """The disk for one run of a machine; `keep` or `cut` ends it."""
        self._written.unlink(missing_ok=True)
        self._log.unlink(missing_ok=True)
        self._log.touch()
        overlay(self.raw, "raw", self._written)
        files = "file.driver=file,file.filename="
        return Disk(
            (
                f"driver=qcow2,node-name=written,{files}{self._written}",
                f"driver=raw,node-name=log,{files}{self._log}",
                "driver=blklogwrites,node-name=disk,file=written,log=log",
            ),
            self.bus,
        )

    def cut(self) -> int:
        """Keep what had been flushed when the machine died; how many later writes were lost."""
        with self._log.open("rb") as log:
            entries = list(_entries(log))
            flushed = max((at + 1 for at, e in enumerate(entries) if e.flags & _FLUSH), default=0)
            kept = [*entries[:flushed], *(e for e in entries[flushed:] if e.flags & _FUA)]
            self._apply(log, kept)
        return len(entries) - len(kept)

    def keep(self) -> None:
        """Keep everything, as after an orderly end."""
        with self._log.open("rb") as log:
            self._apply(log, list(_entries(log)))

    def remove(self) -> None:
        """Remove its files."""
        for path in (self.raw, self._written, self._log):
            path.unlink(missing_ok=True)

    @property
    def _written(self) -> Path:
        return self.raw.with_suffix(".written")

    @property
    def _log(self) -> Path:
        return self.raw.with_suffix(".log")

    def _apply(self, log: BinaryIO, entries: "list[_Write]") -> None:
        with self.raw.open("r+b") as disk:
            for entry in entries:
                if entry.flags & _DISCARD:
                    disk.flush()
                    where = (f"--offset={entry.offset}", f"--length={entry.length}")
                    punch = ["fallocate", "--punch-hole", *where, str(self.raw)]
                    run(punch, timeout=_TIMEOUT)
                elif entry.length:
                    disk.seek(entry.offset)
                    log.seek(entry.data)
                    shutil.copyfileobj(_Part(log, entry.length), disk)


@dataclass(frozen=True, slots=True)
class _Write:
    """One entry of the log. Bytes: where on the disk, how many, and where their data is."""

    offset: int
    length: int
    data: int
    flags: int


class _Part:
    """The next bytes of a file, and no more of it."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file = file
        self._left = length

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(data)
        return data


def _entries(log: BinaryIO) -> Iterator[_Write]:
    """The complete entries of a log, in order.

    The count in its super block is written now and then only: a killed QEMU leaves a stale one.
    """
    head = log.read(_SUPER.size)
    if len(head) < _SUPER.size:
        return
    magic, _, _, sector = _SUPER.unpack(head)
    if magic != _MAGIC:
        return
    end = log.seek(0, 2)
    at = sector
    while at + sector <= end:
        log.seek(at)
        start, sectors, flags, _ = _ENTRY.unpack(log.read(_ENTRY.size))
        if not (sectors or flags):
            return  # not written yet
        size = sectors * sector
        data = at + sector
        at = data if flags & _DISCARD else data + size
        if at > end:
            return
        yield _Write(start * sector, size, data, flags)
