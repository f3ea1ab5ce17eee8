"""Each test of the database runs on SQLite and on PostgreSQL; certificates are a file's own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.manager.database import Database
from tests.unit.manager import postgres
from tests.unit.manager.agent import Keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Who everybody is, for a file of tests."""
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[postgres.Server]:
    if postgres.programs() is None:
        pytest.skip("postgresql is not installed: make .make/packages")
    with postgres.server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/manager.db"
    server: postgres.Server = request.getfixturevalue("postgresql")
    return server.create()


@pytest.fixture
def manager(url: str) -> Iterator[Callable[[], Database]]:
    """Another manager's connections to the same database."""
    opened: list[Database] = []

    def another() -> Database:
        database = Database(url)
        database.migrate()
        opened.append(database)
        return database

    yield another
    for one in opened:
        one.close()


@pytest.fixture
def database(manager: Callable[[], Database]) -> Database:
    """A database with its tables."""
    return manager()
