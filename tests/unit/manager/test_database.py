"""The schema and its transactions, on both databases."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, inspect, text

from appliance.manager import migrations
from appliance.manager.database import Database, NoDatabase
from appliance.manager.tables import metadata


def test_the_migrations_make_the_tables_that_queries_name(database: Database) -> None:
    with database.read() as connection:
        seen = inspect(connection)
        assert set(seen.get_table_names()) == set(metadata.tables)
        for name, table in metadata.tables.items():
            made = {one["name"]: one["nullable"] for one in seen.get_columns(name)}
            assert made.keys() == {column.name for column in table.columns}
            for column in table.columns:  # SQLite's own numbers are called nullable, and are not
                assert column.primary_key or made[column.name] is column.nullable, column


def test_they_are_run_once_by_however_many_managers(url: str) -> None:
    opened = [Database(url) for _ in range(4)]
    done: list[tuple[str, ...]] = []
    threads = [
        threading.Thread(target=lambda one=one: done.append(one.migrate())) for one in opened
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [(), (), (), migrations.STEPS]
    for one in opened:
        one.close()


def test_a_database_of_a_newer_manager_is_left_alone(database: Database) -> None:
    database.write(lambda c: c.execute(text("UPDATE meta SET value = '99'")))
    with pytest.raises(NoDatabase, match="99"):
        database.migrate()


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    def work(connection):  # type: ignore[no-untyped-def]  # raises anyway
        connection.execute(text("INSERT INTO meta (name, value) VALUES ('a', 'b')"))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        database.write(work)
    with database.read() as connection:
        assert not connection.execute(text("SELECT 1 FROM meta WHERE name = 'a'")).all()


def test_writers_of_several_managers_lose_no_update(manager: Callable[[], Database]) -> None:
    first = manager()
    first.write(lambda c: c.execute(text("INSERT INTO meta (name, value) VALUES ('n', '0')")))

    def count(one: Database) -> None:
        def add(connection):  # type: ignore[no-untyped-def]  # a statement or two
            value = connection.execute(text("SELECT value FROM meta WHERE name = 'n'")).scalar_one()
            connection.execute(
                text("UPDATE meta SET value = :v WHERE name = 'n'"), {"v": str(int(value) + 1)}
            )

        for _ in range(25):
            one.placing("the same", add)

    threads = [threading.Thread(target=count, args=(manager(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with first.read() as connection:
        assert connection.execute(text("SELECT value FROM meta WHERE name = 'n'")).scalar() == "100"


@pytest.mark.parametrize("given", ["nonsense", "mysql://root@host/db"])
def test_what_is_no_database_of_ours_is_refused(given: str) -> None:
    with pytest.raises(NoDatabase):
        Database(given)


def test_a_database_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoDatabase):
        Database(f"postgresql://nobody@/none?host={tmp_path}").migrate()


def test_power_cuts_lose_nothing_that_was_committed(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/manager.db")
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    database.close()


def test_only_what_is_found_out_again_waits_for_no_disk(database: Database) -> None:
    asked, waits, does_not = {
        "sqlite": ("PRAGMA synchronous", 2, 1),
        "postgresql": ("SHOW synchronous_commit", "on", "off"),
    }[database.dialect]

    def look(connection: Connection) -> object:
        return connection.exec_driver_sql(asked).scalar()

    assert database.write(look) == waits
    assert database.write(look, durable=False) == does_not
    assert database.write(look) == waits  # on the same connection
    assert database.placing("vm1", look, user="alice") == waits
