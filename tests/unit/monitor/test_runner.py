"""Rounds of checks: when they are run, on what, and what is told of them."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.engine.errors import Busy
from agent.engine.store import Store
from agent.engine.transaction import Engine
from agent.monitor import checks, runner
from agent.monitor.checks import Check, CustomRun, Finding, Round, passed
from agent.monitor.events import Event, Kind
from agent.monitor.health import Level, NoSuchCheck, Result, Verdict
from agent.monitor.log import ServiceLog
from agent.monitor.runner import Health, ill_file
from agent.system.clock import SystemClock
from agent.system.files import Disk
from appliance.lab.wait import wait_until
from tests.unit.engine.documents import router, with_forward
from tests.unit.engine.memory import MemoryHost
from tests.unit.monitor.checks.machine import MIB, FakeMachine


class Recorded:
    """Events, as they come."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        self.events.append(event)

    @property
    def told(self) -> list[tuple[Kind, str]]:
        return [(event.kind, event.subject) for event in self.events]


class Bench:
    """An engine on a machine in memory, with the checks of a machine that is well."""

    def __init__(self, folder: Path) -> None:
        self.host = MemoryHost()
        self.engine = Engine(
            self.host, Store(folder / "state", Disk()), SystemClock(), nullcontext, None
        )
        self.machine = FakeMachine()
        self.recorded = Recorded()
        self.folder = folder / "health"
        self.log = folder / "log"
        self.shown: list[str] = []  # what the banner would have had of the checks
        self.health = Health(
            self.engine,
            self.machine,
            self.recorded,
            self.folder,
            lines=ServiceLog(self.log, reserve=0, syslog=str(folder / "none")),
            first=0.0,
            changed=lambda: self.shown.append(ill_file(self.folder).read_text()),
        )
        self.generation = 0

    def push(self, make: Callable[..., bytes] = router, **sections: Any) -> None:
        self.generation += 1
        self.engine.push(make(self.generation, **sections))
        self.machine.desired = self.engine.desired()

    def verdicts(self, level: Level | None = None, name: str | None = None) -> dict[str, Verdict]:
        return {one.name: one.verdict for one in self.health.run(level, name)}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_before_a_document_what_needs_one_is_skipped_and_the_rest_is_run(bench: Bench) -> None:
    found = bench.verdicts()
    assert found["cpu"] is Verdict.PASSED
    assert found["firewall"] is Verdict.SKIPPED
    assert set(found.values()) == {Verdict.PASSED, Verdict.SKIPPED}


def test_a_round_is_of_a_level_or_of_a_name(bench: Bench) -> None:
    bench.push()
    assert "firewall" not in bench.verdicts(Level.BASIC)
    assert "cpu" not in bench.verdicts(Level.ADVANCED)
    assert bench.verdicts(name="cpu") == {"cpu": Verdict.PASSED}
    with pytest.raises(NoSuchCheck):
        bench.health.run(name="nothing")
    with pytest.raises(NoSuchCheck):
        bench.health.run(Level.BASIC, "firewall")


def test_results_say_when_how_long_and_of_which_revision(bench: Bench) -> None:
    bench.push()
    before = time.time()
    bench.health.run()
    report = bench.health.report()
    firewall = next(one for one in report.results if one.name == "firewall")
    assert firewall.revision == bench.engine.state().current
    assert before - 1 < firewall.at < time.time() + 1
    assert {one.level: one.revision for one in report.rounds} == dict.fromkeys(
        Level, firewall.revision
    )
    assert report.worst is Verdict.PASSED
    assert report.failing == ()


def test_each_level_has_a_file_of_the_same_results(bench: Bench) -> None:
    bench.push()
    bench.health.run()
    for level in Level:
        value = json.loads((bench.folder / f"{level}.json").read_text())
        known = [one for one in bench.health.report().results if one.level is level]
        assert [one["name"] for one in value["results"]] == [one.name for one in known]
        assert value["results"][0].keys() == set(Result.__slots__)


# -- when --------------------------------------------------------------------------------------


def intervals(basic: int, advanced: int, **more: Any) -> dict[str, Any]:
    return {"monitoring": {"interval": basic, "advanced_interval": advanced, **more}}


def test_an_interval_of_0_is_none_and_a_change_of_it_holds_at_once(bench: Bench) -> None:
    bench.push(**intervals(0, 0))
    bench.health.turn()
    assert bench.health.report().results == ()
    assert all(one.next_in is None for one in bench.health.report().rounds)
    bench.push(**intervals(180, 0))
    bench.health.turn()
    report = bench.health.report()
    assert {one.level for one in report.results} == {Level.BASIC}
    basic, advanced = report.rounds
    assert basic.next_in is not None
    assert 170 <= basic.next_in <= 190
    assert advanced.next_in is None
    bench.push(**intervals(20, 600))
    basic, advanced = bench.health.report().rounds
    assert basic.next_in is not None
    assert basic.next_in <= 21
    bench.health.turn()
    assert {one.level for one in bench.health.report().results} == set(Level)


def test_rounds_do_not_go_by_the_clock_on_the_wall(bench: Bench) -> None:
    """Whatever the wall's clock does, what is due is what was due (it is never read for that)."""
    bench.push(**intervals(180, 600))
    bench.health.turn()
    (basic, _) = bench.health.report().rounds
    bench.machine.wall += 10 * 365 * 86400
    bench.health.turn()
    assert bench.health.report().rounds[0].at == basic.at


def test_excluded_checks_are_not_run_unless_asked_for_by_name(bench: Bench) -> None:
    bench.push(**intervals(180, 600, excluded_checks=["cpu", "mine"]))
    bench.machine.mine = {"mine": CustomRun(0, b"fine")}
    found = bench.verdicts()
    assert "cpu" not in found
    assert "mine" not in found
    assert "memory" in found
    assert bench.verdicts(name="cpu") == {"cpu": Verdict.PASSED}


def test_it_serves_until_it_is_stopped(bench: Bench) -> None:
    bench.push(**intervals(180, 600))
    stop = threading.Event()
    thread = threading.Thread(target=bench.health.serve, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: len(bench.health.report().rounds) == 2, 5, "a report")
        wait_until(
            lambda: all(one.at for one in bench.health.report().rounds), 10, "rounds of both levels"
        )
        bench.push(**intervals(0, 0))
        bench.health.wake()
        assert all(one.next_in is None for one in bench.health.report().rounds)
    finally:
        stop.set()
        bench.health.wake()
        thread.join(10)
    assert not thread.is_alive()


def test_there_are_never_two_rounds_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "WAIT", 0.05)
    busy: list[BaseException] = []

    def ask() -> None:
        def other() -> None:
            try:
                bench.health.run(name="memory")
            except Busy as error:
                busy.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(5)

    bench.machine.before = ask
    bench.verdicts(name="cpu")
    assert len(busy) == 1
    bench.machine.before = lambda: None
    assert bench.verdicts(name="memory") == {"memory": Verdict.PASSED}


# -- pushes ------------------------------------------------------------------------------------


def test_a_push_in_the_middle_of_a_check_is_no_failure(bench: Bench) -> None:
    bench.push(with_forward)
    pushes = iter([81, 82])

    def push() -> None:
        port = next(pushes, None)
        if port is not None:
            bench.generation += 1
            bench.engine.push(with_forward(bench.generation, port))

    # Between the reading of what is wanted and of what is there, another document is applied.
    real = bench.engine.drift

    def drift() -> Any:
        plan = real()
        push()
        return plan

    bench.engine.drift = drift  # type: ignore[method-assign]  # as if somebody pushed just then
    (result,) = bench.health.run(name="forwards")
    assert result.verdict is Verdict.PASSED
    assert result.revision == bench.engine.state().current


def test_documents_that_come_all_the_time_leave_it_unknown(bench: Bench) -> None:
    bench.push(with_forward)
    ports = iter(range(1000, 2000))

    real = bench.engine.drift

    def drift() -> Any:
        bench.generation += 1
        bench.engine.push(with_forward(bench.generation, next(ports)))
        return real()

    bench.engine.drift = drift  # type: ignore[method-assign]  # as if somebody pushed all the time
    (result,) = bench.health.run(name="forwards")
    assert result.verdict is Verdict.UNKNOWN
    assert "faster" in result.message


def test_a_failure_of_a_moment_is_looked_at_twice(bench: Bench) -> None:
    """A push that was rolled back meanwhile leaves no other trace."""
    bench.push(with_forward)
    real, looks = bench.engine.drift, []

    def drift() -> Any:
        looks.append(1)
        if len(looks) == 1:
            before = dict(bench.host.tables)
            bench.host.tables.update(dict.fromkeys(before, "*nat\nCOMMIT\n"))
            try:
                return real()
            finally:
                bench.host.tables.update(before)
        return real()

    bench.engine.drift = drift  # type: ignore[method-assign]  # as if it was being rolled back
    (result,) = bench.health.run(name="forwards")
    assert (result.verdict, len(looks)) == (Verdict.PASSED, 2)


# -- events ------------------------------------------------------------------------------------


def test_a_change_is_told_once_it_was_seen_twice(bench: Bench) -> None:
    bench.push()
    bench.verdicts(name="disk")
    bench.machine.free = MIB
    bench.verdicts(name="disk")
    assert bench.recorded.told == []
    bench.verdicts(name="disk")
    bench.verdicts(name="disk")
    assert bench.recorded.told == [(Kind.RESOURCE_SHORT, "disk")]
    event = bench.recorded.events[0]
    assert (event.data["threshold"], event.data["unit"]) == (100.0, "MiB")
    bench.machine.free = 900 * MIB
    bench.verdicts(name="disk")
    bench.verdicts(name="disk")
    assert bench.recorded.told[1:] == [(Kind.RESOURCE_WELL, "disk")]
    first, second = bench.log.read_text().splitlines()
    assert "[ALERT] [disk] The check disk failed: 1 of 1000 MiB free" in first
    assert "[INFO] [disk] The check disk passes again: 900 of 1000 MiB free" in second
    assert bench.shown == ["disk", ""]


def test_what_changed_is_looked_at_again_before_its_next_round(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "SECOND_LOOK", 0.0)
    bench.push(**intervals(180, 600))
    bench.machine.trouble = "Read-only file system"
    bench.health.turn()
    bench.health.turn()
    assert bench.recorded.told == [(Kind.CHECK_FAILED, "writable")]
    bench.machine.trouble = ""
    bench.verdicts(name="writable")
    bench.health.turn()
    assert bench.recorded.told[1:] == [(Kind.CHECK_PASSED, "writable")]


def test_a_step_of_the_clock_is_told_by_its_own_check_and_raises_no_alarm(bench: Bench) -> None:
    bench.push()
    bench.verdicts()
    good = bench.machine.reading
    for stepped in (10 * 365 * 86400.0, -3600.0):
        bench.machine.reading = replace(good, stepped=stepped)
        assert bench.verdicts()["clock"] is Verdict.WARNING
        bench.machine.reading = good
        assert bench.verdicts()["clock"] is Verdict.PASSED
    assert bench.recorded.told == []


# -- checks that misbehave ---------------------------------------------------------------------


def added(monkeypatch: pytest.MonkeyPatch, run: Callable[[Round], Finding]) -> None:
    """Have one check more."""
    known = {**checks.discover(), "odd": Check("odd", Level.BASIC, run, bare=True)}
    monkeypatch.setattr(runner, "discover", lambda: known)


def test_a_check_that_hangs_is_left_behind_and_not_run_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def hang(_: Round) -> Finding:
        release.wait(30)
        return passed("at last")

    added(monkeypatch, hang)
    monkeypatch.setattr(runner, "LONGEST", 0.05)
    try:
        assert bench.verdicts(Level.BASIC)["odd"] is Verdict.FAILED
        monkeypatch.setattr(runner, "LONGEST", 5.0)
        found = bench.verdicts(Level.BASIC)
        assert (found["odd"], found["cpu"]) == (Verdict.UNKNOWN, Verdict.PASSED)
    finally:
        release.set()
    wait_until(lambda: bench.verdicts(name="odd")["odd"] is Verdict.PASSED, 5, "its end")


def test_a_check_that_breaks_says_so_and_the_others_go_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(_: Round) -> Finding:
        raise ZeroDivisionError

    added(monkeypatch, wrong)
    found = bench.verdicts(Level.BASIC)
    assert (found["odd"], found["cpu"]) == (Verdict.UNKNOWN, Verdict.PASSED)


# -- operators' own ----------------------------------------------------------------------------


def test_operators_checks_are_run_at_both_levels_and_listed_if_they_say_something(
    bench: Bench,
) -> None:
    bench.machine.mine = {"mine": CustomRun(1, b"broken\n"), "silent": CustomRun(0, b"")}
    bench.machine.refused = {"loose": "others than root may write it"}
    found = bench.health.run()
    mine = [(one.level, one.verdict) for one in found if one.name == "mine"]
    assert mine == [(Level.BASIC, Verdict.FAILED), (Level.ADVANCED, Verdict.FAILED)]
    assert "silent" not in {one.name for one in found}
    (loose,) = (one for one in found if one.name == "loose")
    assert (loose.verdict, "others than root" in loose.message) == (Verdict.UNKNOWN, True)
    bench.machine.mine = {}
    bench.health.run()
    assert "mine" not in {one.name for one in bench.health.report().results}
