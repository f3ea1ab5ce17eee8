"""What the agent looks for: each event is a change, in both directions."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.document.heartbeat import Condition, Health
from agent.engine.errors import UnreadableState
from agent.engine.store import Revision, State
from agent.monitor import lookout
from agent.monitor.events import Kind, Severity
from agent.monitor.health import Verdict
from agent.system.paths import Paths
from tests.unit.monitor.heard import Heard


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_start_says_whether_the_vm_has_booted(tmp_path: Path, heard: Heard) -> None:
    paths = Paths(tmp_path, tmp_path)
    paths.state_problem.write_text("its file system is another\n")
    lookout.started(paths, heard)
    lookout.started(paths, heard)
    assert heard.kinds == [Kind.AGENT_STARTED, Kind.STATE_REPLACED, Kind.AGENT_STARTED]
    assert [heard.events[0].data["boot"], heard.events[2].data["boot"]] == [True, False]
    assert "its file system is another" in heard.events[1].message
    assert heard.events[1].severity is Severity.CRITICAL


def test_drift_is_told_when_it_comes_changes_and_goes(heard: Heard) -> None:
    watch = lookout.DriftWatch(heard)
    watch.found((), ())
    watch.found(("- address a",), ())
    watch.found(("- address a",), ())
    watch.found(("- address a", "- address b"), ("ipv4 filter: x",))
    watch.found((), ("ipv4 filter: x",))
    watch.found((), ())
    assert heard.kinds == [
        Kind.DRIFT_FOUND,
        Kind.DRIFT_FOUND,
        Kind.LEGACY_RULES_FOUND,
        Kind.DRIFT_OVER,
        Kind.LEGACY_RULES_OVER,
    ]
    assert heard.events[1].data == {"lines": 2, "first": "- address a"}


def test_state_partition_that_takes_nothing_is_told_and_that_it_does_again(
    tmp_path: Path, heard: Heard
) -> None:
    argv = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    if os.geteuid() or subprocess.run(argv, check=False).returncode:
        pytest.skip("needs root, to mount")
    try:
        watch = lookout.StateWatch(tmp_path, heard)
        watch.look()
        assert heard.kinds == []
        (tmp_path / "ballast").write_bytes(b"x" * 3_500_000)
        watch.look()
        watch.look()
        (tmp_path / "ballast").unlink()
        watch.look()
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        watch.look()
        assert heard.kinds == [
            Kind.STATE_NOT_WRITABLE,
            Kind.STATE_WRITABLE,
            Kind.STATE_NOT_WRITABLE,
        ]
        assert "read-only" in heard.events[2].message
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


class Runs:
    """An engine of which only this much is asked."""

    def __init__(self) -> None:
        self.now: State | None = State(current=4, confirmed=4)
        self.asked = 0

    def state(self) -> State:
        if self.now is None:
            raise UnreadableState("state.json", "is not JSON")
        return self.now

    def current(self) -> Revision:
        self.asked += 1
        document = SimpleNamespace(generation=7, digest="d")
        return Revision.of(document, 4, 0.0, "push")  # type: ignore[arg-type]


def test_condition_is_the_worst_that_anybody_knows() -> None:
    runs, verdicts = Runs(), [Verdict.PASSED]
    conditions = lookout.Conditions(runs, lambda: lookout.found(verdicts[-1]), lambda: Health.OK)
    assert conditions.now() == Condition(7, 4, Health.OK)
    for verdict, health in (
        (Verdict.SKIPPED, Health.OK),
        (Verdict.UNKNOWN, Health.UNKNOWN),
        (Verdict.WARNING, Health.WARNING),
        (Verdict.FAILED, Health.FAILED),
    ):
        verdicts.append(verdict)
        assert conditions.now().health is health
    assert runs.asked == 1
    verdicts.append(Verdict.PASSED)
    runs.now = State(current=4, confirmed=4, degraded="nothing holds")
    assert conditions.now().health is Health.FAILED
    runs.now = None
    assert conditions.now() == Condition(7, 4, Health.UNKNOWN)
    assert lookout.found(None) is Health.UNKNOWN


def test_agent_that_lacks_something_says_so_once_and_when_that_is_over(heard: Heard) -> None:
    lacks: dict[str, str] = {}
    watch = lookout.MeansWatch(heard, lambda: lacks)
    watch.look()
    assert heard.events == []
    lacks["descriptors"] = "Too many open files"
    for _ in range(lookout.LOST - 1):
        watch.look()
    assert heard.kinds == [Kind.AGENT_STARVED]
    assert "Too many open files" in heard.events[0].message
    assert not bool(watch.lost)
    lacks["tasks"] = "can't start new thread"
    watch.look()
    assert bool(watch.lost)  # a leak: systemd's watchdog is to have it
    del lacks["descriptors"]
    for _ in range(lookout.LOST):
        watch.look()
    assert not bool(watch.lost)  # without tasks another agent could not begin
    lacks.clear()
    watch.look()
    assert [(e.kind, e.subject) for e in heard.events[1:]] == [
        (Kind.AGENT_STARVED, "tasks"),
        (Kind.AGENT_FED, "descriptors"),
        (Kind.AGENT_FED, "tasks"),
    ]


@pytest.mark.parametrize(
    ("limit", "lacks"), [("NOFILE", "descriptors"), ("NPROC", "tasks"), ("CORE", None)]
)
def test_what_this_process_lacks_is_seen(limit: str, lacks: str | None) -> None:
    """In a process of somebody who may not go beyond a limit."""
    script = f"""
import os, resource, sys
from agent.monitor import lookout
if not os.geteuid():
    os.setuid(65534)
most = len(os.listdir("/proc/self/fd")) if "{limit}" == "NOFILE" else 0
resource.setrlimit(resource.RLIMIT_{limit}, (most, most))
print(*lookout.lacking())
"""
    argv = [sys.executable, "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == ([lacks] if lacks else [])
