"""The root file system as one tar that is the same whenever it is built from the same.

Paths are sorted, owners are numbers, times are never later than the lock's, and of the extended
attributes only capabilities are kept. What belongs to a running system (/dev, /proc, /run, /sys,
/tmp) is an empty folder.
"""

import hashlib
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from appliance.image import cache, listing, rootfs, steps

TAR, LISTING = "root.tar", "root.mtree"
_DIGEST = "root.sha256"
_EMPTY = frozenset({"dev", "proc", "run", "sys", "tmp"})


@dataclass(frozen=True, slots=True)
class Account:
    """What can be said of an archive without having it: size in bytes, digest, and listing."""

    sha256: str
    size: int
    listing: Path


def account(layers: rootfs.Layers) -> Account:
    """What the archive of these layers would be; kept in the cache."""
    epoch = layers.lock.epoch
    code = (Path(__file__), Path(listing.__file__))
    name = cache.digest(*code, str(epoch), *(layer.name for layer in layers.lowers))

    def build(folder: Path) -> None:
        steps.in_private_mounts("account", folder, *layers.lowers, epoch=epoch)

    made = cache.make("root", name, build)
    digest, size = (made / _DIGEST).read_text().split()
    return Account(digest, int(size), made / LISTING)


def place(layers: rootfs.Layers, folder: Path) -> None:
    """Put root.tar and root.mtree of these layers into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    steps.in_private_mounts("archive", folder, *layers.lowers, epoch=layers.lock.epoch)


def write(root: Path, folder: Path, epoch: int) -> None:
    """Write `folder`/root.tar and `folder`/root.mtree of the root file system at `root`."""
    with (folder / TAR).open("wb") as file:
        _write(root, folder, epoch, file)


def write_account(root: Path, folder: Path, epoch: int) -> None:
    """Write `folder`/root.mtree, and what `write` would make, to `folder`/root.sha256."""
    sink = _write(root, folder, epoch, None)
    (folder / _DIGEST).write_text(f"{sink.sha256.hexdigest()} {sink.size}\n")


def _write(root: Path, folder: Path, epoch: int, file: BinaryIO | None) -> "_Sink":
    sink = _Sink(file)
    found: dict[str, listing.Entry] = {}
    first: dict[tuple[int, int], str] = {}
    written = cast("IO[bytes]", sink)  # of which a stream ("w|") needs nothing but write
    with tarfile.open(fileobj=written, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path in _kept(root):
            name = path.relative_to(root).as_posix()
            about = path.lstat()
            member = archive.gettarinfo(path, f"./{name}")
            member.uname = member.gname = ""
            member.mtime = min(int(about.st_mtime), epoch)
            capability = listing.capability(path)
            if capability:
                value = capability.decode("utf-8", "surrogateescape")
                member.pax_headers = {f"SCHILY.xattr.{listing.CAPABILITY}": value}
            if not stat.S_ISREG(about.st_mode):
                archive.addfile(member)
                found[name] = listing.entry(path, about)
                continue
            # A second name of a file refers to its first, in the order of names.
            original = first.setdefault((about.st_dev, about.st_ino), name)
            if original != name:
                member.type, member.linkname, member.size = tarfile.LNKTYPE, f"./{original}", 0
                archive.addfile(member)
                found[name] = found[original]
                continue
            member.type, member.linkname, member.size = tarfile.REGTYPE, "", about.st_size
            with path.open("rb") as opened:
                content = _Source(opened)
                archive.addfile(member, content)
            found[name] = listing.entry(path, about, content.sha256.hexdigest())
    (folder / LISTING).write_text(listing.render(found))
    return sink


class _Sink:
    """Takes an archive: counts it, digests it, and writes it where it shall be kept."""

    def __init__(self, file: BinaryIO | None) -> None:
        self.sha256 = hashlib.sha256()
        self.size = 0
        self._file = file

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        self.size += len(content)
        if self._file is not None:
            self._file.write(content)
        return len(content)


class _Source:
    """A file that is digested while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.sha256 = hashlib.sha256()
        self._file = file

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self.sha256.update(content)
        return content


def _kept(root: Path) -> Iterator[Path]:
    for path in listing.walk(root):
        parts = path.relative_to(root).parts
        if (parts[0] in _EMPTY and len(parts) > 1) or stat.S_ISSOCK(path.lstat().st_mode):
            continue
        yield path
