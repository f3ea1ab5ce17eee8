"""The store: what is kept in memory of it."""

from pathlib import Path

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
