import errno
import os
import stat
from pathlib import Path

import pytest

from agent.engine.host import HostFull, StepFailed
from agent.system import files
from tests.unit.system.here import OWNER


def test_written_file_has_content_mode_and_no_leftover(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    files.write(path, b"one", mode=0o600, owner=OWNER)
    files.write(path, b"two", mode=0o640, owner=OWNER)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.write(tmp_path / "file", b"", mode=0o644, owner=OWNER)
        files.make_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o755


def test_create_does_not_follow_a_link_that_is_there(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    (tmp_path / "new").symlink_to(victim)
    with pytest.raises(FileExistsError):
        files.create(tmp_path / "new", b"x", owner=OWNER)
    assert victim.read_bytes() == b"untouched"


def test_unknown_owner_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="no owner nobody-of-that-name"):
        files.write(tmp_path / "file", b"", owner="nobody-of-that-name:root")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_no_room_is_host_full(number: int) -> None:
    with pytest.raises(HostFull), files.told_as("stage"):
        raise OSError(number, os.strerror(number), "/somewhere")


def test_other_errors_name_the_step_and_the_file() -> None:
    with pytest.raises(StepFailed, match=r"stage: .* /somewhere"), files.told_as("stage"):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/somewhere")


def test_room_that_is_not_there_is_refused(tmp_path: Path) -> None:
    files.require_room(tmp_path, 0, 1)
    with pytest.raises(HostFull, match="bytes left"):
        files.require_room(tmp_path, 2**60, 1)


def test_disk_makes_folders_and_removes_what_is_not_there(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("the store's files are root's")
    disk = files.Disk()
    path = tmp_path / "revisions" / "1.json"
    disk.write(path, b"{}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    disk.remove(path)
    disk.remove(path)
    assert not path.exists()
