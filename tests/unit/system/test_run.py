"""Programs that are started: what they say, their limits, and that nothing of them stays."""

import os
import threading
from pathlib import Path

import pytest

from agent.system.run import CommandFailed, Reason, Running, Said
from appliance.lab.wait import wait_until

ENDLESS = "while :; do echo x; done"


def sh(script: str, *, timeout: float = 20.0, longest: int = 4096) -> Running:
    return Running(["sh", "-c", script], timeout=timeout, longest=longest)


def all_of(running: Running) -> tuple[bytes, bytes]:
    """What it says on both streams until it ends."""
    said = [part for part in running if part is not None]
    out = b"".join(part.data for part in said if part.stream == "stdout")
    return out, b"".join(part.data for part in said if part.stream == "stderr")


def test_both_streams_and_the_exit_code() -> None:
    running = sh("echo out; echo err >&2; echo more; exit 3")
    assert all_of(running) == (b"out\nmore\n", b"err\n")
    assert (running.returncode, running.reason) == (3, Reason.EXITED)
    assert 0 < running.duration < 20


def test_says_as_it_says_and_keeps_silence(tmp_path: Path) -> None:
    go = tmp_path / "go"
    running = sh(f"echo one; until [ -e {go} ]; do sleep 0.1; done; echo two")
    rounds = iter(running)
    assert next(rounds) == Said("stdout", b"one\n")
    assert next(rounds) is None
    go.touch()
    assert [part for part in rounds if part] == [Said("stdout", b"two\n")]


def test_time_limit_kills_the_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    running = sh(f"trap '' INT; sleep 600 & echo $! $$ > {pids}; wait", timeout=3)
    assert all_of(running) == (b"", b"")
    assert (running.returncode, running.reason) == (-9, Reason.TIME)
    assert 2.5 < running.duration < 60
    assert all(gone(int(pid)) for pid in pids.read_text().split())


def test_program_whose_time_is_over_says_what_it_found() -> None:
    running = sh("trap 'echo three of four answered; exit 1' INT; sleep 600 & wait", timeout=3)
    assert all_of(running) == (b"three of four answered\n", b"")
    assert (running.returncode, running.reason) == (1, Reason.TIME)


def test_time_limit_holds_while_nobody_reads() -> None:
    running = sh(ENDLESS, timeout=0.3, longest=1 << 30)
    pid = running._process.pid  # noqa: SLF001 - is it still there?
    wait_until(lambda: state(pid) == "Z", 30, "it is killed")
    running.close()
    assert running.reason is Reason.TIME


def test_output_limit_is_exact() -> None:
    running = sh(f"echo err >&2; sleep 0.2; {ENDLESS}", longest=1000)
    out, err = all_of(running)
    assert len(out) + len(err) == 1000
    assert (running.returncode, running.reason) == (-9, Reason.OUTPUT)


def test_output_as_long_as_allowed_is_whole() -> None:
    running = sh("printf 0123456789", longest=10)
    assert all_of(running) == (b"0123456789", b"")
    assert running.reason is Reason.EXITED


def test_closing_ends_it_and_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    running = sh(f"sleep 600 & echo $! $$ > {pids}; echo ready; wait")
    assert next(iter(running)) == Said("stdout", b"ready\n")
    running.close()
    running.close()
    assert (running.returncode, running.reason) == (-9, Reason.CLOSED)
    assert all(gone(int(pid)) for pid in pids.read_text().split())


def test_child_that_stays_behind_holds_nobody(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    running = sh(f"sleep 600 & echo $! > {pid}; exit 0")
    assert all_of(running) == (b"", b"")
    assert (running.returncode, running.reason) == (0, Reason.EXITED)
    assert running.duration < 60
    assert gone(int(pid.read_text()))


def test_nothing_is_left_open() -> None:
    def count() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    before = count()
    for script in ("exit 0", ENDLESS):
        all_of(sh(script, longest=100))
    # What other tests have left may go meanwhile.
    wait_until(
        lambda: all(now <= then for now, then in zip(count(), before, strict=True)),
        30,
        "the watchdogs are gone",
    )


def test_program_that_is_not_there() -> None:
    with pytest.raises(CommandFailed, match="cannot be run"):
        Running(["/does/not/exist"], timeout=1, longest=1)


def test_standard_input_is_empty_and_the_environment_ours() -> None:
    os.environ["SYSVM_TEST_SECRET"] = "x"
    try:
        out, _ = all_of(sh("cat; env"))
    finally:
        del os.environ["SYSVM_TEST_SECRET"]
    assert b"LC_ALL=C.UTF-8" in out
    assert b"SYSVM_TEST_SECRET" not in out


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return ""


def gone(pid: int) -> bool:
    """No such process, or one that nobody has reaped yet."""
    return bool(wait_until(lambda: state(pid) in {"", "Z"}, 30, f"{pid} is gone"))
