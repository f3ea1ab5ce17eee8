"""The cache: nothing is built twice, and nothing that is half built is used."""

from pathlib import Path

import pytest

from appliance.image import cache


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
