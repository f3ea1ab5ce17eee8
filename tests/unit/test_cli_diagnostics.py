"""sysvmctl diag, against the real server with programs of the test's own."""

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import cli
from appliance.lab.wait import wait_until
from tests.unit.api.fake import FakeEngine, FakeMachine
from tests.unit.api.serving import serving
from tests.unit.test_cli import FOLDER, Terminal


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


@pytest.fixture
def ctl(
    tmp_path: Path, machine: FakeMachine, capsys: pytest.CaptureFixture[str]
) -> Iterator[Terminal]:
    with serving(tmp_path / "control.sock", FakeEngine(), machine) as path:
        yield Terminal(path, capsys)


def test_output_goes_where_the_tool_put_it(ctl: Terminal, machine: FakeMachine) -> None:
    machine.script = ["sh", "-c", r"printf 'one \033[2J\ntwo\n'; echo err >&2; exit 0"]
    assert ctl("diag", "ping", "10.1.1.10") == 0
    assert ctl.out == "one ?[2J\ntwo\n"
    assert ctl.err == "err\n"


def test_tool_that_fails_is_a_no(ctl: Terminal, machine: FakeMachine) -> None:
    assert ctl("diag", "ping", "10.1.1.10") == 1
    machine.script = ["sleep", "60"]
    assert ctl("diag", "ping", "10.1.1.10", "--seconds", "1") == 1
    assert "sysvmctl: ended: time limit" in ctl.err


def test_options_are_the_tools_own(ctl: Terminal, machine: FakeMachine) -> None:
    machine.script = ["true"]
    for words, argv in (
        (["ping", "10.1.1.10", "--", "-c", "3", "-nq"], "ping -4 -c 3 -n -q -- 10.1.1.10"),
        (["ping", "-6", "vm1"], "ping -6 -c 4 -- vm1"),
        (["trace", "vm1", "--", "-m5"], "traceroute -m 5 -- vm1"),
        (["arping", "10.1.1.10"], "arping -I eth2 -c 4 -- 10.1.1.10"),
    ):
        assert ctl("diag", *words) == 0, ctl.err
        assert " ".join(machine.tried[-1][0]) == argv


def test_refusal_says_what_where_and_what_next(ctl: Terminal) -> None:
    assert ctl("diag", "ping", "10.1.1.10", "--", "-c", "4;id") == 1
    first, second, third, *_, last = ctl.err.splitlines()
    assert first.startswith("sysvmctl: diagnostic-refused: ")
    assert second == "  /arguments: illegal character ';' at place 5"
    assert "letters, digits, hyphens and dots" in third
    assert last.startswith("  next: ")


def test_json_has_all_of_it(ctl: Terminal, machine: FakeMachine) -> None:
    machine.script = ["sh", "-c", "echo out"]
    assert ctl.json("diag", "ping", "10.1.1.10")["stdout"] == "out\n"
    machine.script = ["false"]
    assert ctl("diag", "ping", "10.1.1.10", "--json") == 1
    assert json.loads(ctl.out)["exit"] == 1


@pytest.mark.parametrize(
    "words",
    [["diag"], ["diag", "nmap"], ["diag", "ping"], ["diag", "ping", "x", "--seconds", "0"],
     ["diag", "ping", "-4", "-6", "x"], ["diag", "capture", "--nic", "eth2"],
     ["diag", "capture", "-w", "-"]],
)  # fmt: skip
def test_wrong_usage_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert "usage: sysvmctl diag" in capsys.readouterr().err


def test_bundle_is_a_file_of_its_owner(
    ctl: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("ticket.tar.gz")
    assert ctl("diag", "bundle", "-o", str(file)) == 0
    assert ctl.out.startswith("ticket.tar.gz: ")
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(fileobj=io.BytesIO(file.read_bytes()), mode="r:gz") as tar:
        assert tar.getnames()[-1].endswith("/manifest.json")
    assert ctl("diag", "bundle", "-o", "/proc/x") == 2
    assert "/proc/x: " in ctl.err


def test_bundle_has_a_name_by_itself(
    ctl: Terminal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ctl("diag", "bundle") == 0
    (file,) = tmp_path.glob("sysvm-booted-*.tar.gz")
    assert ctl.out.startswith(file.name)


def test_capture_asks_for_what_is_typed(
    ctl: Terminal,
    machine: FakeMachine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine.script = ["sh", "-c", "head -c 24 /dev/zero"]
    words = ["--nic", "eth2", "--host", "10.1.1.10", "--protocol", "udp", "--port", "53"]
    more = ["--port", "67", "--seconds", "3", "--snaplen", "96", "--direction", "in"]
    monkeypatch.chdir(tmp_path)
    file = Path("a.pcap")
    assert ctl("diag", "capture", *words, *more, "-w", str(file)) == 0
    argv, seconds = machine.tried[0]
    assert seconds == 3
    assert "-s 96 -c 10000 -Q in -- host 10.1.1.10 and udp and (port 53 or port 67)" in " ".join(
        argv
    )
    assert file.stat().st_size == 24


def test_reader_that_leaves_ends_the_tool(ctl: Terminal, machine: FakeMachine) -> None:
    machine.script = ["sh", "-c", "while :; do echo line; sleep 0.05; done"]
    command = f"{sys.executable} -I -S {FOLDER} --socket {ctl.path} diag ping 10.1.1.10 | head -1"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("line\n", "")
    wait_until(lambda: machine.running[0].returncode is not None, 30, "the tool is ended")
