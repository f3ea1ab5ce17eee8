"""Revisions: folders of rendered files, and the symlink `current` that daemons read through.

    /run/sysvm/revisions/7/dnsmasq/dnsmasq.conf
    /run/sysvm/revisions/7.json        what 7 holds: files with their modes, objects
    /run/sysvm/objects/<sha256>        small files by content, shared by all revisions
    /run/sysvm/current -> revisions/7

A revision appears under its number whole, by one rename. Files that the running revision has
with the same content, mode and owner are linked, not written again. Before the first one,
`current` leads to the empty folder `nothing`, so that it always leads somewhere; or to the folder
`ahead`, where the boot has put files that daemons could start with before the restore.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agent.engine.host import StepFailed
from agent.engine.model import File
from agent.system import files
from agent.system.paths import Paths

_NOTHING = "nothing"
_AHEAD = "ahead"  # by share/firewall
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_BLOCK = 4096  # what a file or folder costs at least, for the estimate of the room needed


@dataclass(frozen=True, slots=True)
class Revisions:
    """The folders of revisions and objects below `paths.run`."""

    paths: Paths

    def prepare(self) -> None:
        """Make the folders; does nothing where they are."""
        with files.told_as("prepare"):
            for folder in (self.paths.run, self.paths.revisions, self.paths.objects):
                files.make_folder(folder)

    def begin(self) -> None:
        """Have `current` lead somewhere; it stays where it leads, also where another is quicker."""
        with files.told_as("prepare"), contextlib.suppress(FileExistsError):
            files.make_folder(self.paths.revisions / _NOTHING)
            self.paths.current.symlink_to(f"{self.paths.revisions.name}/{_NOTHING}")

    def current(self) -> int | None:
        """The running revision's number; None before the first."""
        with files.told_as("read current"):
            name = self.paths.current.readlink().name
        return int(name) if name.isdigit() else None

    def stage(self, number: int, wanted: Mapping[str, File], objects: Mapping[str, bytes]) -> None:
        """Write a revision's files to their final names. Raises HostFull before it begins."""
        with files.told_as(f"stage revision {number}"):
            with os.scandir(self.paths.objects) as entries:
                there = {entry.name for entry in entries}
            new = {digest: data for digest, data in objects.items() if digest not in there}
            self._require_room(wanted, new)
            for digest, data in new.items():
                files.write(self.paths.objects / digest, data, durable=False)
            draft = self.paths.revisions / f".{number}"
            shutil.rmtree(draft, ignore_errors=True)
            files.make_folder(draft)
            for file in wanted.values():
                self._put(draft, file)
            files.write(self._manifest(number), _manifest(wanted, objects), mode=0o600)
            self._install(draft, self._folder(number))

    def flip(self, number: int) -> None:
        """Let `current` lead to another revision, by one rename."""
        with files.told_as(f"flip to revision {number}"):
            if not self._folder(number).is_dir():
                raise StepFailed("flip", f"revision {number} is not staged")
            self._point(str(number))

    def digests(self) -> Mapping[str, str]:
        """SHA-256 of each file that is in the running revision's folder now."""
        with files.told_as("read current"):
            root = str(self.paths.current.resolve())
            return {
                os.path.relpath(path, root): files.sha256(Path(path))
                for folder, _, names in os.walk(root)
                for path in (f"{folder}/{name}" for name in names)
                if stat.S_ISREG(os.lstat(path).st_mode)
            }

    def numbers(self) -> Sequence[int]:
        """The revisions that are there."""
        found = (path.name for path in self.paths.revisions.iterdir())
        return sorted(int(name) for name in found if name.isdigit())

    def discard(self, keep: Collection[int]) -> None:
        """Remove other revisions than these and the running one, then objects that none names."""
        with files.told_as("discard revisions"):
            kept = {*keep, self.current()}
            if self.current() is not None:
                shutil.rmtree(self.paths.revisions / _AHEAD, ignore_errors=True)
            for number in self.numbers():
                if number not in kept:
                    shutil.rmtree(self._folder(number))
                    self._manifest(number).unlink(missing_ok=True)
            named = {digest for number in self.numbers() for digest in self._objects_of(number)}
            for path in self.paths.objects.iterdir():
                if path.name not in named:
                    path.unlink()

    def _point(self, name: str) -> None:
        draft = self.paths.run / ".current"
        draft.unlink(missing_ok=True)
        draft.symlink_to(f"{self.paths.revisions.name}/{name}")
        draft.replace(self.paths.current)

    def _folder(self, number: int) -> Path:
        return self.paths.revisions / str(number)

    def _manifest(self, number: int) -> Path:
        return self.paths.revisions / f"{number}.json"

    def _objects_of(self, number: int) -> Sequence[str]:
        objects: list[str] = json.loads(self._manifest(number).read_bytes())["objects"]
        return objects

    def _require_room(self, wanted: Mapping[str, File], new: Mapping[str, bytes]) -> None:
        sizes = [len(file.content) for file in wanted.values() if not self._same(file)]
        sizes += [len(data) for data in new.values()]
        folders = {str(PurePosixPath(path).parent) for path in wanted}
        count = len(sizes) + len(folders) + 2
        size = sum(-(-size // _BLOCK) * _BLOCK for size in sizes) + (len(folders) + 2) * _BLOCK
        files.require_room(self.paths.run, size, count)

    def _put(self, root: Path, file: File) -> None:
        parts = PurePosixPath(file.path).parts
        if not parts or file.path.startswith("/") or ".." in parts:
            raise StepFailed("stage", f"{file.path!r} does not lie inside a revision")
        path = root.joinpath(*parts)
        files.make_folder(path.parent)
        if self._same(file):
            os.link(self.paths.current.resolve() / file.path, path)
        else:
            files.create(path, file.content, mode=file.mode, owner=file.owner, durable=False)

    def _same(self, file: File) -> bool:
        """Does the running revision have this very file? Its bytes are read, not its record."""
        path = self.paths.current / file.path
        try:
            status = path.lstat()
            return (
                stat.S_ISREG(status.st_mode)
                and status.st_size == len(file.content)
                and stat.S_IMODE(status.st_mode) == file.mode
                and (status.st_uid, status.st_gid) == files.owner_ids(file.owner)
                and path.read_bytes() == file.content
            )
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _install(self, draft: Path, final: Path) -> None:
        """Give the draft its number; what had the number before goes."""
        if not final.exists():
            draft.rename(final)
            return
        _exchange(draft, final)
        shutil.rmtree(draft)


def _manifest(wanted: Mapping[str, File], objects: Mapping[str, bytes]) -> bytes:
    listed = {
        path: {
            "sha256": hashlib.sha256(file.content).hexdigest(),
            "mode": f"{file.mode:04o}",
            "owner": file.owner,
            "unit": file.unit,
        }
        for path, file in sorted(wanted.items())
    }
    return json.dumps({"files": listed, "objects": sorted(objects)}, indent=1).encode()


def _exchange(one: Path, other: Path) -> None:
    """Swap two names at once (renameat2(2)), so that neither is missing in between."""
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.renameat2(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
    )
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))
