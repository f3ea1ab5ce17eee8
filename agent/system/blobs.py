"""Uploaded blobs: large things that guests read, named by their SHA-256, kept on disk."""

import hashlib
import os
import re
import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agent.system import files
from agent.system.paths import Paths

LARGEST = 64 * 1024 * 1024  # bytes
_CHUNK = 256 * 1024
GRACE = 3600.0  # seconds
_NAME = re.compile(r"[0-9a-f]{64}\Z")


class BlobRefused(Exception):
    """What was sent is too large, or is not what its name says."""

    retryable = False


class BlobMissing(Exception):
    """Nobody has uploaded that blob."""

    retryable = False


@dataclass(frozen=True, slots=True)
class Blobs:
    """The folder of blobs. A blob is there whole, verified and durable, or not at all."""

    paths: Paths

    def put(self, digest: str, stream: BinaryIO, *, limit: int = LARGEST, size: int = 0) -> bool:
        """Store what the stream gives, at most `limit` bytes; False if it was there already.

        `size`, where known, is checked against the free room first. Raises BlobRefused, HostFull.
        """
        path = self._path(digest)
        if size > limit:
            raise BlobRefused(f"a blob may have {limit} bytes, this one has {size}")
        with files.told_as("store blob"):
            if path.exists():
                return False
            files.make_folder(self.paths.blobs)
            files.require_room(self.paths.blobs, size, 1)
            draft = path.with_name(f".{digest}.{secrets.token_hex(4)}")
            try:
                self._receive(draft, digest, stream, limit)
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
            files.sync_folder(self.paths.blobs)
        return True

    def path(self, digest: str) -> Path:
        """Where a blob is. Raises BlobMissing."""
        path = self._path(digest)
        if not path.is_file():
            raise BlobMissing(f"there is no blob {digest}")
        return path

    def sizes(self) -> Mapping[str, int]:
        """Every blob with its size in bytes."""
        if not self.paths.blobs.is_dir():
            return {}
        with os.scandir(self.paths.blobs) as entries:
            return {e.name: e.stat().st_size for e in entries if _NAME.match(e.name)}

    def discard(self, keep: Collection[str]) -> None:
        """Remove all blobs but these, and what broken uploads left, once they are an hour old.

        What has just been uploaded waits for the document that will name it.
        """
        if not self.paths.blobs.is_dir():
            return
        before = time.time() - GRACE
        with files.told_as("discard blobs"), os.scandir(self.paths.blobs) as entries:
            for entry in entries:
                if entry.name not in keep and entry.stat().st_mtime < before:
                    Path(entry.path).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        if not _NAME.match(digest):
            raise BlobRefused("a blob's name is its SHA-256: 64 hexadecimal digits, lower case")
        return self.paths.blobs / digest

    def _receive(self, draft: Path, digest: str, stream: BinaryIO, limit: int) -> None:
        seen, received = hashlib.sha256(), 0
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            while chunk := stream.read(_CHUNK):
                received += len(chunk)
                if received > limit:
                    raise BlobRefused(f"a blob may have {limit} bytes")
                seen.update(chunk)
                out.write(chunk)
            if seen.hexdigest() != digest:
                raise BlobRefused(f"what was sent has the SHA-256 {seen.hexdigest()}")
            out.flush()
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
