"""The cache: nothing is built twice, and nothing that is half built is used."""

import os
from pathlib import Path

import pytest

from appliance.image import cache

_NOW = 1_000_000.0  # seconds since 1970


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSVM_CACHE", str(tmp_path / "cache"))


def test_the_same_content_is_built_once() -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "file").write_text("x")

    first = cache.make("kind", "name", build)
    assert cache.make("kind", "name", build) == first
    assert len(built) == 1
    assert (first / "file").read_text() == "x"


def test_a_build_that_fails_leaves_nothing() -> None:
    def build(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cache.make("kind", "name", build)
    assert cache.existing("kind", "name") is None
    assert list((cache.folder() / "kind").glob(".partial-*")) == []


def test_what_an_interrupted_build_left_is_removed() -> None:
    stale = cache.folder() / "kind" / ".partial-old"
    stale.mkdir(parents=True)
    cache.make("kind", "name", lambda _folder: None)
    assert not stale.exists()


def test_a_forgotten_folder_is_built_again() -> None:
    made = cache.make("kind", "name", lambda folder: (folder / "old").touch())
    cache.forget("kind", "name")
    assert not made.exists()
    cache.make("kind", "name", lambda folder: (folder / "new").touch())
    assert [path.name for path in made.iterdir()] == ["new"]


def test_the_digest_follows_content_names_and_modes(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    file = tree / "file"
    file.write_text("one")
    seen = {cache.digest(tree)}
    assert cache.digest(tree) in seen
    file.write_text("two")
    seen.add(cache.digest(tree))
    file.chmod(0o755)
    seen.add(cache.digest(tree))
    file.rename(tree / "other")
    seen.add(cache.digest(tree))
    assert len(seen) == 4


def test_the_digest_ignores_compiled_code(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("")
    before = cache.digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "module.pyc").write_bytes(b"x")
    assert cache.digest(tmp_path) == before


def test_parts_of_a_digest_do_not_run_into_each_other() -> None:
    assert cache.digest("ab", "c") != cache.digest("a", "bc")


def _aged(name: str, age: float) -> Path:
    made = cache.make("kind", name, lambda _folder: None)
    os.utime(made, (_NOW - age, _NOW - age))
    return made


def test_pruning_keeps_the_newest_of_each_kind() -> None:
    old, newer, newest = _aged("a", 30_000), _aged("b", 20_000), _aged("c", 10_000)
    assert cache.prune(2, now=_NOW) == [old]
    assert newer.exists()
    assert newest.exists()
    assert not list(newest.parent.glob(".partial-*"))


def test_pruning_keeps_what_is_used_and_what_was_used_lately() -> None:
    used, lately, other = _aged("a", 30_000), _aged("b", 10), _aged("c", 40_000)
    assert cache.prune(0, [used], now=_NOW) == [other]
    assert used.exists()
    assert lately.exists()


def test_using_a_folder_makes_it_new_again() -> None:
    made = _aged("a", 30_000)
    before = made.stat().st_mtime
    assert cache.existing("kind", "a") == made
    assert made.stat().st_mtime > before
