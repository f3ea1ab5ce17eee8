"""The root file system as one tar that is the same whenever it is built from the same.

Paths are sorted, owners are numbers, times are never later than the lock's, and of the extended
attributes only capabilities are kept. What belongs to a running system (/dev, /proc, /run, /sys,
/tmp) is an empty folder.
"""

import shutil
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

from appliance.image import cache, listing, rootfs, steps

TAR, LISTING = "root.tar", "root.mtree"
_EMPTY = frozenset({"dev", "proc", "run", "sys", "tmp"})


def of(layers: rootfs.Layers) -> Path:
    """The folder, in the cache, with root.tar and root.mtree of these layers."""
    epoch = layers.lock.epoch
    code = (Path(__file__), Path(listing.__file__))
    name = cache.digest(*code, str(epoch), *(layer.name for layer in layers.lowers))

    def build(folder: Path) -> None:
        steps.in_private_mounts("archive", folder, *layers.lowers, epoch=epoch)

    return cache.make("root", name, build)


def place(layers: rootfs.Layers, folder: Path) -> None:
    """Put root.tar and root.mtree of these layers into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    made = of(layers)
    for name in (TAR, LISTING):
        shutil.copyfile(made / name, folder / name)


def write(root: Path, folder: Path, epoch: int) -> None:
    """Write `folder`/root.tar and `folder`/root.mtree of the root file system at `root`."""
    found: dict[str, listing.Entry] = {}
    first: dict[tuple[int, int], str] = {}
    with tarfile.open(folder / TAR, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in _kept(root):
            name = path.relative_to(root).as_posix()
            about = path.lstat()
            found[name] = listing.entry(path, about)
            member = archive.gettarinfo(path, f"./{name}")
            member.uname = member.gname = ""
            member.mtime = min(int(about.st_mtime), epoch)
            capability = listing.capability(path)
            if capability:
                value = capability.decode("utf-8", "surrogateescape")
                member.pax_headers = {f"SCHILY.xattr.{listing.CAPABILITY}": value}
            if stat.S_ISREG(about.st_mode):
                # A second name of a file refers to its first, in the order of names.
                identity = (about.st_dev, about.st_ino)
                original = first.setdefault(identity, member.name)
                linked = original != member.name and about.st_nlink > 1
                member.type = tarfile.LNKTYPE if linked else tarfile.REGTYPE
                member.linkname = original if linked else ""
                member.size = 0 if linked else about.st_size
                if not linked:
                    with path.open("rb") as content:
                        archive.addfile(member, content)
                    continue
            archive.addfile(member)
    (folder / LISTING).write_text(listing.render(found))


def _kept(root: Path) -> Iterator[Path]:
    for path in listing.walk(root):
        parts = path.relative_to(root).parts
        if (parts[0] in _EMPTY and len(parts) > 1) or stat.S_ISSOCK(path.lstat().st_mode):
            continue
        yield path
