import hashlib
import io
import os
import stat
import time
from pathlib import Path

import pytest

from agent.system.blobs import GRACE, BlobMissing, BlobRefused, Blobs
from agent.system.paths import Paths

CONTENT = b"#cloud-config\n" * 100_000
NAME = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(Paths(run=tmp_path / "run", state=tmp_path))


def test_blob_is_there_once_it_is_put(blobs: Blobs) -> None:
    assert blobs.put(NAME, io.BytesIO(CONTENT), size=len(CONTENT))
    assert blobs.path(NAME).read_bytes() == CONTENT
    assert stat.S_IMODE(blobs.path(NAME).stat().st_mode) == 0o644
    assert blobs.sizes() == {NAME: len(CONTENT)}


def test_second_upload_is_not_read(blobs: Blobs) -> None:
    blobs.put(NAME, io.BytesIO(CONTENT))
    again = io.BytesIO(CONTENT)
    assert not blobs.put(NAME, again)
    assert again.tell() == 0


def test_blob_of_another_content_is_refused_and_leaves_nothing(blobs: Blobs) -> None:
    with pytest.raises(BlobRefused, match="SHA-256"):
        blobs.put(NAME, io.BytesIO(CONTENT + b"x"))
    assert list(blobs.paths.blobs.iterdir()) == []
    with pytest.raises(BlobMissing):
        blobs.path(NAME)


@pytest.mark.parametrize("size", [0, len(CONTENT)])
def test_blob_beyond_the_limit_is_refused(blobs: Blobs, size: int) -> None:
    with pytest.raises(BlobRefused, match="may have 1000 bytes"):
        blobs.put(NAME, io.BytesIO(CONTENT), limit=1000, size=size)
    assert not blobs.sizes()


@pytest.mark.parametrize("name", ["", "../../etc/passwd", NAME.upper(), NAME + "0", NAME + "\n"])
def test_name_that_is_no_digest_is_refused(blobs: Blobs, name: str) -> None:
    with pytest.raises(BlobRefused):
        blobs.put(name, io.BytesIO(b""))


def test_discard_spares_what_is_named_and_what_is_fresh(blobs: Blobs) -> None:
    old = time.time() - 2 * GRACE
    named, unnamed, fresh = (hashlib.sha256(text).hexdigest() for text in (b"1", b"2", b"3"))
    for text, name in ((b"1", named), (b"2", unnamed), (b"3", fresh)):
        blobs.put(name, io.BytesIO(text))
    for name in (named, unnamed):
        os.utime(blobs.path(name), (old, old))
    blobs.discard({named})
    assert blobs.sizes().keys() == {named, fresh}


def test_machine_without_blobs_has_none(blobs: Blobs) -> None:
    assert blobs.sizes() == {}
    blobs.discard(set())
