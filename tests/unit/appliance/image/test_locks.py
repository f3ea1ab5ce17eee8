"""A lock is read as it was written, and what is no lock is refused."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.system.run import run
from appliance.cli import app
from appliance.errors import ApplianceError
from appliance.image import archive, locks, recipe, wheels
from appliance.image.archive import Deb
from appliance.image.deb822 import paragraphs
from appliance.image.locks import Lock

LOCK = Lock(
    1_700_000_000,
    (
        Deb("zlib1g", "1:1.3.dfsg+really1.3.1-1+b1", "amd64", "ab" * 32, 88720),
        Deb("netbase", "6.5", "all", "cd" * 32, 12000),
    ),
    (Deb("gcc", "4:14.2.0-1", "amd64", "ef" * 32, 5000),),
    ("flask==3.1.3 --hash=sha256:" + "12" * 32,),
)


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    path.write_text(locks.render(LOCK))
    assert locks.read(path) == LOCK


def test_a_lock_has_a_line_for_each_package() -> None:
    lines = locks.render(LOCK).splitlines()
    assert sum("zlib1g" in line for line in lines) == 1
    (line,) = (line for line in lines if "netbase" in line)
    assert json.loads(line)["sha256"] == "cd" * 32


def test_a_lock_knows_the_hash_of_what_the_template_has() -> None:
    assert LOCK.hashes() == {
        "zlib1g=1:1.3.dfsg+really1.3.1-1+b1": "ab" * 32,
        "netbase=6.5": "cd" * 32,
        "flask=3.1.3": "12" * 32,
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "is not a lock"),
        ("[]", "is not a lock"),
        ('{"schema": 1, "suite": "trixie", "epoch": 1}', "is not a lock"),
        ('{"schema": 9, "suite": "trixie"}', "schema 9 for trixie"),
        ('{"schema": 1, "suite": "bookworm"}', "for bookworm"),
    ],
)
def test_what_is_no_lock_of_ours_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "lock.json"
    path.write_text(text)
    with pytest.raises(ApplianceError, match=why):
        locks.read(path)


def test_a_lock_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ApplianceError, match=r"none\.json cannot be read: No such file"):
        locks.read(tmp_path / "none.json")


def test_a_lock_is_held_while_a_build_lasts_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYSVM_LOCK", "before")
    monkeypatch.delenv("SYSVM_DEBS", raising=False)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    path = tmp_path / "lock.json"
    path.write_text(locks.render(LOCK))
    with locks.held(recipe.read(), path, tmp_path) as held:
        assert held == locks.in_force() == LOCK
        assert locks.kept() == tmp_path
        assert os.environ["SOURCE_DATE_EPOCH"] == "1700000000"
    assert os.environ["SYSVM_LOCK"] == "before"
    assert locks.kept() is None
    assert "SOURCE_DATE_EPOCH" not in os.environ


def test_kept_wheels_are_found_by_their_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYSVM_CACHE", str(tmp_path / "cache"))
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "flask-3.1.3-py3-none-any.whl").write_bytes(b"the wheel")
    (kept / "other-1.0-py3-none-any.whl").write_bytes(b"not asked for")
    wanted = f"flask==3.1.3 --hash=sha256:{hashlib.sha256(b'the wheel').hexdigest()}"
    found = wheels.fetch((wanted,), kept)
    assert [path.name for path in found.iterdir()] == ["flask-3.1.3-py3-none-any.whl"]


def test_kept_debs_are_used_only_if_they_are_what_the_lock_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYSVM_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(b"the package").hexdigest()
    deb = Deb("netbase", "1:6.5", "all", digest, 11)
    path = tmp_path / "netbase_1%3a6.5_all.deb"
    path.write_bytes(b"the package")
    assert archive.fetch([deb], tmp_path) == {deb: path}
    path.write_bytes(b"the packagE")
    with pytest.raises(ApplianceError, match="not the file that the lock names"):
        archive.fetch([deb], tmp_path)


def test_a_repository_is_of_these_files_alone(tmp_path: Path) -> None:
    control = tmp_path / "package/DEBIAN/control"
    control.parent.mkdir(parents=True)
    control.write_text(
        "Package: thing\nVersion: 2:1.0\nArchitecture: all\nMaintainer: A <a@example.org>\n"
        "Description: short\n long\n"
    )
    path = tmp_path / "thing_2%3a1.0_all.deb"
    run(["dpkg-deb", "--build", str(tmp_path / "package"), str(path)], timeout=60)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    folder = tmp_path / "repository"
    folder.mkdir()
    archive.repository({Deb("thing", "2:1.0", "all", digest, path.stat().st_size): path}, folder)
    assert {entry.name for entry in folder.iterdir()} == {"Packages", "Release", f"{digest}.deb"}
    (stanza,) = paragraphs((folder / "Packages").read_text())
    assert stanza["Filename"] == f"./{digest}.deb"
    assert (stanza["SHA256"], stanza["Size"]) == (digest, str(path.stat().st_size))


@pytest.mark.parametrize("command", ["build", "lock"])
def test_a_lock_is_made_for_the_elements_that_a_build_has(tmp_path: Path, command: str) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme/element-deps").write_text("nowhere\n")
    chosen = ("--elements-path", str(tmp_path), "--element", "acme", "--package", "nano")
    answer = CliRunner().invoke(app, ["image", command, *chosen, "--no-ssh"])
    assert isinstance(answer.exception, ApplianceError)
    assert answer.exception.what == "there is no element nowhere"
