"""The store: what is kept in memory of it, also while several threads ask."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.document.document import parse
from agent.engine.store import Revision, Store
from tests.unit.engine.documents import router
from tests.unit.engine.memory import PlainDisk


def test_revision_that_runs_is_not_read_again_while_another_is_made(tmp_path: Path) -> None:
    store = Store(tmp_path, PlainDisk())
    one, two, three = (Revision.of(parse(router(n)), n, 0.0, "push") for n in (1, 2, 3))
    store.put_revision(one)
    store.put_revision(two)
    assert store.revision(1) is one
    assert store.revision(2) is two
    store.put_revision(three)
    again = store.revision(1)
    assert again is not one
    assert again.document.digest == one.document.digest
    store.forget(3)
    assert store.revision(1) is again


class Interrupted(Store):
    """A store that another thread comes into while it reads a file, once."""

    meanwhile: Callable[[], object] | None = None

    def _read(self, path: Path) -> Any:
        value = super()._read(path)
        if self.meanwhile is not None and path.parent.name == "revisions":
            other, self.meanwhile = self.meanwhile, None
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        return value


@pytest.fixture
def revisions() -> tuple[Revision, ...]:
    return tuple(Revision.of(parse(router(n)), n, 0.0, "push") for n in (1, 2, 3))


@pytest.fixture
def store(tmp_path: Path, revisions: tuple[Revision, ...]) -> Interrupted:
    """One that knows nothing yet of the two revisions that it has."""
    before = Store(tmp_path, PlainDisk())
    for revision in revisions[:2]:
        before.put_revision(revision)
    return Interrupted(tmp_path, PlainDisk())


def test_revision_that_is_made_while_others_are_listed_is_not_forgotten(
    store: Interrupted, revisions: tuple[Revision, ...]
) -> None:
    store.meanwhile = lambda: store.put_revision(revisions[2])
    assert [info.number for info in store.revisions()] == [2, 1]
    assert store.revision(3) is revisions[2]


def test_revision_that_goes_while_others_are_listed_is_left_out(store: Interrupted) -> None:
    store.meanwhile = lambda: store.forget(1)
    assert [info.number for info in store.revisions()] == [2]


def test_what_is_in_use_is_told_while_another_thread_reads(store: Interrupted) -> None:
    found: list[frozenset[str]] = []
    store.meanwhile = lambda: found.append(store.blobs_in_use())
    store.revision(2)
    store.forget(2)
    assert store.blobs_in_use() == frozenset()
    assert found == [frozenset()]


def test_listing_keeps_no_document_of_an_older_revision(
    store: Interrupted, revisions: tuple[Revision, ...]
) -> None:
    store.put_revision(revisions[2])
    assert [info.number for info in store.revisions()] == [3, 2, 1]
    assert store.revision(3) is revisions[2]
    assert store.revision(1) is not store.revision(2)
