"""The database: transactions that are whole on SQLite and on PostgreSQL, and what locks what.

    write()      one transaction. SQLite has one writer at a time (BEGIN IMMEDIATE), so nothing
                 else is needed there. On PostgreSQL it reads what others have committed.
    placing()    the same, for putting a session somewhere. PostgreSQL: a VM's are put one after
                 another (an advisory lock of the VM), beside those of other VMs; so are a
                 user's, where it is counted how many there are.
    returning()  the same, for whatever makes a proxy available (again). PostgreSQL: alone, while
                 nobody places, so that "this VM has no session elsewhere" stays true.

Locks are taken in this order: the lock of all, the user's, the VM's, a proxy's row, sessions'
rows. What PostgreSQL undoes for a deadlock nevertheless is done again.
"""

import contextlib
import hashlib
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from appliance.errors import ApplianceError
from appliance.manager import migrations

log = logging.getLogger(__name__)
Result = TypeVar("Result")

_BUSY = 30.0  # seconds that SQLite waits for another process
_AGAIN = 5  # times that a transaction is done again
_ALL = 0x5359_5356_4D00  # PostgreSQL's advisory lock of everybody who places
_MIGRATING = _ALL + 1
_LOG = 8000
_SYNC = {True: "FULL", False: "NORMAL"}
_NOT_DURABLE = text("SET LOCAL synchronous_commit = off")
# A list is evaluated from its left: each lock is had before the next is asked for.
_PLACING = text("SELECT pg_advisory_xact_lock_shared(:all), pg_advisory_xact_lock(:vm)")
_PLACING_COUNTED = text(
    "SELECT pg_advisory_xact_lock_shared(:all), pg_advisory_xact_lock(:user), "
    "pg_advisory_xact_lock(:vm)"
)
_UNDONE = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected


class NoDatabase(ApplianceError):
    """The database cannot be used."""

    retryable = True


class Database:
    """One database, for all of a manager's threads."""

    def __init__(self, url: str) -> None:
        """`sqlite:///FILE`, or `postgresql://USER@HOST/NAME`. Raises NoDatabase."""
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise NoDatabase(f"{url!r} is no database's URL", "sqlite:////path/to/file") from error
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.dialect = parsed.get_backend_name()
        if self.dialect not in {"sqlite", "postgresql"}:
            raise NoDatabase(f"{self.dialect} is not supported", "SQLite or PostgreSQL")
        self._turn: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        self._engine = self._open(parsed)

    def _open(self, url: Any) -> Engine:
        if self.dialect == "postgresql":
            return create_engine(
                url, pool_size=16, max_overflow=16, pool_timeout=30, pool_pre_ping=True
            )
        # Writers of this process take turns here: SQLite's own waiting is by chance.
        self._turn = threading.Lock()
        engine = create_engine(url, pool_size=8, max_overflow=24, connect_args={"timeout": _BUSY})
        event.listen(engine, "connect", _sqlite_connected)
        event.listen(engine, "begin", _sqlite_begin)
        return engine

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    # -- transactions --------------------------------------------------------------------------

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """What was committed, as of one moment where SQLite is asked."""
        with self._engine.connect() as connection:
            yield connection

    def write(self, work: Callable[[Connection], Result], *, durable: bool = True) -> Result:
        """Do this in one transaction, again from the beginning where the database undid it.

        One that is not durable waits for no disk: a power cut may undo it, with whatever was not
        durable after it, and nothing before. It is for what is heard again or found out anew.
        """
        return self._write(lambda _: None, work, durable)

    def placing(
        self, vm: str, work: Callable[[Connection], Result], user: str | None = None
    ) -> Result:
        """Put a session of this VM somewhere; of this user, where his are counted."""
        keys = {"all": _ALL, "vm": _number(f"vm {vm}"), "user": _number(f"user {user}")}

        def lock(connection: Connection) -> None:
            connection.execute(_PLACING if user is None else _PLACING_COUNTED, keys)

        return self._write(lock, work)

    def returning(self, work: Callable[[Connection], Result]) -> Result:
        """Make a proxy available (again)."""

        def lock(connection: Connection) -> None:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ALL})

        return self._write(lock, work)

    def _write(
        self,
        lock: Callable[[Connection], None],
        work: Callable[[Connection], Result],
        durable: bool = True,
    ) -> Result:
        options = {"sysvm_writes": True, "sysvm_durable": durable}
        for attempt in range(1, _AGAIN + 1):
            try:
                with self._turn, self._engine.connect() as plain:
                    connection = plain.execution_options(**options)
                    with connection.begin():
                        if self.dialect == "postgresql":
                            if not durable:
                                connection.execute(_NOT_DURABLE)
                            lock(connection)
                        return work(connection)
            except DBAPIError as error:
                if attempt == _AGAIN or not _undone(error):
                    raise
                time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - to part two
        raise AssertionError("unreachable")

    # -- the schema ----------------------------------------------------------------------------

    def migrate(self) -> tuple[str, ...]:
        """Bring the schema up to date; what was done. Raises NoDatabase."""
        try:
            return self._write(self._lock_migrations, self._migrate)
        except OperationalError as error:
            raise NoDatabase(f"the database cannot be used: {error.orig}") from error

    @staticmethod
    def _lock_migrations(connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATING})

    def _migrate(self, connection: Connection) -> tuple[str, ...]:
        done = self._schema(connection)
        if done > len(migrations.STEPS):
            raise NoDatabase(
                f"the database's schema is number {done}, this manager knows "
                f"{len(migrations.STEPS)}",
                "a newer manager has changed it: run that one",
            )
        steps = migrations.STEPS[done:]
        for step in steps:
            for statement in migrations.statements(step, self.dialect):
                connection.exec_driver_sql(statement)
            log.info("the database is at %s", step)
        if steps:
            connection.execute(text("DELETE FROM meta WHERE name = 'schema'"))
            connection.execute(
                text("INSERT INTO meta (name, value) VALUES ('schema', :number)"),
                {"number": str(len(migrations.STEPS))},
            )
        return steps

    def _schema(self, connection: Connection) -> int:
        if not self._engine.dialect.has_table(connection, "meta"):
            return 0
        found = connection.execute(text("SELECT value FROM meta WHERE name = 'schema'")).scalar()
        return int(found or 0)


def _number(whose: str) -> int:
    """The advisory lock of somebody; two that share one by chance only wait for each other."""
    digest = hashlib.blake2b(whose.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _undone(error: DBAPIError) -> bool:
    """Has the database undone it, so that it can be done again?"""
    original = error.orig
    if isinstance(original, sqlite3.OperationalError):
        return original.sqlite_errorcode in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
    return getattr(original, "sqlstate", None) in _UNDONE


def _sqlite_connected(connection: Any, _record: object) -> None:
    # The driver would begin transactions of its own, and only before some statements.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        # Whoever fills the log so far copies it, while everybody waits: pages of 4 KiB.
        f"wal_autocheckpoint = {_LOG}",
        f"busy_timeout = {int(_BUSY * 1000)}",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if not options.get("sysvm_writes"):
        connection.exec_driver_sql("BEGIN")
        return
    # What was acknowledged survives a power cut. The log is synced in its order: by NORMAL, with
    # the next transaction that is synced itself.
    connection.exec_driver_sql(f"PRAGMA synchronous = {_SYNC[options['sysvm_durable']]}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
