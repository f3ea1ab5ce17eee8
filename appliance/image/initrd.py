"""The initrd: busybox, one script, and the drivers of what a root file system can lie on.

An archive in cpio's "newc" format (the kernel's Documentation/driver-api/early-userspace/
buffer-format.rst), packed by zstd; equal bit for bit for equal content.
"""

import lzma
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.system.run import run
from appliance import data, tools
from appliance.image import kernel
from appliance.image.recipe import listed

_FOLDERS = ("bin", "dev", "lib", "proc", "root", "run", "sys", "tmp")
_APPLETS = (
    *("cat", "chroot", "cp", "dd", "find", "grep", "mkdir", "modprobe", "mount", "mv", "od", "rm"),
    *("readlink", "reboot", "sh", "sleep", "sort", "switch_root", "sync", "tr", "umount", "xargs"),
)
_TIMEOUT = 120.0
_FOLDER, _FILE, _LINK, _CHARACTERS = 0o040755, 0o100644, 0o120777, 0o020600


@dataclass(frozen=True, slots=True)
class Entry:
    """A member of the archive: mode with its kind (inode(7)), content, and a device's numbers."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def build(root: Path, tools_root: Path) -> bytes:
    """The initrd for the kernel of this root file system.

    `tools_root` is a root file system with a static busybox. Raises CommandFailed,
    ApplianceError.
    """
    tools.need("zstd")
    element = data.recipes() / "elements/sysvm-boot/initrd"
    entries = [Entry(name, _FOLDER) for name in _FOLDERS]
    entries += [
        # Before devtmpfs is mounted, the kernel opens it for init.
        Entry("dev/console", _CHARACTERS, device=(5, 1)),
        Entry("init", _FILE | 0o111, (element / "init").read_bytes()),
        Entry("bin/busybox", _FILE | 0o111, (tools_root / "usr/bin/busybox").read_bytes()),
        *(Entry(f"bin/{name}", _LINK, b"busybox") for name in _APPLETS),
        *modules(root, listed(element / "modules")),
    ]
    return run(
        ["zstd", "-19", "--quiet", "--stdout", "--threads=1"],
        timeout=_TIMEOUT,
        stdin=archive(entries),
    ).stdout


def modules(root: Path, patterns: Iterable[str]) -> tuple[Entry, ...]:
    """These modules, unpacked (the archive is packed as a whole), and busybox's indexes of them."""
    release = kernel.version(root)
    folder = root / kernel.MODULES / release
    needs = kernel.dependencies((folder / "modules.dep").read_text())
    stay = sorted(kernel.kept(patterns, needs))
    names = {path: unpacked_name(path) for path in stay}
    base = f"lib/modules/{release}"
    folders = {base, "lib/modules"}
    for name in names.values():
        above = Path(base) / name
        folders.update(str(parent) for parent in above.parents if str(parent).startswith(base))
    contents = [
        Entry(f"{base}/{names[path]}", _FILE, unpacked((folder / path).read_bytes(), path))
        for path in stay
    ]
    index = {
        "modules.dep": dependency_index(names, needs),
        "modules.alias": alias_index(names.values(), (folder / "modules.alias").read_text()),
        "modules.symbols": "",
    }
    return (
        *(Entry(name, _FOLDER) for name in sorted(folders)),
        *contents,
        *(Entry(f"{base}/{name}", _FILE, text.encode()) for name, text in index.items()),
    )


def unpacked_name(path: str) -> str:
    """A module file's name without the compressor's suffix."""
    return path.removesuffix(".xz")


def unpacked(content: bytes, path: str) -> bytes:
    """What is in a module file."""
    return lzma.decompress(content) if path.endswith(".xz") else content


def dependency_index(names: Mapping[str, str], needs: Mapping[str, tuple[str, ...]]) -> str:
    """`modules.dep` of these modules, under their new names."""
    lines = []
    for path, name in sorted(names.items()):
        needed = " ".join(names[other] for other in reversed(needs[path]))
        lines.append(f"{name}: {needed}".rstrip())
    return "".join(f"{line}\n" for line in lines)


def alias_index(names: Iterable[str], text: str) -> str:
    """The lines of `modules.alias` that lead to one of these modules."""
    there = {kernel.module_name(name) for name in names}
    lines = (line for line in text.splitlines() if line.startswith("alias "))
    return "".join(f"{line}\n" for line in lines if line.split()[-1] in there)


def archive(entries: Iterable[Entry]) -> bytes:
    """A cpio archive of these members: sorted by path, root's, made at the epoch."""
    parts = []
    for number, entry in enumerate(sorted(entries, key=lambda entry: entry.path), 1):
        parts.append(_member(entry, number))
    parts.append(_member(Entry("TRAILER!!!", 0), 0))
    return b"".join(parts)


def _member(entry: Entry, inode: int) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if entry.mode & 0o170000 == 0o040000 else 1
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device)
    head = b"070701" + b"".join(b"%08X" % field for field in (*fields, len(name), 0))
    return _padded(head + name) + _padded(entry.content)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)
