import stat
from collections.abc import Iterable
from pathlib import Path

import pytest

from agent.engine.host import HostFull, StepFailed
from agent.engine.model import File
from agent.system.paths import Paths
from agent.system.revisions import Revisions
from tests.unit.system.here import OWNER

DIGEST = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # of "hello"


@pytest.fixture
def revisions(tmp_path: Path) -> Revisions:
    made = Revisions(Paths(run=tmp_path / "run", state=tmp_path / "state"))
    made.prepare()
    made.begin()
    return made


def file(path: str, content: bytes = b"hello", mode: int = 0o644) -> File:
    return File(path, content, mode=mode, owner=OWNER)


def stage(revisions: Revisions, number: int, wanted: Iterable[File], **objects: bytes) -> None:
    revisions.stage(number, {one.path: one for one in wanted}, objects)


def test_nothing_runs_before_the_first_flip_but_current_leads_somewhere(
    revisions: Revisions,
) -> None:
    assert revisions.current() is None
    assert revisions.digests() == {}
    assert revisions.paths.current.resolve().is_dir()


def test_staged_revision_is_not_used_until_the_flip(revisions: Revisions) -> None:
    stage(revisions, 1, [file("dnsmasq/hosts")])
    assert revisions.current() is None
    revisions.flip(1)
    assert revisions.current() == 1
    assert revisions.digests() == {"dnsmasq/hosts": DIGEST}


def test_revision_zero_is_one_like_any_other(revisions: Revisions) -> None:
    stage(revisions, 0, [file("a")])
    revisions.flip(0)
    assert revisions.current() == 0


def test_preparing_again_changes_nothing(revisions: Revisions) -> None:
    stage(revisions, 1, [file("a")])
    revisions.flip(1)
    revisions.prepare()
    revisions.begin()
    assert revisions.current() == 1


def test_files_that_a_boot_had_ahead_of_the_restore_stay_until_a_revision_runs(
    tmp_path: Path,
) -> None:
    """share/firewall makes the link, if the restore has not got there first."""
    revisions = Revisions(Paths(run=tmp_path / "run", state=tmp_path / "state"))
    revisions.prepare()
    stage(revisions, 1, [file("dnsmasq/hosts"), file("haproxy/haproxy.cfg")])
    ahead = revisions.paths.revisions / "ahead"
    (ahead / "dnsmasq").mkdir(parents=True)
    (ahead / "dnsmasq/hosts").write_text("hello")
    revisions.paths.current.symlink_to("revisions/ahead")
    revisions.begin()
    revisions.discard([1])
    assert revisions.current() is None
    assert revisions.digests() == {"dnsmasq/hosts": DIGEST}
    revisions.flip(1)
    assert revisions.digests().keys() == {"dnsmasq/hosts", "haproxy/haproxy.cfg"}
    revisions.discard([1])
    assert not ahead.exists()


def test_flip_to_what_is_not_staged_is_refused(revisions: Revisions) -> None:
    with pytest.raises(StepFailed, match="not staged"):
        revisions.flip(1)
    assert revisions.current() is None


def test_files_get_their_modes_and_folders_are_open(revisions: Revisions) -> None:
    stage(revisions, 1, [file("deep/down/secret", mode=0o600), file("open")])
    root = revisions.paths.revisions / "1"
    assert stat.S_IMODE((root / "deep/down/secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "open").stat().st_mode) == 0o644
    for folder in (root, root / "deep", root / "deep/down"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_files_that_did_not_change_are_the_same_file(revisions: Revisions) -> None:
    stage(revisions, 1, [file("same"), file("content"), file("mode")])
    revisions.flip(1)
    stage(revisions, 2, [file("same"), file("content", b"other"), file("mode", mode=0o600)])
    one, two = (revisions.paths.revisions / number for number in "12")
    assert (two / "same").samefile(one / "same")
    assert not (two / "content").samefile(one / "content")
    assert not (two / "mode").samefile(one / "mode")
    assert stat.S_IMODE((one / "mode").stat().st_mode) == 0o644


def test_file_that_somebody_changed_in_place_is_written_anew(revisions: Revisions) -> None:
    stage(revisions, 1, [file("a")])
    revisions.flip(1)
    (revisions.paths.current / "a").write_bytes(b"jello")
    stage(revisions, 2, [file("a")])
    assert (revisions.paths.revisions / "2/a").read_bytes() == b"hello"


def test_digests_tell_of_what_is_there_not_of_what_was_written(revisions: Revisions) -> None:
    stage(revisions, 1, [file("a"), file("b")])
    revisions.flip(1)
    (revisions.paths.current / "a").unlink()
    (revisions.paths.current / "foreign").write_bytes(b"hello")
    assert revisions.digests() == {"b": DIGEST, "foreign": DIGEST}


def test_staging_again_replaces_what_was_staged(revisions: Revisions) -> None:
    stage(revisions, 1, [file("a"), file("b")])
    stage(revisions, 1, [file("a", b"other")])
    revisions.flip(1)
    assert (revisions.paths.current / "a").read_bytes() == b"other"
    assert not (revisions.paths.current / "b").exists()
    left = {path.name for path in revisions.paths.revisions.iterdir()}
    assert left == {"1", "1.json", "nothing"}


def test_staging_the_running_revision_again_never_leaves_current_empty(
    revisions: Revisions,
) -> None:
    stage(revisions, 1, [file("a")])
    revisions.flip(1)
    stage(revisions, 1, [file("a", b"other")])
    assert (revisions.paths.current / "a").read_bytes() == b"other"


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../up", ""])
def test_path_outside_the_revision_is_refused(revisions: Revisions, path: str) -> None:
    with pytest.raises(StepFailed, match="does not lie inside"):
        stage(revisions, 1, [file(path)])


def test_no_room_is_told_before_anything_is_written(revisions: Revisions) -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 2**60

    with pytest.raises(HostFull):
        stage(revisions, 1, [file("a"), file("b", Huge())])
    assert revisions.numbers() == []
    assert list(revisions.paths.objects.iterdir()) == []


def test_discard_keeps_what_runs_and_the_objects_that_are_named(revisions: Revisions) -> None:
    stage(revisions, 1, [file("a")], one=b"1", both=b"b")
    stage(revisions, 2, [file("a")], two=b"2", both=b"b")
    stage(revisions, 3, [file("a")], three=b"3")
    revisions.flip(2)
    revisions.discard([1])
    assert revisions.numbers() == [1, 2]
    objects = {path.name for path in revisions.paths.objects.iterdir()}
    assert objects == {"one", "two", "both"}
    revisions.discard([])
    assert revisions.numbers() == [2]
    assert {path.name for path in revisions.paths.objects.iterdir()} == {"two", "both"}


def test_object_that_is_there_is_not_written_again(revisions: Revisions) -> None:
    stage(revisions, 1, [], one=b"1")
    before = (revisions.paths.objects / "one").stat().st_ino
    stage(revisions, 2, [], one=b"1")
    assert (revisions.paths.objects / "one").stat().st_ino == before
