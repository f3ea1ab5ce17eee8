"""The outbox: durable, in order, once; bounded; alive when the disk or the database is not."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.monitor import spool
from agent.monitor.events import Cursor, Event, Kind, Severity, Unknown
from agent.monitor.ledger import BOUNDS, NAME, SKIPPED, Bounds
from agent.monitor.outbox import Outbox
from agent.system.clock import SystemClock
from appliance.lab.wait import wait_until

START = Cursor()
INFO, ALERT = Kind.SERVICE_RECOVERED, Kind.SERVICE_NOT_RECOVERED


def event(number: int, kind: Kind = INFO) -> Event:
    return Event(kind=kind, subject="dnsmasq", message=f"event {number}", data={"number": number})


@contextlib.contextmanager
def opened(
    folder: Path,
    *,
    boot: str = "b1",
    bounds: Bounds = BOUNDS,
    spools: tuple[Path, ...] = (),
    marked: bool = False,
    mark: Path | None = None,
) -> Iterator[Outbox]:
    mark = folder / "mark" if marked else mark
    outbox = Outbox(folder, spools, boot=boot, clock=SystemClock(), bounds=bounds, mark=mark)
    outbox.start()
    wait_until(lambda: outbox.read(START).stream, 5, "the outbox has a stream")
    try:
        yield outbox
    finally:
        outbox.close()


def numbers(outbox: Outbox, after: Cursor = START) -> list[object]:
    return [row.data.get("number") for row in outbox.read(after, 100_000).events]


# -- keeping -----------------------------------------------------------------------------------


def test_events_come_back_in_order_with_what_was_said(tmp_path: Path) -> None:
    with opened(tmp_path) as outbox:
        for number in range(5):
            outbox.record(event(number))
        page = outbox.read(START)
        assert [row.seq for row in page.events] == [1, 2, 3, 4, 5]
        first = page.events[0]
        assert (first.kind, first.severity, first.boot) == (INFO, Severity.INFO, "b1")
        assert (first.subject, first.message, first.data) == ("dnsmasq", "event 0", {"number": 0})
        assert page.next == Cursor(5, page.stream)
        assert (page.oldest, page.last) == (1, 5)


def test_stream_and_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as outbox:
        outbox.record(event(0))
        stream = outbox.read(START).stream
    with opened(tmp_path, boot="b2") as outbox:
        outbox.record(event(1))
        page = outbox.read(START)
    assert page.stream == stream
    assert [(row.seq, row.boot) for row in page.events] == [(1, "b1"), (2, "b2")]


def test_pages_are_as_long_as_was_asked_and_go_on(tmp_path: Path) -> None:
    with opened(tmp_path) as outbox:
        for number in range(5):
            outbox.record(event(number, ALERT if number % 2 else INFO))
        one = outbox.read(START, 2)
        two = outbox.read(one.next, 2)
        assert [row.seq for row in (*one.events, *two.events)] == [1, 2, 3, 4]
        bad = outbox.read(START, 10, Severity.WARNING)
        assert [row.seq for row in bad.events] == [2, 4]
        assert bad.next.seq == 5
        assert outbox.before(2).seq == 3
        assert outbox.before(1, Severity.WARNING).seq == 2
        assert outbox.before(100).seq == 0


def test_place_in_another_stream_is_the_beginning(tmp_path: Path) -> None:
    with opened(tmp_path) as outbox:
        outbox.record(event(0))
        assert numbers(outbox, Cursor(1, "another")) == [0]
        assert numbers(outbox, Cursor(1, outbox.read(START).stream)) == []


def test_what_is_said_has_neither_control_characters_nor_any_length(tmp_path: Path) -> None:
    with opened(tmp_path) as outbox:
        outbox.record(
            Event(kind=INFO, subject="a\nb", message="x\x1b[2J" * 999, data={"why": "y\0" * 999})
        )
        row = outbox.read(START).events[0]
        assert row.subject == "a b"
        assert len(row.message) == len(str(row.data["why"])) == 1000
        assert row.message.isprintable()


# -- waiting -----------------------------------------------------------------------------------


def test_whoever_waits_is_woken(tmp_path: Path) -> None:
    with opened(tmp_path) as outbox:
        woken = threading.Event()
        seen = outbox.read(START).next

        def wait() -> None:
            if outbox.wait(seen, 10):
                woken.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not woken.is_set()
        outbox.record(event(0))
        thread.join(5)
        assert woken.is_set()
        assert not outbox.wait(outbox.read(START).next, 0.01)


# -- acknowledging -----------------------------------------------------------------------------


def test_acknowledged_events_stay_a_while_and_are_then_gone(tmp_path: Path) -> None:
    with opened(tmp_path, bounds=Bounds(acknowledged=3)) as outbox:
        for number in range(10):
            outbox.record(event(number))
        stream = outbox.read(START).stream
        assert outbox.acknowledge(Cursor(8, stream)) == 8
        wait_until(lambda: numbers(outbox) == [5, 6, 7, 8, 9], 5, "the others are gone")
        assert outbox.acknowledge(Cursor(2, stream)) == 8  # cannot be taken back
    with opened(tmp_path) as outbox:
        assert outbox.read(START).acknowledged == 8


def test_what_was_never_given_cannot_be_acknowledged(tmp_path: Path) -> None:
    with opened(tmp_path) as outbox:
        outbox.record(event(0))
        page = outbox.read(START)
        with pytest.raises(Unknown):
            outbox.acknowledge(Cursor(2, page.stream))
        with pytest.raises(Unknown):
            outbox.acknowledge(Cursor(1, "another"))
        assert outbox.read(START).acknowledged == 0


# -- bounds ------------------------------------------------------------------------------------


def test_overflow_drops_info_first_and_says_so_once(tmp_path: Path) -> None:
    with opened(tmp_path, bounds=Bounds(rows=100)) as outbox:
        for number in range(101):
            outbox.record(event(number, INFO if number % 2 else ALERT))
        rows = outbox.read(START).events
        gaps = [row for row in rows if row.kind == Kind.EVENTS_GAP]
        assert [gap.data for gap in gaps] == [
            {"lost": 6, "first": 2, "last": 12, "reason": "nobody took them"}
        ]
        left = [row.data["number"] for row in rows if row.kind != Kind.EVENTS_GAP]
        assert left == [n for n in range(101) if n not in {1, 3, 5, 7, 9, 11}]


def test_a_gap_that_is_lost_is_part_of_the_next_one(tmp_path: Path) -> None:
    with opened(tmp_path, bounds=Bounds(rows=20)) as outbox:
        for number in range(200):
            outbox.record(event(number, ALERT))
        rows = outbox.read(START).events
        gaps = [row for row in rows if row.kind == Kind.EVENTS_GAP]
        lost = sum(int(str(gap.data["lost"])) for gap in gaps)
        assert lost + len(rows) - len(gaps) == 200
        assert min(int(str(gap.data["first"])) for gap in gaps) == 1
        assert len(rows) <= 21


def test_acknowledged_events_go_before_others_and_nothing_is_said(tmp_path: Path) -> None:
    with opened(tmp_path, bounds=Bounds(rows=50)) as outbox:
        for number in range(40):
            outbox.record(event(number))
        outbox.acknowledge(Cursor(30, outbox.read(START).stream))
        for number in range(40, 65):
            outbox.record(event(number))
        rows = outbox.read(START).events
        assert not [row for row in rows if row.kind == Kind.EVENTS_GAP]
        assert {row.data["number"] for row in rows} >= set(range(30, 65))


def test_bytes_are_bounded_too(tmp_path: Path) -> None:
    with opened(tmp_path, bounds=Bounds(size=256 * 1024)) as outbox:
        for number in range(400):
            outbox.record(Event(kind=INFO, subject="s", message="m" * 900, data={"number": number}))
        assert 200 < len(numbers(outbox)) < 280
    assert (tmp_path / NAME).stat().st_size < 400 * 1024


# -- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["text", "empty", "flipped", "another"])
def test_broken_database_is_moved_aside_and_told(tmp_path: Path, damage: str) -> None:
    with opened(tmp_path) as outbox:
        for number in range(500):
            outbox.record(event(number))
        stream = outbox.read(START).stream
    path = tmp_path / NAME
    match damage:
        case "text":
            path.write_text("this is no database\n" * 400)
        case "empty":
            path.write_bytes(b"")
        case "another":
            path.unlink()
            import sqlite3

            with sqlite3.connect(path) as database:
                database.execute("CREATE TABLE other (x)")
        case _:
            content = bytearray(path.read_bytes())
            for place in range(4096 + 8, len(content), 4096):
                content[place] ^= 0xFF
            path.write_bytes(content)
    with opened(tmp_path) as outbox:
        outbox.record(event(1000))
        page = outbox.read(START)
        assert page.stream != stream
        assert [row.kind for row in page.events] == [Kind.EVENTS_GAP, INFO]
        assert page.events[0].data["lost"] is None
    assert (tmp_path / f"{NAME}.broken").exists()


def test_database_that_breaks_while_it_is_open_is_replaced(tmp_path: Path) -> None:
    with opened(tmp_path) as outbox:
        for _ in range(600):
            outbox.record(Event(kind=INFO, subject="s", message="m" * 1000))
    with opened(tmp_path) as outbox:
        path = tmp_path / NAME
        with path.open("r+b") as file:  # pages that are not in the cache
            file.seek(4096 * 3)
            file.write(os.urandom(path.stat().st_size - 4096 * 3))
        outbox.read(START, 100_000)
        wait_until(
            lambda: [r.kind for r in outbox.read(START).events][:1] == [Kind.EVENTS_GAP],
            5,
            "a new one is begun",
        )
        outbox.record(event(7))
        assert numbers(outbox)[-1] == 7


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(argv, check=False).returncode:
        pytest.skip("needs root, to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    return ballast


def test_full_disk_loses_nothing_and_hides_nothing(small_disk: Path) -> None:
    with opened(small_disk) as outbox:
        outbox.record(event(0))
        ballast = fill(small_disk)
        for number in range(1, 1200):
            outbox.record(event(number))
        wait_until(lambda: numbers(outbox) == list(range(1200)), 5, "they are told from memory")
        told = outbox.read(START, 10_000).events
        ballast.unlink()
        outbox.record(event(1200))
        wait_until(lambda: len(numbers(outbox)) == 1201, 5, "the disk takes them again")
        outbox.record(event(1201))
        assert outbox.read(START, 10_000).events[:1200] == told
    with opened(small_disk) as outbox:
        assert numbers(outbox) == list(range(1202))


def test_memory_is_bounded_while_the_disk_is_full(small_disk: Path) -> None:
    with opened(small_disk) as outbox:
        ballast = fill(small_disk)
        for number in range(6000):
            outbox.record(event(number, ALERT if number < 100 else INFO))
        wait_until(lambda: 5999 in numbers(outbox), 5, "the last one is told")
        found = numbers(outbox)
        assert len(found) <= 2100
        assert found[:100] == list(range(100))  # the grave ones are kept
        ballast.unlink()
        wait_until(
            lambda: [r.kind for r in outbox.read(START, 9999).events][-1] == Kind.EVENTS_GAP,
            5,
            "the gap is told",
        )
        gap = outbox.read(START, 9999).events[-1]
        assert int(str(gap.data["lost"])) + len(found) == 6000


def test_read_only_disk_at_the_start_has_a_stream_in_memory(small_disk: Path) -> None:
    with opened(small_disk) as outbox:
        outbox.record(event(0))
        stream = outbox.read(START).stream
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with opened(small_disk) as outbox:
        outbox.record(event(1))
        wait_until(lambda: numbers(outbox) == [1], 5, "it is told from memory")
        page = outbox.read(START)
        assert page.stream.startswith("memory-")
        outbox.acknowledge(Cursor(0, page.stream))
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        wait_until(lambda: numbers(outbox) == [0, 1], 5, "it is in the database")
        assert outbox.read(START).stream == stream
        assert outbox.wait(Cursor(1, page.stream), 0)


def test_numbers_are_not_used_again_after_a_stop_that_was_none(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as outbox:
        outbox.record(event(0))
        shutil.copytree(tmp_path / "a", tmp_path / "b")
    with opened(tmp_path / "b") as outbox:
        outbox.record(event(1))
        assert [row.seq for row in outbox.read(START).events] == [1, 2 + SKIPPED]


def killed(folder: Path, to: Path) -> None:
    """What the agent leaves behind in these two folders when it is killed now."""
    shutil.copytree(folder, to)


def test_a_process_that_is_killed_leaves_no_number_out(tmp_path: Path) -> None:
    with opened(tmp_path / "a", marked=True) as outbox:
        outbox.record(event(0))
        killed(tmp_path / "a", tmp_path / "b")
    with opened(tmp_path / "b", marked=True) as outbox:
        outbox.record(event(1))
        assert [row.seq for row in outbox.read(START).events] == [1, 2]


def test_the_mark_of_another_stream_says_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "a", marked=True) as outbox:
        outbox.record(event(0))
        killed(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b/mark").write_text("another")
    with opened(tmp_path / "b", marked=True) as outbox:
        outbox.record(event(1))
        assert [row.seq for row in outbox.read(START).events] == [1, 2 + SKIPPED]


def test_numbers_that_were_told_from_memory_are_not_given_again(small_disk: Path) -> None:
    """Killed while the disk is full, and after it has taken everything."""
    folder, mark = small_disk / "events", small_disk.parent / "mark"
    folder.mkdir()
    with opened(folder, mark=mark) as outbox:
        outbox.record(event(0))
        assert mark.exists()
        ballast = fill(small_disk)
        for number in range(1, 300):
            outbox.record(event(number))
        wait_until(lambda: numbers(outbox) == list(range(300)), 5, "they are told from memory")
        assert not mark.exists()
        killed(folder, small_disk.parent / "full")
        ballast.unlink()
        outbox.record(event(300))
        wait_until(mark.exists, 5, "all that was told is in the database")
        killed(folder, small_disk.parent / "again")
        again = mark.read_text()
    with opened(small_disk.parent / "full", mark=small_disk.parent / "none") as outbox:
        outbox.record(event(1))
        assert outbox.read(START).last > 300
    mark.write_text(again)
    with opened(small_disk.parent / "again", mark=mark) as outbox:
        assert numbers(outbox) == list(range(301))
        outbox.record(event(301))
        assert outbox.read(START).last == 302


_WRITER = """
import sys
from pathlib import Path
from agent.monitor.events import Event, Kind
from agent.monitor.outbox import Outbox
from agent.system.clock import SystemClock

folder = Path(sys.argv[1])
outbox = Outbox(folder, boot="b", clock=SystemClock(), mark=folder / "mark")
outbox.start()
for number in range(100_000):
    outbox.record(
        Event(kind=Kind.SERVICE_DIED, subject="s", message=f"{number}", data={"number": number})
    )
    print(number, flush=True)
"""


@settings(max_examples=10)
@given(lines=st.integers(0, 60))
def test_killed_writer_loses_nothing_that_it_had_recorded(
    tmp_path_factory: pytest.TempPathFactory, lines: int
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    said = [int(writer.stdout.readline()) for _ in range(lines)]
    writer.send_signal(signal.SIGKILL)
    said += [int(line) for line in writer.stdout.read().split()]
    writer.wait()
    writer.stdout.close()
    with opened(folder, marked=True) as outbox:
        found = numbers(outbox)
        last = outbox.read(START).last
    assert last == len(found)  # no number was left out
    assert found[: len(said)] == said == list(range(len(said)))
    assert len(said) <= len(found) <= len(said) + 1  # the last one may not have been said


@settings(max_examples=25)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("record"), st.integers(1, 8)),
            st.tuples(st.just("acknowledge"), st.integers(0, 100)),  # per cent of what is there
            st.tuples(st.just("restart"), st.just(0)),
        ),
        max_size=25,
    )
)
def test_nothing_unacknowledged_is_ever_missing(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Whatever is recorded, acknowledged and restarted in whichever order."""
    folder = tmp_path_factory.mktemp("model")
    recorded = acknowledged = 0
    seqs: dict[object, int] = {}
    with contextlib.ExitStack() as stack:
        outbox = stack.enter_context(opened(folder, bounds=Bounds(acknowledged=3)))
        for step, amount in steps:
            match step:
                case "record":
                    for _ in range(amount):
                        outbox.record(event(recorded))
                        recorded += 1
                case "restart":
                    stack.close()
                    outbox = stack.enter_context(opened(folder, bounds=Bounds(acknowledged=3)))
                case _:
                    page = outbox.read(START, 100_000)
                    cursor = Cursor(page.last * amount // 100, page.stream)
                    assert outbox.acknowledge(cursor) == max(cursor.seq, page.acknowledged)
                    acknowledged = max(acknowledged, cursor.seq)
            rows = outbox.read(START, 100_000).events
            found = [row.data["number"] for row in rows]
            assert found == sorted(set(map(int, map(str, found))))
            assert set(found) >= set(range(acknowledged, recorded))
            assert len(found) <= recorded - acknowledged + 3 + 100  # gone soon, not at once
            for row in rows:
                assert seqs.setdefault(row.data["number"], row.seq) == row.seq


# -- other processes ---------------------------------------------------------------------------


def test_spooled_events_are_taken_in_once(tmp_path: Path) -> None:
    folders = tmp_path / "state", tmp_path / "run"
    leaving = spool.Spool(folders, boot="b0", clock=SystemClock())
    leaving.record(event(0))
    leaving.record(event(1))
    kept = next(folders[0].iterdir())
    copy = kept.read_bytes()
    with opened(tmp_path, spools=folders) as outbox:
        wait_until(lambda: numbers(outbox) == [0, 1], 5, "they are taken in")
        assert [row.boot for row in outbox.read(START).events] == ["b0", "b0"]
        leaving.record(event(2))
        (folders[0] / "nonsense.json").write_text("{")
        wait_until(lambda: numbers(outbox) == [0, 1, 2], 5, "and what comes while it runs")
        wait_until(lambda: not list(folders[0].iterdir()), 5, "the files are gone")
    kept.write_bytes(copy)  # as if it had been killed before the file was removed


def test_spool_takes_memory_where_the_disk_takes_nothing(small_disk: Path, tmp_path: Path) -> None:
    fill(small_disk)
    folders = small_disk / "spool", tmp_path / "run"
    spool.Spool(folders, boot="b0", clock=SystemClock()).record(event(0))
    assert len(list(folders[1].iterdir())) == 1
    with opened(small_disk, spools=folders) as outbox:
        wait_until(lambda: numbers(outbox) == [0], 5, "it is told though the disk is full")
        (small_disk / "ballast").unlink()
        wait_until(lambda: not list(folders[1].iterdir()), 5, "it is taken in")
        assert numbers(outbox) == [0]
    with opened(small_disk) as outbox:
        assert numbers(outbox) == [0]
