"""Folders named after the hash of all that they were made from, so that nothing is built twice.

A folder is built beside its final name and renamed into place: one that exists is complete,
whatever was interrupted. Builders of the same kind wait for each other.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    return made if made.is_dir() else None


def make(kind: str, name: str, build: Callable[[Path], None]) -> Path:
    """The folder of this kind and content; `build` fills it if it is not there yet."""
    made = folder() / kind / name
    if made.is_dir():
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
