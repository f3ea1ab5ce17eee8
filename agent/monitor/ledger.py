"""The outbox's file: events in SQLite, each durable when its transaction has ended.

WAL with synchronous=FULL: a commit is one append and one fsync, and a power cut takes nothing back
that was committed. One process has the file to itself, so there is no shared memory beside it.

    events   what is kept, by number; those that are acknowledged stay a while, for operators
    taken    spooled files that are in `events` and may not have been removed yet
    meta     the stream's id, the last number acknowledged, and whether the file was closed

Numbers are never used twice in a stream, also not after a fault in which some were given to events
that could not be written: a file that was not closed begins some thousands further on, unless who
opens it knows that nothing of the kind has been (a process that is killed takes nothing back).
"""

import contextlib
import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.monitor.events import Kind, Severity, Stored
from agent.system.files import sync_folder

VERSION = 1
NAME = "events.db"
SKIPPED = 10_000  # numbers left out after a stop that was none; more may not be given unwritten
_OVERHEAD = 120  # bytes that a row costs beside its texts, about
_SLACK = 0.05  # of the bounds: so much is made free at once
_BUSY = 0.2  # seconds

_SCHEMA = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, boot TEXT NOT NULL, at REAL NOT NULL, monotonic REAL NOT NULL,
    kind TEXT NOT NULL, severity INTEGER NOT NULL, subject TEXT NOT NULL, message TEXT NOT NULL,
    data TEXT NOT NULL, size INTEGER NOT NULL);
CREATE TABLE taken (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""
_COLUMNS = "seq, boot, at, monotonic, kind, severity, subject, message, data"
_SEVERITIES = tuple(Severity)


class Unavailable(Exception):
    """The file cannot be written, or opened, now: the disk is full, read-only or broken."""

    retryable = True


class Corrupt(Exception):
    """The file is not what we wrote."""

    retryable = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept."""

    rows: int = 50_000
    size: int = 16 * 1024 * 1024  # bytes
    acknowledged: int = 1000  # rows that stay after they were acknowledged


BOUNDS = Bounds()


@dataclass(frozen=True, slots=True)
class Lost:
    """What had to go unacknowledged; not every number from first to last need be lost."""

    count: int
    first: int
    last: int

    def __add__(self, other: "Lost") -> "Lost":
        first, last = min(self.first, other.first), max(self.last, other.last)
        return Lost(self.count + other.count, first, last)


class Ledger:
    """The open file. Not for two threads at once."""

    def __init__(self, path: Path, bounds: Bounds = BOUNDS, *, whole: str = "") -> None:
        """Open it, or make it; `whole` is the stream all of whose numbers are known to be in it.

        Raises Unavailable, Corrupt.
        """
        self._bounds = bounds
        self._whole = whole
        new = not path.exists()
        if not new and not path.stat().st_size:
            raise Corrupt("it is empty")
        with _told():
            self._db = sqlite3.connect(
                path, timeout=_BUSY, isolation_level=None, check_same_thread=False
            )
        self._db.text_factory = lambda text: text.decode(errors="replace")
        try:
            with _told(opening=True):
                self._prepare()
            if new:
                sync_folder(path.parent)
        except BaseException:
            self._db.close()
            if new:  # else it would be taken for one that broke
                for ending in ("", "-wal"):
                    path.with_name(path.name + ending).unlink(missing_ok=True)
            raise

    def _prepare(self) -> None:
        for pragma in (
            "locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", "cache_size=-256",
            "wal_autocheckpoint=256", "temp_store=MEMORY",
        ):  # fmt: skip
            self._db.execute(f"PRAGMA {pragma}")
        version = self._one("PRAGMA user_version")
        with self.transaction():
            if not version and not self._one("SELECT count(*) FROM sqlite_schema"):
                self._make()
            elif version != VERSION:
                raise Corrupt(f"its version is {version}, known is {VERSION}")
            elif (found := self._one("PRAGMA quick_check(1)")) != "ok":
                raise Corrupt(str(found))
            self.stream = str(self._meta("stream"))
            self.acknowledged = int(self._meta("acknowledged"))
            self._rows, self._size, greatest = self._db.execute(
                "SELECT count(*), coalesce(sum(size), 0), coalesce(max(seq), 0) FROM events"
            ).fetchone()
            self.last = max(int(greatest), int(self._meta("last")), self.acknowledged)
            if not self._meta("closed") and self.stream != self._whole:
                self.last += SKIPPED
            self._put_meta("last", self.last)
            self._put_meta("closed", 0)

    def _make(self) -> None:
        for statement in _SCHEMA.split(";"):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version={VERSION}")
        stream = secrets.token_hex(8)
        for key, value in (("stream", stream), ("acknowledged", 0), ("last", 0), ("closed", 1)):
            self._put_meta(key, value)

    def close(self) -> None:
        """Close it, and say so in it."""
        with contextlib.suppress(Unavailable, Corrupt), self.transaction():
            self._put_meta("last", self.last)
            self._put_meta("closed", 1)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the file as it is."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    # -- writing ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it, durably, or none. Raises Unavailable, Corrupt."""
        before = getattr(self, "_rows", 0), getattr(self, "_size", 0), getattr(self, "last", 0)
        with _told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._rows, self._size, self.last = before
                if self._db.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")
                raise

    def append(self, events: Sequence[Stored]) -> None:
        """Within a transaction: keep them, under the numbers that they have."""
        for event in events:
            data = json.dumps(event.data, ensure_ascii=False, separators=(",", ":"))
            size = len(event.subject) + len(event.message) + len(data) + _OVERHEAD
            self._db.execute(
                f"INSERT INTO events ({_COLUMNS}, size) VALUES (?,?,?,?,?,?,?,?,?,?)",  # noqa: S608 - names of ours
                (
                    event.seq, event.boot, event.at, event.monotonic, event.kind,
                    event.severity.rank, event.subject, event.message, data, size,
                ),
            )  # fmt: skip
            self._rows += 1
            self._size += size
            self.last = max(self.last, event.seq)

    def make_room(self) -> Lost | None:
        """Within a transaction: where there is too much, let some go; what nobody had yet is lost.

        Acknowledged ones go first, then the least severe (INFO), then the oldest.
        """
        rows, size = self._bounds.rows, self._bounds.size
        if self._rows <= rows and self._size <= size:
            return None
        average = self._size // self._rows
        count = max(
            self._rows - int(rows * (1 - _SLACK)),
            (self._size - int(size * (1 - _SLACK))) // average + 1,
        )
        order = "ORDER BY seq > ?, severity > 0, seq LIMIT ?"
        going = self._db.execute(
            f"SELECT seq, size, kind, data FROM events {order}",  # noqa: S608 - words of ours
            (self.acknowledged, count),
        ).fetchall()
        self._db.executemany("DELETE FROM events WHERE seq = ?", ((row[0],) for row in going))
        self._rows -= len(going)
        self._size -= sum(row[1] for row in going)
        lost = [_lost(*row) for row in going if row[0] > self.acknowledged]
        return sum(lost[1:], lost[0]) if lost else None

    def acknowledge(self, last: int) -> None:
        """All up to this number have arrived. Raises Unavailable, Corrupt."""
        with self.transaction():
            self._put_meta("acknowledged", last)
            kept = self._one(
                "SELECT seq FROM events WHERE seq <= ? ORDER BY seq DESC LIMIT 1 OFFSET ?",
                last,
                self._bounds.acknowledged,
            )
            if kept is not None:
                count, size = self._db.execute(
                    "SELECT count(*), coalesce(sum(size), 0) FROM events WHERE seq <= ?", (kept,)
                ).fetchone()
                self._db.execute("DELETE FROM events WHERE seq <= ?", (kept,))
                self._rows -= count
                self._size -= size
        self.acknowledged = last

    def take(self, name: str) -> bool:
        """Within a transaction: note that a spooled file is in; was it not yet?"""
        cursor = self._db.execute("INSERT OR IGNORE INTO taken VALUES (?)", (name,))
        return cursor.rowcount == 1

    def forget_taken(self) -> None:
        """The spooled files that were taken in are removed. Raises Unavailable, Corrupt."""
        with _told():
            self._db.execute("DELETE FROM taken")

    # -- reading ----------------------------------------------------------------------------

    def read(self, after: int, limit: int, least: Severity = Severity.INFO) -> tuple[Stored, ...]:
        """The next events after this number, in order. Raises Unavailable, Corrupt."""
        with _told():
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM events WHERE seq > ? AND severity >= ? "  # noqa: S608 - names of ours
                "ORDER BY seq LIMIT ?",
                (after, least.rank, limit),
            ).fetchall()
        try:
            return tuple(_stored(*row) for row in rows)
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            raise Corrupt(f"a row is not as it was written: {error}") from error

    def before(self, count: int, least: Severity) -> int:
        """The number after which the last `count` events follow. Raises Unavailable, Corrupt."""
        with _told():
            found = self._one(
                "SELECT seq FROM events WHERE severity >= ? ORDER BY seq DESC LIMIT 1 OFFSET ?",
                least.rank,
                count,
            )
        return int(found or 0)

    def oldest(self) -> int | None:
        """The least number that is kept. Raises Unavailable, Corrupt."""
        with _told():
            found: int | None = self._one("SELECT min(seq) FROM events")
        return found

    def _one(self, query: str, *values: object) -> Any:
        row = self._db.execute(query, values).fetchone()
        return None if row is None else row[0]

    def _meta(self, key: str) -> Any:
        value = self._one("SELECT value FROM meta WHERE key = ?", key)
        if value is None:
            raise Corrupt(f"it has no {key}")
        return value

    def _put_meta(self, key: str, value: object) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def move_aside(path: Path) -> Path:
    """Keep a file that cannot be used, one of them, for whoever wants to look. Raises OSError."""
    aside = path.with_name(f"{path.name}.broken")
    for ending in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + ending).replace(aside.with_name(aside.name + ending))
    return aside


@contextlib.contextmanager
def _told(*, opening: bool = False) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if opening and code == sqlite3.SQLITE_ERROR:  # such as: no such table
            raise Corrupt(str(error)) from error
        raise Unavailable(str(error)) from error
    except sqlite3.Error as error:
        raise Corrupt(str(error)) from error


def _stored(
    seq: int, boot: str, at: float, monotonic: float, kind: str, severity: int, subject: str,
    message: str, data: str,
) -> Stored:  # fmt: skip
    return Stored(
        seq=seq,
        boot=boot,
        at=at,
        monotonic=monotonic,
        kind=kind,
        severity=_SEVERITIES[severity],
        subject=subject,
        message=message,
        data=json.loads(data),
    )


def _lost(seq: int, _size: int, kind: str, data: str) -> Lost:
    """A row that goes; with one that told of a gap, what that one told of."""
    if kind == Kind.EVENTS_GAP:
        told: Mapping[str, Any] = json.loads(data)
        return Lost(told["lost"] or 1, told["first"] or seq, seq)
    return Lost(1, seq, seq)
