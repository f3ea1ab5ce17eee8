"""A listing of files, from a folder, from an archive, and as text: the same each time."""

import os
from pathlib import Path

import pytest

from agent.system.run import run
from appliance.errors import ApplianceError
from appliance.image import listing, root_archive
from appliance.image.listing import Entry

ODD = "usr/share/a b#c\\d\u00e9\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "usr/share").mkdir(parents=True)
    (root / ODD).write_text("odd")
    (root / "usr/tool").write_text("tool")
    (root / "usr/tool").chmod(0o4755)
    (root / "usr/again").hardlink_to(root / "usr/tool")
    (root / "bin").symlink_to("usr/share")
    os.mkfifo(root / "usr/pipe")
    (root / "dev").mkdir()
    (root / "dev/null").write_text("of the build")
    return root


def test_a_listing_as_text_is_read_back(root: Path) -> None:
    found = listing.of_folder(root)
    assert listing.parse(listing.render(found)) == found
    assert found["bin"] == Entry("link", 0o777, (os.getuid(), os.getgid()), "usr/share")
    assert found["usr/tool"].mode == 0o4755
    assert found["usr/pipe"].kind == "fifo"
    assert ODD in found


def test_the_text_is_sorted_and_one_line_a_file(root: Path) -> None:
    lines = listing.render(listing.of_folder(root)).splitlines()
    assert lines[0] == "#mtree"
    assert lines[1:] == sorted(lines[1:])
    assert len(lines) == 1 + len(listing.of_folder(root))


def test_an_archive_has_the_files_of_its_folder_but_what_a_running_system_fills(
    root: Path, tmp_path: Path
) -> None:
    root_archive.write(root, tmp_path, 1_000_000_000)
    archived = listing.of_archive(tmp_path / "root.tar")
    folder = dict(listing.of_folder(root))
    assert folder.pop("dev/null")
    assert archived == folder
    assert listing.parse((tmp_path / "root.mtree").read_text()) == folder


def test_an_archive_does_not_tell_when_it_was_made(root: Path, tmp_path: Path) -> None:
    made = []
    for attempt, time in (("one", 1_500_000_000), ("two", 1_600_000_000)):
        for path in (root, *root.rglob("*")):
            os.utime(path, (time, time), follow_symlinks=False)
        (tmp_path / attempt).mkdir()
        root_archive.write(root, tmp_path / attempt, 1_000_000_000)
        made.append((tmp_path / attempt / "root.tar").read_bytes())
    assert made[0] == made[1]


def test_an_archive_keeps_a_time_before_its_epoch_and_second_names(
    root: Path, tmp_path: Path
) -> None:
    os.utime(root / "usr/tool", (5, 5))
    root_archive.write(root, tmp_path, 1_000_000_000)
    shown = run(["tar", "--utc", "-tvf", str(tmp_path / "root.tar")], timeout=10).text
    assert "1970-01-01 00:00 ./usr/again" in shown
    assert "link to ./usr/again" in shown


def test_what_is_no_listing_or_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("something else\n")
    with pytest.raises(ApplianceError, match="not a listing"):
        listing.parse(path.read_text())
    with pytest.raises(ApplianceError, match="not a root file system's archive"):
        listing.of_archive(path)
