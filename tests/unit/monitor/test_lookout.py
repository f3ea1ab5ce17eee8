"""What the agent looks for: each event is a change, in both directions."""

import os
import subprocess
from pathlib import Path

import pytest

from agent.monitor import lookout
from agent.monitor.events import Kind, Severity
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
