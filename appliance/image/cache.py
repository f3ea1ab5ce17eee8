"""Folders named after the hash of all that they were made from, so that nothing is built twice.

A folder is built beside its final name and renamed into place: one that exists is complete,
whatever was interrupted. Builders of the same kind wait for each other.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def folder() -> Path:
    """Where the cache is: SYSVM_CACHE, or /var/cache/sysvm."""
    return Path(os.environ.get("SYSVM_CACHE", "/var/cache/sysvm"))


def digest(*parts: bytes | str | Path) -> str:
    """A short name for this content. A path stands for its file, or for all files below it."""
    total = hashlib.sha256()
    for part in parts:
        match part:
            case Path():
                for name, content in _files(part):
                    total.update(hashlib.sha256(name.encode()).digest())
                    total.update(hashlib.sha256(content).digest())
            case str():
                total.update(hashlib.sha256(part.encode()).digest())
            case bytes():
                total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:20]


def existing(kind: str, name: str) -> Path | None:
    """The folder of this kind and content, if it has been made."""
    made = folder() / kind / name
    if not made.is_dir():
        return None
    os.utime(made)
    return made


def make(kind: str, name: str, build: Callable[[Path], None]) -> Path:
    """The folder of this kind and content; `build` fills it if it is not there yet."""
    made = folder() / kind / name
    if existing(kind, name):
        return made
    made.parent.mkdir(parents=True, exist_ok=True)
    with _locked(made.parent / ".lock"):
        if made.is_dir():
            return made
        for stale in made.parent.glob(".partial-*"):
            shutil.rmtree(stale)
        partial = made.parent / f".partial-{name}"
        partial.mkdir()
        try:
            build(partial)
        except BaseException:
            shutil.rmtree(partial)
            raise
        partial.rename(made)
    return made


def forget(kind: str, name: str) -> None:
    """Remove this folder, so that it is made again when it is next asked for."""
    made = folder() / kind / name
    if made.is_dir():
        doomed = made.parent / f".partial-{name}"
        made.rename(doomed)
        shutil.rmtree(doomed)


def prune(keep: int, used: Iterable[Path] = (), *, now: float, rest: float = 3600.0) -> list[Path]:
    """Remove all but the newest `keep` folders of each kind; returns what was removed.

    What is in `used`, what is mounted or attached to a loop device, and what was used in the last
    `rest` seconds (of `now`, the time of day) stays. Builders of the same kind wait.
    """
    gone: list[Path] = []
    held = frozenset(used)
    mounted = _mounted()
    for kind in sorted(path for path in folder().iterdir() if path.is_dir()):
        with _locked(kind / ".lock"):
            made = [path for path in kind.iterdir() if path.is_dir() and path.name[0] != "."]
            made.sort(key=lambda path: path.stat().st_mtime, reverse=True)
            for path in made[keep:]:
                recent = path.stat().st_mtime > now - rest
                if recent or path in held or f"{path}" in mounted:
                    continue
                doomed = kind / f".partial-{path.name}"
                path.rename(doomed)
                shutil.rmtree(doomed)
                gone.append(path)
    return gone


def _mounted() -> str:
    """What every process has mounted, as text that names the folders of overlays."""
    texts = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            # It may end at any moment.
            with suppress(OSError):
                texts.add((process / "mountinfo").read_text())
    return "".join(texts)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_file():
        yield path.name, path.read_bytes()
        return
    for file in sorted(path.rglob("*")):
        if "__pycache__" in file.parts or not file.is_file():
            continue
        mode = "x" if file.stat().st_mode & 0o100 else "-"
        yield f"{mode}{file.relative_to(path)}", file.read_bytes()
