"""A Linux that is its own root file system: the host's busybox, some modules, one script.

It boots in a few seconds without a disk, where a guest or a probe needs no more than that.
"""

import lzma
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.system.run import run
from appliance import tools

_TIMEOUT = 20.0
_FOLDERS = ("bin", "dev", "etc", "lib", "lib64", "modules", "proc", "run", "sys", "tmp", "www")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of an initramfs: its path without a leading slash, its type and mode, its content.

    A symlink's content is where it leads.
    """

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)  # major and minor number, of a character device


def initramfs(script: str, modules: Mapping[str, bytes]) -> bytes:
    """A newc archive that runs `script` as PID 1, with the modules, in this order, loaded before.

    A module's content may be compressed with xz. Raises ApplianceError without busybox.
    """
    tools.need("busybox")
    plain = {name: _plain(content) for name, content in modules.items()}
    loading = "".join(f"busybox insmod /modules/{name}.ko\n" for name in plain)
    init = f"#!/bin/busybox sh\n{_PRELUDE}{loading}{script}"
    entries = [Entry(folder, stat.S_IFDIR | 0o755) for folder in _FOLDERS]
    entries += [
        Entry("init", stat.S_IFREG | 0o755, init.encode()),
        # The kernel opens it before anything can be mounted.
        Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        *(Entry(f"modules/{name}.ko", stat.S_IFREG | 0o644, data) for name, data in plain.items()),
        *_busybox(),
    ]
    return archive(entries)


_PRELUDE = """\
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
"""


def archive(entries: Iterable[Entry]) -> bytes:
    """These entries in the format that the kernel unpacks (driver-api/early-userspace)."""
    parts = []
    for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], 1):
        name = entry.path.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, *entry.device)
        head = b"070701" + b"".join(b"%08X" % field for field in (*fields, len(name), 0))
        parts += [_padded(head + name), _padded(entry.content)]
    return b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _plain(module: bytes) -> bytes:
    return lzma.decompress(module) if module.startswith(b"\xfd7zXZ") else module


def _busybox() -> Iterator[Entry]:
    program = next(p for p in map(Path, ("/usr/bin/busybox", "/bin/busybox")) if p.exists())
    yield Entry("bin/busybox", stat.S_IFREG | 0o755, program.read_bytes())
    for applet in run([str(program), "--list"], timeout=_TIMEOUT).text.split():
        if applet != "busybox":
            yield Entry(f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox")
    # Its libraries, as the loader itself lists them; a static one has none and says so.
    listed = run(["ldd", str(program)], timeout=_TIMEOUT, check=False).text
    folders = set(_FOLDERS)
    for found in re.findall(r"(/\S+) \(0x", listed):
        path = found.lstrip("/")
        parents = [str(parent) for parent in Path(path).parents][-2::-1]
        for folder in parents:
            if folder not in folders:
                folders.add(folder)
                yield Entry(folder, stat.S_IFDIR | 0o755)
        yield Entry(path, stat.S_IFREG | 0o755, Path(found).read_bytes())
