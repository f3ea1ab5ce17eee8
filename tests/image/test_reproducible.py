"""Two builds from one lock make the same root file system, bit for bit; the second one offline."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.system.run import run
from appliance import tools
from appliance.errors import ApplianceError
from appliance.image import archive, checksums, diff, listing, locks, recipe, root_archive
from appliance.image.locks import Lock

pytestmark = [pytest.mark.image, pytest.mark.proof]

ROOM = 8 << 30  # bytes: two root file systems, two builders, what they are built from
TIMEOUT = 1800.0
EPOCH = 1_750_000_000
_SOURCE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Kept:
    """A lock, its file, and the folder with all that it names."""

    lock: Lock
    file: Path
    folder: Path


@pytest.fixture(scope="module", autouse=True)
def _able() -> None:
    try:
        tools.need_root()
        tools.need("mmdebstrap", "unshare")
    except ApplianceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for two builds: in memory where there is room, for dpkg writes many files."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > ROOM and _available() > 2 * ROOM:
        folder = memory / f"sysvm-reproducible-{os.getpid()}"
        folder.mkdir()
    else:
        folder = tmp_path_factory.mktemp("builds")
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def kept(work: Path) -> Kept:
    """A fresh lock, and all that it names."""
    # Of another day than the build's, so that what tells the day is seen.
    lock = replace(locks.make(recipe.read()), epoch=EPOCH)
    file = work / "lock.json"
    file.write_text(locks.render(lock))
    locks.keep(lock, work / "kept")
    return Kept(lock, file, work / "kept")


@pytest.fixture(scope="module")
def built(work: Path, kept: Kept) -> tuple[Path, Path]:
    """The folders of two builds that share nothing but the lock and what it names."""
    with ThreadPoolExecutor() as pool:
        offline = pool.submit(_build, work / "two/and/deeper", kept, "unshare", "--net")
        one = _build(work / "one", kept)
        return one, offline.result()


def _build(folder: Path, kept: Kept, *before: str) -> Path:
    _sysvm(folder / "cache", kept, "rootfs", "--output", str(folder), before=before)
    return folder


def _sysvm(cache: Path, kept: Kept, *words: str, before: Sequence[str] = ()) -> None:
    """Build something from the lock; `before` is a command that starts the builder."""
    command = (sys.executable, "-c", "from appliance.cli import main; main()", "image")
    options = ("--lock", str(kept.file), "--debs", str(kept.folder))
    run(
        [*before, *command, *words, *options],
        timeout=TIMEOUT,
        env={"SYSVM_CACHE": str(cache), "PYTHONPATH": str(_SOURCE)},
    )


def _available() -> int:
    words = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kilobytes = {name: int(number) for name, number, *_ in words}
    return kilobytes["MemAvailable:"] * 1024


def test_two_builds_from_one_lock_are_equal_bit_for_bit(built: tuple[Path, Path]) -> None:
    sides = [diff.read(folder / root_archive.LISTING) for folder in built]
    assert diff.diff(*sides).files == ()
    one, other = (checksums.sha256(folder / root_archive.TAR) for folder in built)
    assert one == other


def test_two_disks_of_one_root_file_system_are_equal_bit_for_bit(
    built: tuple[Path, Path], work: Path, kept: Kept
) -> None:
    layers = built[0] / "cache"
    digests = []
    for name in ("disk", "another/disk"):
        cache = work / name / "cache"
        cache.mkdir(parents=True)
        for kind in layers.iterdir():
            (cache / kind.name).symlink_to(kind)
        output = work / name / "out"
        _sysvm(cache, kept, "build", "--format", "raw", "--output", str(output))
        (disk,) = output.glob("*.raw")
        digests.append(checksums.sha256(disk))
        shutil.rmtree(work / name)
    assert digests[0] == digests[1]


def test_the_listing_beside_an_archive_is_its_own(built: tuple[Path, Path]) -> None:
    beside = diff.read(built[0] / root_archive.LISTING)
    assert len(beside.files) > 5000
    assert not diff.diff(beside, diff.read(built[0] / root_archive.TAR))


def test_what_was_installed_is_what_the_lock_names(built: tuple[Path, Path], kept: Kept) -> None:
    side = diff.read(built[0] / root_archive.TAR)
    assert side.packages is not None
    assert side.packages["debian"] == {deb.name: deb.version for deb in kept.lock.template}


def test_nothing_of_the_build_machine_is_in_it(built: tuple[Path, Path]) -> None:
    files = diff.read(built[0] / root_archive.LISTING).files
    assert not [name for name in files if str(built[0]).lstrip("/") in name]
    assert not [name for name in files if name.startswith("etc/ssh/ssh_host_")]
    assert not [name for name in files if name.startswith("var/log/") and name.endswith(".log")]


def test_no_account_tells_the_day_of_the_build(built: tuple[Path, Path]) -> None:
    shadow = listing.member(built[0] / root_archive.TAR, ("etc/shadow",))
    assert shadow is not None
    # The third field is the day of the last change, counted from 1970 (shadow(5)).
    assert {line.split(":")[2] for line in shadow.splitlines()} <= {str(EPOCH // 86400), ""}


def test_a_damaged_file_is_refused_by_name(kept: Kept, work: Path) -> None:
    folder = work / "damaged"
    folder.mkdir()
    deb = kept.lock.template[0]
    (folder / deb.file).write_bytes(b"not a package")
    with pytest.raises(ApplianceError, match=deb.name):
        archive.fetch([deb], folder)


def test_what_can_no_longer_be_had_is_named_at_once(
    work: Path, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYSVM_CACHE", str(work / "empty"))
    gone = [
        archive.Deb(deb.name, f"0~{deb.version}", deb.architecture, deb.sha256, deb.size)
        for deb in kept.lock.template[:3]
    ]
    with pytest.raises(ApplianceError) as refused:
        archive.fetch([*gone, *kept.lock.template[3:5]])
    assert all(f"{deb.name} {deb.version}" in refused.value.what for deb in gone)
    there = kept.lock.template[3:5]
    assert not any(f"{deb.name} {deb.version}" in refused.value.what for deb in there)


def test_what_is_missing_offline_is_named_at_once(
    work: Path, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYSVM_CACHE", str(work / "none"))
    monkeypatch.setenv("SYSVM_MIRROR", "http://127.0.0.1:1/debian")  # nobody answers there
    debs = kept.lock.template
    gone = (
        archive.Deb("gone-one", "1", "all", "0" * 64, 1),
        archive.Deb("gone-two", "2", "all", "0" * 64, 1),
    )
    with pytest.raises(ApplianceError) as refused:
        archive.fetch([*gone, *debs], kept.folder)
    assert f"not in {kept.folder}: gone-one 1, gone-two 2" in refused.value.what
    assert "SYSVM_MIRROR" in refused.value.hint
