"""Two images compared: from their manifests, archives, folders and listings."""

import json
from pathlib import Path

import pytest

from appliance.errors import ApplianceError
from appliance.image import diff, listing, root_archive
from appliance.image.diff import Change, FileChange

STATUS = """\
Package: dnsmasq
Status: install ok installed
Architecture: all
Version: {version}

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1
"""


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return _root(tmp_path / "before", "2.91-1")


@pytest.fixture
def after(tmp_path: Path) -> Path:
    root = _root(tmp_path / "after", "2.91-2")
    (root / "etc/new").write_text("new")
    (root / "etc/old").unlink()
    (root / "etc/mode").chmod(0o600)
    (root / "etc/content").write_text("other")
    return root


def _root(root: Path, version: str) -> Path:
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text(STATUS.format(version=version))
    (root / "etc").mkdir()
    for name in ("old", "mode", "content", "same"):
        (root / "etc" / name).write_text(name)
        (root / "etc" / name).chmod(0o644)
    return root


CHANGES = (
    FileChange("etc/content", ("content",)),
    FileChange("etc/mode", ("mode",)),
    FileChange("etc/new", ("added",)),
    FileChange("etc/old", ("removed",)),
    FileChange("var/lib/dpkg/status", ("content",)),
)


def test_folders_differ_in_packages_and_files(before: Path, after: Path) -> None:
    found = diff.diff(diff.read(before), diff.read(after))
    assert found.packages == (Change("debian", "dnsmasq", "2.91-1", "2.91-2"),)
    assert found.files == CHANGES


def test_an_image_does_not_differ_from_itself(before: Path) -> None:
    assert not diff.diff(diff.read(before), diff.read(before))


def test_archives_differ_as_their_folders_do(before: Path, after: Path) -> None:
    for root in (before, after):
        (root.parent / f"{root.name}.tar").mkdir()
        root_archive.write(root, root.parent / f"{root.name}.tar", 1_000_000_000)
    archives = [root.parent / f"{root.name}.tar" / "root.tar" for root in (before, after)]
    found = diff.diff(*map(diff.read, archives))
    assert found.packages == (Change("debian", "dnsmasq", "2.91-1", "2.91-2"),)
    assert found.files == CHANGES


def test_manifests_differ_by_the_listings_beside_them(
    before: Path, after: Path, tmp_path: Path
) -> None:
    for root, versions in ((before, {"a": "1", "b": "1"}), (after, {"a": "2", "c": "1"})):
        (tmp_path / f"{root.name}.mtree").write_text(listing.render(listing.of_folder(root)))
        packages = [{"name": name, "version": version} for name, version in versions.items()]
        manifest = {"packages": {"python": packages}, "root": {"listing": f"{root.name}.mtree"}}
        (tmp_path / f"{root.name}.json").write_text(json.dumps(manifest))
    found = diff.diff(*(diff.read(tmp_path / f"{name}.json") for name in ("before", "after")))
    assert found.packages == (
        Change("python", "a", "1", "2"),
        Change("python", "b", "1", ""),
        Change("python", "c", "", "1"),
    )
    assert found.files == CHANGES
    assert json.loads(found.as_json())["files"][0] == {"path": "etc/content", "what": ["content"]}


def test_a_listing_alone_knows_no_packages(before: Path, tmp_path: Path) -> None:
    text = tmp_path / "root.mtree"
    text.write_text(listing.render(listing.of_folder(before)))
    found = diff.diff(diff.read(text), diff.read(before))
    assert not found


def test_a_manifest_without_its_listing_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"packages": {}, "root": {"listing": "m.mtree"}}))
    with pytest.raises(ApplianceError, match=r"m\.mtree, which lists the files of m\.json, is not"):
        diff.read(path)


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text("[]")
    with pytest.raises(ApplianceError, match="not an image's manifest"):
        diff.read(path)
