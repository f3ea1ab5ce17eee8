"""The log that operators' scripts read."""

import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.monitor.log import Level, ServiceLog, line
from agent.monitor.sentences import MEANINGS, Sentence
from agent.system.run import run

AT = 1_795_352_410.123  # 2026-11-22 13:00:10,123 UTC


@pytest.fixture
def log(tmp_path: Path) -> ServiceLog:
    return ServiceLog(tmp_path / "log", now=lambda: AT, syslog="/nonexistent")


def newest_first(text: str, last: str = "") -> list[str]:
    """What operators' script tells: lines newer than `last`, found from the end backwards.

    A line's time is its first two words, up to the comma; a blank line is nobody's.
    """
    found: list[str] = []
    for one in reversed(text.splitlines()):
        date, clock = one.split(" ")[:2]
        if not f"{date} {clock.split(',')[0]}" > last:
            break
        found.append(one)
    return found[::-1]


def test_a_line_is_as_scripts_know_it() -> None:
    told = line(AT, Level.ALERT, "dnsmasq", Sentence.FAILED.of("dnsmasq"), reason="crash", exit=1)
    assert told == (
        "2026-11-22 13:00:10,123 [ALERT] [dnsmasq] The process dnsmasq recover failed "
        "reason=crash exit=1"
    )


def test_the_known_sentences_are_word_for_word() -> None:
    known = (
        "The process detected as running",
        "The process X is not running trying recover",
        "The process X is recovered successfully",
        "The process X recover failed",
    )
    sentences = [sentence.of("X") for sentence in Sentence]
    assert tuple(sentences[:4]) == known
    assert MEANINGS.keys() == set(Sentence)
    # Whoever greps for them finds no other.
    assert not [s for s in sentences[4:] if any(one in s for one in known)]


def test_a_value_of_several_words_is_quoted_and_an_empty_one_left_out() -> None:
    told = line(AT, Level.INFO, "x", "y", detail='it said "no"', exit="")
    assert told.endswith("[x] y detail=\"it said 'no'\"")


@given(st.text(), st.text(), st.text())
def test_whatever_is_told_is_one_line_of_the_form(subject: str, text: str, detail: str) -> None:
    told = line(AT, Level.INFO, subject, text, detail=detail)
    assert told.isprintable()
    assert len(told.splitlines()) == 1
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \[INFO\] \[", told)


def test_a_reader_gets_what_is_newer_than_it_knows(tmp_path: Path) -> None:
    clock = iter([AT, AT + 1, AT + 2])
    log = ServiceLog(tmp_path / "log", now=lambda: next(clock), syslog="/nonexistent")
    for text in ("one", "two\n\nand more\x1b[2J", "three"):
        log.write(Level.INFO, "x", text)
    text = (tmp_path / "log").read_text()
    assert "\n\n" not in text
    assert len(newest_first(text)) == 3
    assert [told.split()[-1] for told in newest_first(text, "2026-11-22 13:00:11")] == ["three"]
    assert newest_first(text, "2026-11-22 13:00:12") == []


def test_rotation_under_load_loses_no_line_and_stays_bounded(tmp_path: Path) -> None:
    log = ServiceLog(tmp_path / "log", largest=150_000, kept=5, syslog="/nonexistent")

    def write(thread: int) -> None:
        for number in range(500):
            log.write(Level.INFO, "load", f"line {thread}-{number} {'x' * 300}")

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = sorted(tmp_path.glob("log*"))
    assert [path.name for path in written] == ["log", "log.1", "log.2", "log.3", "log.4"]
    assert all(path.stat().st_size <= 150_000 for path in written)
    told = {w for path in written for w in re.findall(r"line (\d-\d+) ", path.read_text())}
    assert len(told) == 2000


def test_the_oldest_file_goes(tmp_path: Path) -> None:
    log = ServiceLog(tmp_path / "log", largest=500, kept=3, syslog="/nonexistent")
    for number in range(40):
        log.write(Level.INFO, "x", f"line {number} {'x' * 50}")
    names = sorted(path.name for path in tmp_path.glob("log*"))
    assert names == ["log", "log.1", "log.2"]
    kept = [path.read_text() for path in sorted(tmp_path.glob("log*"), reverse=True)]
    numbers = [int(n) for n in re.findall(r"line (\d+)", "".join(kept))]
    assert numbers == list(range(numbers[0], 40))


def test_a_file_that_somebody_moved_away_is_made_again(log: ServiceLog, tmp_path: Path) -> None:
    log.write(Level.INFO, "x", "one")
    (tmp_path / "log").rename(tmp_path / "moved")
    log.write(Level.INFO, "x", "two")
    assert (tmp_path / "moved").read_text().endswith("one\n")
    assert (tmp_path / "log").read_text().endswith("two\n")


def test_lines_wait_where_they_cannot_be_written_and_come_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "var"
    log = ServiceLog(folder / "log", syslog="/nonexistent")
    log.write(Level.INFO, "x", "one")
    log.write(Level.INFO, "x", "two")
    folder.mkdir()
    log.flush()
    assert [told.split()[-1] for told in (folder / "log").read_text().splitlines()] == [
        "one",
        "two",
    ]


def test_what_does_not_fit_into_memory_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "var"
    log = ServiceLog(folder / "log", syslog="/nonexistent")
    for number in range(2003):
        log.write(Level.INFO, "x", f"line {number}")
    folder.mkdir()
    log.flush()
    lines = (folder / "log").read_text().splitlines()
    assert lines[0].endswith("[CRIT] [log] 3 lines were lost")
    assert lines[1].endswith("line 3")
    assert lines[-1].endswith("line 2002")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "victim")
    ServiceLog(tmp_path / "log", syslog="/nonexistent").write(Level.INFO, "x", "one")
    assert not (tmp_path / "victim").exists()


def test_the_journal_is_told_with_the_tag(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        log = ServiceLog(tmp_path / "log", syslog=str(tmp_path / "journal"))
        log.write(Level.ALERT, "haproxy", "The process haproxy recover failed")
        packet = journal.recv(4096).decode()
    assert packet.startswith("<28>monit: 20")
    assert packet.endswith("[ALERT] [haproxy] The process haproxy recover failed")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("only root mounts")
    place = tmp_path / "small"
    place.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], timeout=10)
    yield place
    run(["umount", "--lazy", str(place)], timeout=10)


def test_a_full_disk_takes_the_reserve_then_memory_then_room_again(small_disk: Path) -> None:
    log = ServiceLog(small_disk / "log", reserve=64 * 1024, syslog="/nonexistent")
    log.write(Level.INFO, "x", "line 0")
    reserve = small_disk / ".log.reserve"
    assert reserve.stat().st_size == 64 * 1024
    filler = small_disk / "filler"
    _fill(filler)
    number = 0
    while not reserve.exists() or number < 100:
        number += 1
        log.write(Level.ALERT, "x", f"line {number} {'y' * 900}")
        if not reserve.exists():
            break
    assert (small_disk / "log").read_text().endswith(f"{'y' * 900}\n")
    for _ in range(200):
        number += 1
        log.write(Level.ALERT, "x", f"line {number} {'y' * 900}")
    filler.unlink()
    log.flush()
    text = (small_disk / "log").read_text()
    assert [int(n) for n in re.findall(r"line (\d+)", text)] == list(range(number + 1))
    assert text.endswith("\n")


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"\0" * 4096)
        except OSError:
            return
