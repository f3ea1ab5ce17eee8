"""An image file, looked into without mounting it: its kernel, that kernel's modules, its size."""

import json
import lzma
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.system.run import run
from appliance import tools
from appliance.errors import ApplianceError

FORMATS: Mapping[str, str] = {
    ".qcow2": "qcow2",
    ".raw": "raw",
    ".img": "raw",
    ".vhd": "vpc",
    ".vhdx": "vhdx",
    ".vmdk": "vmdk",
}
"""What QEMU calls the format of a file with this ending."""

_TIMEOUT = 120.0


def image_format(path: Path) -> str:
    """The format of an image file, by its ending. Raises ApplianceError for any other."""
    try:
        return FORMATS[path.suffix]
    except KeyError:
        raise ApplianceError(
            f"{path}: not an image that can be booted here", f"one of {', '.join(FORMATS)}"
        ) from None


def bootable(path: Path) -> bool:
    """Whether a file's name says that it is a disk's image."""
    return path.suffix in FORMATS


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in an image: its raw bytes as a sparse file, and where the root file system is."""

    raw: Path
    offset: int  # bytes

    @classmethod
    def of(cls, image: Path, folder: Path) -> "Contents":
        """Unpack an image into `folder`. Raises ApplianceError if it has no Linux in it."""
        tools.need("qemu-img", "sfdisk", "debugfs")
        folder.mkdir(parents=True, exist_ok=True)
        raw = folder / "contents.raw"
        convert = ["qemu-img", "convert", "-f", image_format(image), "-O", "raw"]
        run([*convert, str(image), str(raw)], timeout=_TIMEOUT)
        for offset in _partitions(raw):
            contents = cls(raw, offset)
            if contents.names("/boot") or contents.names("/usr/lib/modules"):
                return contents
        raise ApplianceError(f"{image}: no partition of it has a kernel in /boot")

    def names(self, folder: str) -> tuple[str, ...]:
        """What a folder of the root file system has; empty if it is not there."""
        listed = self._debugfs(f"ls -p {folder}")
        # /inode/mode/owner/group/name/size/
        found = [line.split("/")[5] for line in listed.splitlines() if line.startswith("/")]
        return tuple(name for name in found if name not in (".", "..", ""))

    def read(self, path: str) -> bytes:
        """A file of the root file system. Raises ApplianceError if it is not there."""
        target = self.raw.with_name("read")
        target.unlink(missing_ok=True)
        self._debugfs(f"dump {path} {target}")
        if not target.exists() or target.stat().st_size == 0:
            raise ApplianceError(f"the image has no {path}")
        return target.read_bytes()

    @property
    def version(self) -> str:
        """The version of its kernel."""
        found = sorted(self.names("/usr/lib/modules"))
        if not found:
            raise ApplianceError("the image has no kernel modules")
        return found[-1]

    def kernel(self, folder: Path) -> Path:
        """Its kernel, written into `folder`."""
        path = folder / "vmlinuz"
        names = self.names("/boot")
        name = next((n for n in (f"vmlinuz-{self.version}", "vmlinuz") if n in names), None)
        if name is None:
            raise ApplianceError(f"the image has no kernel in /boot, only {', '.join(names)}")
        path.write_bytes(self.read(f"/boot/{name}"))
        return path

    def modules(self, *wanted: str) -> dict[str, bytes]:
        """These modules and what they need, in the order to load them; built-in ones left out.

        Not compressed any more.
        """
        folder = f"/usr/lib/modules/{self.version}"
        needs = _dependencies(self.read(f"{folder}/modules.dep").decode())
        found: dict[str, bytes] = {}
        for name in wanted:
            for path in reversed([needs[name][0], *needs[name][1]]) if name in needs else ():
                module = _module(path)
                if module not in found:
                    content = self.read(f"{folder}/{path}")
                    found[module] = lzma.decompress(content) if path.endswith(".xz") else content
        return found

    def _debugfs(self, request: str) -> str:
        source = f"{self.raw}?offset={self.offset}"
        return run(["debugfs", "-R", request, source], timeout=_TIMEOUT, check=False).text


def _partitions(raw: Path) -> Iterator[int]:
    """Where file systems may begin, in bytes: at each partition, the largest first, or at 0."""
    done = run(["sfdisk", "--json", str(raw)], timeout=_TIMEOUT, check=False)
    if done.returncode != 0:
        yield 0
        return
    table = json.loads(done.text)["partitiontable"]
    sector = int(table.get("sectorsize", 512))
    for partition in sorted(table.get("partitions", []), key=lambda p: -p["size"]):
        yield partition["start"] * sector


def _dependencies(text: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """modules.dep(5): each module's file, and those that it needs, the last one first."""
    found = {}
    for line in text.splitlines():
        path, _, needs = line.partition(":")
        found[_module(path)] = (path, tuple(shlex.split(needs)))
    return found


def _module(path: str) -> str:
    return re.sub(r"\.ko(\.\w+)?$", "", Path(path).name).replace("-", "_")
