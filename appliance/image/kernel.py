"""The kernel's modules: those that a system VM can use stay, with what they depend on."""

import fnmatch
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from agent.system.run import run
from appliance.errors import ApplianceError

MODULES = Path("usr/lib/modules")


def version(root: Path) -> str:
    """The version of the one kernel in this root file system. Raises ApplianceError."""
    found = sorted(path.parent.name for path in (root / MODULES).glob("*/modules.builtin"))
    if len(found) != 1:
        raise ApplianceError(f"{root} has {len(found)} kernels ({', '.join(found)}), not one")
    return found[0]


def module_name(path: str) -> str:
    """A module's name, as modprobe(8) knows it, from the path of its file."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def dependencies(text: str) -> Mapping[str, tuple[str, ...]]:
    """Which files each file needs, from `modules.dep` (depmod(8)), in the order of insertion."""
    found = {}
    for line in text.splitlines():
        path, _, needed = line.partition(":")
        found[path] = tuple(reversed(needed.split()))
    return found


def kept(patterns: Iterable[str], needs: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    """The module files that these patterns name, and those that they depend on.

    A pattern is a module's name, with `*` or without, or a folder below the kernel's modules with
    `/` at its end.
    """
    wanted: set[str] = set()
    for pattern in patterns:
        if pattern.endswith("/"):
            wanted.update(path for path in needs if path.startswith(f"kernel/{pattern}"))
        else:
            name = pattern.replace("-", "_")
            wanted.update(path for path in needs if fnmatch.fnmatchcase(module_name(path), name))
    return frozenset(wanted.union(*(needs[path] for path in wanted)))


def prune(root: Path, patterns: Iterable[str]) -> None:
    """Remove the modules that no pattern asks for, and index the others anew."""
    release = version(root)
    folder = root / MODULES / release
    stay = kept(patterns, dependencies((folder / "modules.dep").read_text()))
    for path in sorted((folder / "kernel").rglob("*.ko*")):
        if str(path.relative_to(folder)) not in stay:
            path.unlink()
    for path in sorted((folder / "kernel").rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            shutil.rmtree(path)
    run(["chroot", str(root), "depmod", release], timeout=60)
