"""Files that are there whole or not at all.

Everything that the agent writes goes through `write`: a temporary name in the same folder, which
nobody else can open if the file is a secret, then one rename. `durable` adds the fsync calls that
make it survive a power cut; files below /run do without, since memory does not survive one either.
"""

import contextlib
import errno
import grp
import hashlib
import os
import pwd
import secrets
from collections.abc import Iterator
from pathlib import Path

from agent.engine.host import HostFull, StepFailed

RESERVE_BYTES = 1024 * 1024  # left free for the journal, sockets and daemons' own files
RESERVE_INODES = 64

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


@contextlib.contextmanager
def told_as(step: str) -> Iterator[None]:
    """Turn the operating system's errors into the engine's: no room is HostFull."""
    try:
        yield
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        if error.errno in _FULL:
            raise HostFull(f"{step}:{where} {error.strerror}") from error
        raise StepFailed(step, f"{error.strerror or error}{where}") from error


def write(
    path: Path, content: bytes, *, mode: int = 0o644, owner: str = "root:root", durable: bool = True
) -> None:
    """Replace a file by a rename. It is born 0600 and gets its owner and mode before its name."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        create(temporary, content, mode=mode, owner=owner, durable=durable)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def create(
    path: Path, content: bytes, *, mode: int = 0o644, owner: str = "root:root", durable: bool = True
) -> None:
    """Make a file that must not exist yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        give(descriptor, mode, owner)
        if durable:
            os.fsync(descriptor)


def note(path: Path) -> str:
    """The one line that somebody left here; empty where nobody did."""
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{path}: {error.strerror}"


def give(descriptor: int, mode: int, owner: str) -> None:
    """Set owner, then mode: a change of owner clears bits of the mode."""
    ids = owner_ids(owner)
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) != ids:
        os.fchown(descriptor, *ids)
    os.fchmod(descriptor, mode)


def owner_ids(owner: str) -> tuple[int, int]:
    """The numbers of `user:group`. Raises StepFailed where this machine does not know them."""
    if owner == "root:root":  # also where no file can be opened to look it up
        return 0, 0
    user, _, group = owner.partition(":")
    try:
        return pwd.getpwnam(user).pw_uid, grp.getgrnam(group or user).gr_gid
    except KeyError as error:
        raise StepFailed("stage", f"this machine has no owner {owner}") from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, mode: int = 0o755) -> None:
    """Make a folder, and those above it, with this mode whatever the umask is."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(mode)


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Disk:
    """`agent.engine.store.Disk`: whole files, durable when the call returns."""

    def write(self, path: Path, content: bytes, mode: int = 0o600, *, durable: bool = True) -> None:
        """Replace a file. Raises HostFull, also where the disk is read-only."""
        with told_as(f"write {path.name}"):
            make_folder(path.parent, 0o700)
            write(path, content, mode=mode, durable=durable)

    def remove(self, path: Path) -> None:
        """Remove a file; nothing happens where there is none. Raises HostFull.

        What is removed is no longer needed: that it comes back after a power cut does no harm.
        """
        with told_as(f"remove {path.name}"), contextlib.suppress(FileNotFoundError):
            path.unlink()


def free(folder: Path) -> int:
    """Bytes that a file system has left."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def require_room(folder: Path, size: int, count: int) -> None:
    """Refuse work for which a file system has no room, before any of it is done.

    `size` in bytes, `count` in files. File systems without a fixed number of inodes report none.
    """
    status = os.statvfs(folder)
    if status.f_flag & os.ST_RDONLY:
        raise HostFull(f"{folder} is on a read-only file system")
    room = status.f_bavail * status.f_frsize
    if room < size + RESERVE_BYTES:
        raise HostFull(f"{folder} has {room} bytes left and needs {size + RESERVE_BYTES}")
    if status.f_files and status.f_favail < count + RESERVE_INODES:
        raise HostFull(f"{folder} has {status.f_favail} inodes left, {count} files are to be made")
