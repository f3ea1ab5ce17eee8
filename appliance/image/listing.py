"""Every file of a root file system, with what makes it that file: for archives and comparisons.

The text form is mtree(5), which bsdtar and mtree read and check.
"""

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import ApplianceError

CAPABILITY = "security.capability"
HEAD = "#mtree"

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of any kind. `content` is a file's SHA-256, a link's target, a device's numbers."""

    kind: str
    mode: int
    owner: tuple[int, int]
    content: str
    capability: str = ""  # the extended attribute, in hexadecimal digits


Listing = Mapping[str, Entry]


def of_folder(root: Path) -> Listing:
    """The files below `root`, by their paths from there."""
    return {path.relative_to(root).as_posix(): entry(path, path.lstat()) for path in walk(root)}


def entry(path: Path, about: os.stat_result, content: str | None = None) -> Entry:
    """What makes this file the one that it is; `content` is its SHA-256, where it is known."""
    return Entry(
        _KINDS[stat.S_IFMT(about.st_mode)],
        stat.S_IMODE(about.st_mode),
        (about.st_uid, about.st_gid),
        _content(path, about) if content is None else content,
        capability(path).hex(),
    )


def of_archive(path: Path) -> Listing:
    """The files in a tar of a root file system. Raises ApplianceError."""
    found: dict[str, Entry] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.removeprefix("./").rstrip("/")
                if name in ("", "."):
                    continue
                found[name] = (
                    found[member.linkname.removeprefix("./")]
                    if member.islnk()
                    else _member(archive, member)
                )
    except (OSError, tarfile.TarError, KeyError) as error:
        raise ApplianceError(f"{path} is not a root file system's archive: {error}") from error
    return found


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    kinds = {tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "link", tarfile.FIFOTYPE: "fifo"}
    kinds |= {tarfile.CHRTYPE: "char", tarfile.BLKTYPE: "block"}
    kind = kinds.get(member.type, "file")
    content = ""
    if kind == "file":
        stream = archive.extractfile(member)
        content = hashlib.file_digest(stream, "sha256").hexdigest() if stream else ""  # type: ignore[arg-type]  # typeshed wants readinto's exact type
    elif kind == "link":
        content = member.linkname
    elif kind in ("char", "block"):
        content = f"{member.devmajor},{member.devminor}"
    attribute = member.pax_headers.get(f"SCHILY.xattr.{CAPABILITY}", "")
    return Entry(
        kind,
        member.mode & 0o7777,
        (member.uid, member.gid),
        content,
        attribute.encode("utf-8", "surrogateescape").hex(),
    )


def render(listing: Listing) -> str:
    """The listing as text."""
    lines = (_line(name, listing[name]) for name in sorted(listing))
    return "".join(f"{line}\n" for line in (HEAD, *lines))


def parse(text: str) -> Listing:
    """The listing that `render` wrote. Raises ApplianceError."""
    found = {}
    lines = text.splitlines()
    if lines[:1] != [HEAD]:
        raise ApplianceError(f"not a listing of files: it does not begin with {HEAD}")
    for line in lines[1:]:
        name, *words = line.split(" ")
        fields = dict(word.split("=", 1) for word in words)
        content = fields.get("sha256digest") or _plain(fields.get("link", ""))
        found[_plain(name).removeprefix("./")] = Entry(
            fields["type"],
            int(fields["mode"], 8),
            (int(fields["uid"]), int(fields["gid"])),
            content or fields.get("device", "").removeprefix("native,"),
            fields.get("capability", ""),
        )
    return found


def _line(name: str, entry: Entry) -> str:
    keys = {"file": "sha256digest", "link": "link", "char": "device", "block": "device"}
    words = [_escaped(f"./{name}"), f"type={entry.kind}", f"mode={entry.mode:04o}"]
    words += [f"uid={entry.owner[0]}", f"gid={entry.owner[1]}"]
    if entry.content:
        native = "native," if keys[entry.kind] == "device" else ""
        words.append(f"{keys[entry.kind]}={native}{_escaped(entry.content)}")
    if entry.capability:
        words.append(f"capability={entry.capability}")
    return " ".join(words)


def _escaped(text: str) -> str:
    """As vis(3) writes it for mtree: three octal digits for what is not plain."""
    raw = text.encode("utf-8", "surrogateescape")
    plain = (chr(byte) if 33 <= byte < 127 and byte not in b"\\#" else None for byte in raw)
    return "".join(char or f"\\{byte:03o}" for char, byte in zip(plain, raw, strict=True))


def _plain(text: str) -> str:
    parts = text.encode().split(b"\\")
    raw = parts[0] + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in parts[1:])
    return raw.decode("utf-8", "surrogateescape")


def walk(root: Path) -> Iterator[Path]:
    """Every path below `root`, a folder before what is in it, sorted; links are not followed."""
    with os.scandir(root) as found:
        entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    for item in entries:
        yield root / item.name
        if item.is_dir(follow_symlinks=False):
            yield from walk(root / item.name)


def capability(path: Path) -> bytes:
    """A file's capabilities (capabilities(7)), as the kernel stores them; empty if it has none."""
    try:
        return os.getxattr(path, CAPABILITY, follow_symlinks=False)
    except OSError:
        return b""


def _content(path: Path, about: os.stat_result) -> str:
    if stat.S_ISREG(about.st_mode):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if stat.S_ISLNK(about.st_mode):
        return os.readlink(path)  # noqa: PTH115  # Path would tidy it
    if stat.S_ISCHR(about.st_mode) or stat.S_ISBLK(about.st_mode):
        return f"{os.major(about.st_rdev)},{os.minor(about.st_rdev)}"
    return ""


def member(path: Path, names: Iterable[str]) -> str | None:
    """The text of the first of these files that a tar has."""
    wanted = tuple(names)
    with tarfile.open(path) as archive:
        for entry in archive:
            if entry.name.removeprefix("./") in wanted and entry.isreg():
                stream = archive.extractfile(entry)
                return stream.read().decode(errors="replace") if stream else None
    return None
