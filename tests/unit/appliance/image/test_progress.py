"""Progress: what a build is at, and how long it will take."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from appliance.image.progress import Stages


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSVM_CACHE", str(tmp_path))
    (tmp_path / "durations.json").write_text('{"one": 30, "two": 10}')


def test_the_time_is_what_each_stage_took_the_last_time() -> None:
    stages = Stages(None, ["one", "two"])
    assert stages.total == 40
    assert stages.completed(0) == 0


def test_a_stage_that_is_built_already_takes_no_time() -> None:
    stages = Stages(None, ["one", "two"])
    stages.skip("one")
    assert stages.total == 10


def test_a_stage_that_is_over_counts_as_expected_and_is_remembered(tmp_path: Path) -> None:
    stages = Stages(None, ["one", "two"])
    with stages.stage("one"):
        pass
    assert stages.total == 40
    assert stages.completed(0) == 30
    assert Stages(None, ["one"]).total < 30


def test_a_stage_that_takes_longer_than_expected_waits_at_its_end() -> None:
    stages = Stages(None, ["two"])
    with stages.stage("two"):
        assert stages.completed(1e12) == pytest.approx(9.7)


def test_each_stage_that_was_built_is_told_once() -> None:
    said = io.StringIO()
    stages = Stages(Console(file=said), ["one", "two"])
    stages.skip("one")
    with stages.stage("two"):
        pass
    assert said.getvalue() == "built two in 0 s\n"


def test_a_broken_memory_of_durations_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "durations.json").write_text("{")
    assert Stages(None, ["one"]).total == 20
