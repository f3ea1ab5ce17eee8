"""sysvmctl against the real server on a Unix socket, with an engine in memory."""

import ast
import io
import json
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent import cli
from agent.cli import show
from agent.cli.text import amount, duration, table
from agent.document.types import REDACTED
from agent.engine.errors import Busy
from agent.engine.model import Degraded, Plan, Problem, RolledBack
from tests.unit.api.fake import (
    BLOB,
    PLAN,
    FakeEngine,
    FakeEvents,
    FakeMachine,
    document,
    sha256,
    value,
)
from tests.unit.api.serving import serving

FOLDER = Path(cli.__file__).parent


class Terminal:
    """Runs commands as main() does, and keeps what they print."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        code = cli.main(["--socket", str(self.path), *words])
        self.out, self.err = self._capsys.readouterr()
        lines = (self.out + self.err).splitlines()
        if "--json" not in words:
            assert all(len(line) <= 80 or " " not in line.strip() for line in lines), lines
        assert "Traceback" not in self.err
        return code

    def json(self, *words: str) -> Any:
        assert self("--json", *words) == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


@pytest.fixture
def kept() -> FakeEvents:
    return FakeEvents()


@pytest.fixture
def ctl(
    tmp_path: Path,
    engine: FakeEngine,
    machine: FakeMachine,
    kept: FakeEvents,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Terminal]:
    with serving(tmp_path / "control.sock", engine, machine, kept) as path:
        yield Terminal(path, capsys)


@pytest.fixture
def push(ctl: Terminal, tmp_path: Path) -> Callable[..., int]:
    """Apply a small document of this generation."""

    def apply(generation: int, *words: str, hostname: str = "vm1") -> int:
        file = tmp_path / f"{generation}.json"
        file.write_bytes(document(generation, hostname))
        return ctl("apply", str(file), *words)

    return apply


Push = Callable[..., int]


def type_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


# -- events ------------------------------------------------------------------------------------


def test_events_are_shown_from_the_last_few_on(ctl: Terminal, kept: FakeEvents) -> None:
    assert ctl("events") == 0
    assert ctl.out == "nothing\n"
    kept.say("one")
    kept.say("a long story " * 10)
    assert ctl("events", "-n", "1") == 0
    head, *rest = ctl.out.splitlines()
    assert head == "2027-01-15 08:00:00  warning   drift.found  #2"
    assert " ".join(" ".join(rest).split()) == ("a long story " * 10).strip()
    assert len(ctl.json("events", "--after", "0")["events"]) == 2
    assert ctl.json("events", "--severity", "critical")["events"] == []


def test_events_are_followed_until_somebody_interrupts(tmp_path: Path, kept: FakeEvents) -> None:
    kept.say("before")
    with serving(tmp_path / "c.sock", FakeEngine(), FakeMachine(), kept) as path:
        argv = [sys.executable, "-m", "agent.cli", "--socket", str(path), "--json", "events", "-f"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as follower:
            assert follower.stdout is not None
            assert json.loads(follower.stdout.readline())["message"] == "before"
            kept.say("after")
            assert json.loads(follower.stdout.readline())["message"] == "after"
            follower.send_signal(signal.SIGINT)
            assert follower.wait(10) == 0


# -- changes -----------------------------------------------------------------------------------


def test_apply_says_what_was_done(ctl: Terminal, push: Push) -> None:
    assert push(1) == 0
    first, warning, last = ctl.out.splitlines()
    assert first == "+ address 203.0.113.5/24 on eth2"
    assert warning == "warning: haproxy.service was down before"
    assert last.startswith(f"committed: revision 1, generation 1, digest {sha256(document())[:12]}")


def test_plan_changes_nothing(ctl: Terminal, tmp_path: Path, engine: FakeEngine) -> None:
    file = tmp_path / "1.json"
    file.write_bytes(document())
    assert ctl("plan", str(file)) == 0
    assert ctl.out == "+ address 203.0.113.5/24 on eth2\n"
    assert engine.kept == {}


def test_document_from_standard_input(
    ctl: Terminal, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, document())
    assert ctl("apply", "-") == 0
    assert engine.state().generation == 1


def test_provisional_change_says_how_to_keep_it(ctl: Terminal, push: Push) -> None:
    push(1)
    assert push(2, "--confirm", "120") == 0
    assert "it is undone in 2 min, unless you confirm it:\n  sysvmctl confirm 2" in ctl.out
    assert ctl("status") == 0
    assert "PROVISIONAL, undone in 2 min: sysvmctl confirm 2" in ctl.out
    assert ctl("confirm") == 0
    assert ctl("confirm") == 1
    assert "next: sysvmctl history" in ctl.err


def test_patch_is_made_for_the_document_that_runs(
    ctl: Terminal, push: Push, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(1)
    change = b'{"generation": 2, "site": {"hostname": "vm2"}}'
    type_in(monkeypatch, change)
    assert ctl("patch", "-", "--if-match", '"0123"') == 1
    assert "precondition-failed" in ctl.err
    type_in(monkeypatch, change)
    assert ctl("patch", "-") == 0
    assert engine.current().document.site.hostname == "vm2"


def test_rollback_history_and_diff(ctl: Terminal, push: Push) -> None:
    push(1)
    push(2, hostname="vm2")
    assert ctl("diff") == 0
    assert '-    "hostname": "vm1",\n+    "hostname": "vm2",' in ctl.out
    assert ctl("rollback") == 0
    assert ctl("rollback", "2") == 0
    assert ctl("history") == 0
    titles, newest, *_ = ctl.out.splitlines()
    assert titles.split() == ["REVISION", "STATE", "GENERATION", "DIGEST", "WHEN", "CAUSE"]
    assert newest.split()[:2] == ["4", "running"]
    assert newest.endswith("rollback to 2")
    assert ctl("diff", "2", "4") == 0
    assert ctl.out == "the documents are the same\n"
    assert ctl("diff", "1") == 0
    assert "--- revision 1\n+++ revision 4\n" in ctl.out


def test_diff_shows_no_secret(ctl: Terminal, push: Push, monkeypatch: pytest.MonkeyPatch) -> None:
    push(1)
    guest = {"mac": "02:00:4c:00:01:0a", "password": "Kp7xQ2mZ"}
    change = {"generation": 2, "passwords": {"guests": {"10.1.1.10": guest}}}
    type_in(monkeypatch, json.dumps(change).encode())
    assert ctl("patch", "-") == 0
    assert ctl("diff") == 0
    assert f'"password": {json.dumps(REDACTED)}' in ctl.out
    assert "Kp7xQ2mZ" not in ctl.out


def test_blob_put_prints_its_name(ctl: Terminal, tmp_path: Path, machine: FakeMachine) -> None:
    (tmp_path / "data").write_bytes(BLOB)
    assert ctl("blob", "put", str(tmp_path / "data")) == 0
    assert ctl.out.strip() == sha256(BLOB)
    assert machine.blobs[sha256(BLOB)] == BLOB


# -- no ----------------------------------------------------------------------------------------


def test_refused_document_says_what_where_and_what_next(
    ctl: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, json.dumps(value() | {"tftp": {}}).encode())
    assert ctl("apply", "-") == 1
    assert ctl.out == ""
    lines = ctl.err.splitlines()
    assert lines[0].startswith("sysvmctl: refused: ")
    assert lines[1] == "  /tftp: is not a section that this version knows"
    assert lines[-1] == "  next: correct that in the document, then apply it again"


def test_refusal_as_json(ctl: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, b"{")
    assert ctl("apply", "-", "--json") == 1
    assert json.loads(ctl.out)["type"] == "/v1/problems/not-json"


def test_change_that_did_not_hold(ctl: Terminal, push: Push, engine: FakeEngine) -> None:
    push(1)
    for outcome in (
        RolledBack(1, "haproxy: cannot bind", (Problem("/load_balancer", "is taken"),)),
        RolledBack(1, "systemd: time-out"),
        Degraded("the disk is gone"),
    ):
        engine.ends = outcome
        assert push(2) == 1
        assert outcome.cause in ctl.err
        assert "next: " in ctl.err
    engine.fails = Busy()
    assert push(2) == 1


def test_64_mb_are_refused_at_once(ctl: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as stream:
        stream.truncate(64 * 2**20)
    began = time.process_time()
    assert ctl("apply", str(file)) == 1
    assert "too-large" in ctl.err
    assert time.process_time() - began < 2


def test_before_the_first_document(ctl: Terminal) -> None:
    for words in (["show", "rules"], ["drift"], ["confirm"]):
        assert ctl(*words) == 1
        assert "next: " in ctl.err
    assert ctl("diff") == 2
    assert "no document has been applied yet" in ctl.err
    assert ctl("status") == 0
    assert "nothing has been applied yet" in ctl.out


def test_agent_that_cannot_be_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    for path, words in ((tmp_path / "none.sock", "no such socket"), (dead, "nobody answers")):
        assert cli.main(["--socket", str(path), "status"]) == 2
        error = capsys.readouterr().err
        assert str(path) in error
        assert words in error
        assert "sysvm-agent" in error


def test_file_that_cannot_be_read(ctl: Terminal) -> None:
    assert ctl("apply", "/does/not/exist") == 2
    assert "/does/not/exist: No such file" in ctl.err


@pytest.mark.parametrize(
    "words",
    [[], ["nix"], ["show"], ["show", "nix"], ["apply"], ["apply", "x", "--confirm", "0"],
     ["rollback", "-1"], ["service"], ["diff", "a"]],
)  # fmt: skip
def test_wrong_usage_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert "usage: sysvmctl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["apply", "x", "--confirm", "soon"], "'soon' is not a number of seconds from 1 to 3600"),
        (["apply", "x", "--confirm", "nan"], "'nan' is not a number of seconds from 1 to 3600"),
        (["rollback", "last"], "'last' is not a revision's number, as sysvmctl history has it"),
        (["events", "-n", "all"], "'all' is not a number from 0 to 1000"),
        (["events", "--after", "-1"], "'-1' is not a number from 0 to"),
        (["logs", "dnsmasq", "-n", "0"], "'0' is not a number from 1 to 10000"),
        (["diag", "ping", "10.1.1.1", "--seconds", "1h"], "'1h' is not a number from 1 to 240"),
        (["diag", "capture", "--nic", "eth0", "-w", "-", "--port", "70000"], "from 1 to 65535"),
        (["diag"], "{ping,"),
        (["service"], "{list,"),
    ],
)
def test_wrong_usage_is_told_with_what_is_right(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert told in capsys.readouterr().err


def test_hint_of_a_refused_request_is_a_command(ctl: Terminal, push: Push) -> None:
    push(1)
    assert ctl("check", "--name", "nix") == 1
    assert "next: sysvmctl check lists them" in ctl.err
    assert ctl("service", "hold", "dnsmasq", "--for", "400d", "--reason", "x") == 1
    assert "next: sysvmctl COMMAND --help" in ctl.err
    assert "openapi" not in ctl.err


# -- questions ---------------------------------------------------------------------------------


def test_status_fits_one_screen(ctl: Terminal, push: Push, engine: FakeEngine) -> None:
    push(1)
    engine.drifted = PLAN
    assert ctl("status") == 0
    assert len(ctl.out.splitlines()) <= 24
    assert ctl.out.startswith("vm1  router\n")
    assert "Drift     YES: sysvmctl drift says how" in ctl.out
    assert "Last      PUT /v1/document: committed" in ctl.out
    assert "MISSING 203.0.113.5/24" in ctl.out
    assert "31 MiB" in ctl.out
    engine.degrade("the disk is gone")
    ctl("status")
    assert "DEGRADED  the disk is gone" in ctl.out
    assert "\nSTATE " not in ctl.out


def test_status_says_that_nothing_is_kept(ctl: Terminal, machine: FakeMachine) -> None:
    machine.state_problem = "the state partition cannot be used"
    ctl("status")
    assert "\nSTATE     the state partition cannot be used" in ctl.out


SHOWN = {
    "interfaces": "eth0  guest   up    1500  02:00:4c:00:00:01  10.1.1.1/24",
    "routes": "192.0.2.0/24  -            eth0  main   NOT WANTED",
    "rules": "ipv4 filter INPUT\n  NO  PACKETS  BYTES  RULE",
    "nat": "destination  tcp    203.0.113.5",
    "lb": "web       vm2       DOWN         1    0      9   900  9.0k  L4CON",
    "dhcp": "10.1.1.10  02:00:4c:00:01:0a  leased    2027-01-15T09:00:00Z  web",
    "dns": "nothing",
    "vpn": "nothing",
}


@pytest.mark.parametrize("what", show.SHOWN)
def test_show(ctl: Terminal, push: Push, what: str) -> None:
    push(1)
    assert ctl("show", what) == 0
    assert SHOWN[what] in ctl.out
    assert isinstance(ctl.json("show", what), list)


def test_drift(ctl: Terminal, push: Push, engine: FakeEngine) -> None:
    push(1)
    ctl("legacy-rules", "--remove")
    ctl("drift")
    assert ctl.out == "none: the VM is what was asked for\n"
    engine.drifted = Plan(PLAN.steps)
    assert ctl("drift") == 0
    assert ctl.out == "+ address 203.0.113.5/24 on eth2\n"


def test_legacy_rules(ctl: Terminal) -> None:
    ctl("legacy-rules")
    assert "-A INPUT -p tcp --dport 22 -j ACCEPT" in ctl.out
    assert ctl("legacy-rules", "--remove") == 0
    assert "removed" in ctl.out
    ctl("legacy-rules")
    assert ctl.out == "none\n"


def test_services_and_logs(ctl: Terminal, push: Push, machine: FakeMachine) -> None:
    push(1)
    assert ctl("service", "list") == 0
    assert ctl("service", "restart", "dnsmasq") == 0
    assert machine.restarted == ["dnsmasq.service"]
    assert ctl("service", "restart", "a/../../b") == 1
    machine.lines = ("a guest called \x1b[2J",)
    assert ctl("logs", "dnsmasq", "-n", "5") == 0
    assert ctl.out == "a guest called ?[2J\n"


def test_a_service_is_held_and_released(ctl: Terminal, push: Push) -> None:
    push(1)
    assert ctl("service", "hold", "dnsmasq", "--for", "30m", "--reason", "an upgrade") == 0
    assert "held until" in ctl.out
    assert "an upgrade" in ctl.out
    ctl("service", "list")
    assert "held until" in ctl.out
    assert ctl("service", "release", "dnsmasq") == 0
    assert "held" not in ctl.out
    for wrong in ("", "soon", "-5m", "1w"):
        with pytest.raises(SystemExit):
            ctl("service", "hold", "dnsmasq", f"--for={wrong}", "--reason", "x")


def test_schema_and_json_everywhere(ctl: Terminal, push: Push) -> None:
    push(1)
    assert ctl.json("schema")["title"] == "sysvm document"
    for words in (["status"], ["history"], ["diff", "1", "1"], ["drift"], ["service", "list"],
                  ["legacy-rules"], ["logs", "dnsmasq"]):  # fmt: skip
        assert ctl.json(*words)
    assert ctl("status", "--json") == 0
    assert json.loads(ctl.out)["hostname"] == "vm1"


# -- text --------------------------------------------------------------------------------------


def test_tables_fit_80_columns_and_lose_nothing() -> None:
    address = "2001:db8:1234:5678:9abc:def0:1234:5678/128"
    long = "/firewall/ingress/203.0.113.10/" + "a" * 63
    lines = table(("ONE", "TWO", ">N", "FROM"), [(address, address, 10, long)] * 2)
    assert all(len(line) <= 80 for line in lines)
    for word in (address, long):
        assert "".join(lines).replace(" ", "").count(word[:8]) >= 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (100, "1 min 40 s"),
     (3600, "1 h"), (90_000, "1 d 1 h"), (86_400 * 40, "40 d")],
)  # fmt: skip
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "-"), (0, "0"), (999, "999"), (1000, "1.0k"), (9949, "9.9k"), (9950, "10k"),
     (999_499, "999k"), (999_500, "1.0M"), (10**15, "1000T")],
)  # fmt: skip
def test_amount(number: int | None, text: str) -> None:
    assert amount(number) == text


def test_help_teaches_by_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "sysvmctl apply vm.json --confirm 120" in text
    assert "exit codes: 0" in text
    assert all(len(line) <= 80 for line in text.splitlines())


# -- start -------------------------------------------------------------------------------------


def test_it_imports_the_standard_library_alone() -> None:
    found: set[str] = set()
    for file in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
    others = {name for name in found if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in others if not f"{name}.".startswith("agent.cli.")} == set()


def test_it_starts_alone_and_fast(tmp_path: Path) -> None:
    """From its folder, without site-packages: less than 100 ms beyond the interpreter itself.

    Counted in CPU time, and the best of some, for the machine may be busy.
    """
    alone = tmp_path / "agent" / "cli"
    shutil.copytree(FOLDER, alone, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(FOLDER.parent / "__init__.py", alone.parent)
    assert cpu_time(str(alone), "--help") - cpu_time("-c", "pass") < 0.1


def cpu_time(*words: str) -> float:
    """Seconds that Python needs for this, at best."""
    times = []
    for _ in range(8):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-I", "-S", *words], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_pipe_that_closes_is_no_error(tmp_path: Path) -> None:
    """`sysvmctl --help | true` and friends end without a trace."""
    with serving(tmp_path / "c.sock", FakeEngine(), FakeMachine()) as path:
        done = subprocess.run(
            ["/bin/sh", "-c", f"{sys.executable} -I -S {FOLDER} --socket {path} schema | head -1"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == "{\n"
    assert done.stderr == ""


def test_check_prints_every_check_and_what_is_missing_and_fails_if_one_does(ctl: Terminal) -> None:
    assert ctl("check") == 1
    assert "dns    advanced  FAILED" in ctl.out
    assert "dhcp   advanced  skipped" in ctl.out
    assert "dns: see /dhcp_dns/dns/records/db" in ctl.out
    assert "  - /dhcp_dns/dns/records/db (db.net1 at 10.1.1.1: nothing, not" in ctl.out
    assert ctl("check", "basic") == 0
    assert "dns" not in ctl.out
    assert ctl("check", "--name", "dns", "--json") == 1
    assert json.loads(ctl.out)[0]["verdict"] == "failed"
    assert ctl("check", "--name", "nothing") == 1
    assert "no-such-check" in ctl.err


def test_status_has_a_line_of_health(ctl: Terminal) -> None:
    assert ctl("status") == 0
    assert "Health    FAILED: dns; sysvmctl check" in ctl.out
