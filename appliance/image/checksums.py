"""SHA-256 checksums beside the files that they are of, as sha256sum(1) checks them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

SUMS = "SHA256SUMS"


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path) -> Path:
    """Write `path`'s checksum beside it; `sha256sum -c` in its folder checks it."""
    beside = path.with_name(f"{path.name}.sha256")
    beside.write_text(_line(path))
    return beside


def write_sums(folder: Path, paths: Iterable[Path]) -> Path:
    """Write SHA256SUMS of these files of `folder`: the one file to sign for all of them.

    A signature of what was there before is removed.
    """
    sums = folder / SUMS
    signature(sums).unlink(missing_ok=True)
    sums.write_text("".join(_line(path) for path in sorted(paths)))
    return sums


def signature(path: Path) -> Path:
    """Where gpg's signature of a file is put."""
    return path.with_name(f"{path.name}.asc")


def _line(path: Path) -> str:
    return f"{sha256(path)}  {path.name}\n"
