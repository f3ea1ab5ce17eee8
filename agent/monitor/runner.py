"""Runs the health checks: at their intervals, on demand, and never two rounds at once.

A round neither waits for a push nor keeps one waiting: it looks only while no change is under way,
and looks again where one came meanwhile. What times it is the monotonic clock.
"""

import contextlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.document.document import InvalidDocument
from agent.engine.errors import Busy, EngineError
from agent.engine.host import CheckFailed, StepFailed
from agent.engine.model import Desired, Plan
from agent.engine.store import Revision, State
from agent.monitor import damping
from agent.monitor.checks import (
    CannotTell,
    Check,
    Custom,
    Finding,
    Machine,
    Round,
    custom,
    discover,
    unknown,
)
from agent.monitor.damping import Standing
from agent.monitor.events import Recorder, Severity
from agent.monitor.gauges import Gauges
from agent.monitor.health import Level, NoSuchCheck, Report, Result, Rounds, Verdict, worst
from agent.monitor.log import Level as LineLevel
from agent.monitor.log import ServiceLog
from agent.services import monitoring
from agent.system import files

log = logging.getLogger(__name__)

FIRST = 10.0  # seconds after the start, when the first round begins at the earliest
SPREAD = 0.05  # of an interval, at most, that a round comes earlier or later than it
SECOND_LOOK = 15.0  # seconds after which a change of a verdict is looked at again
TICK = 15.0  # seconds between two looks at what is due
LONGEST = 40.0  # seconds that a check may take
QUIET = 30.0  # seconds that a round waits for a change to end
PAUSE = 0.5  # seconds between two looks at the same thing
TRIES = 3
WAIT = 60.0  # seconds that somebody who asks waits for the round under way


_LEVELS: Mapping[Severity, LineLevel] = {
    Severity.INFO: LineLevel.INFO,
    Severity.WARNING: LineLevel.ALERT,
    Severity.ALERT: LineLevel.ALERT,
    Severity.CRITICAL: LineLevel.CRIT,
}


class Subject(Protocol):
    """What checks need of `agent.engine.transaction.Engine`."""

    def state(self) -> State: ...

    def current(self) -> Revision: ...

    def desired(self) -> Desired: ...

    def drift(self) -> Plan: ...


class Sampled(Machine, Protocol):
    """The machine, whose CPU has to be looked at now and then to be told of."""

    def sample(self) -> None: ...

    def gauges(self, units: Collection[str]) -> Gauges: ...


class _Moved(Exception):
    """A change is under way, or came meanwhile."""


@dataclass(slots=True)
class _Level:
    """The rounds of one level."""

    ended: float | None = None  # monotonic
    at: float | None = None
    duration: float | None = None
    revision: int | None = None
    spread: float = 1.0
    turn: int = 0
    first: float = FIRST


class Health:
    """The checks' last results, and the one place where they are run."""

    def __init__(
        self,
        engine: Subject,
        machine: Sampled,
        recorder: Recorder | None = None,
        folder: Path | None = None,
        *,
        lines: ServiceLog | None = None,
        first: float = FIRST,
        relax: Callable[[], None] = lambda: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`folder` gets a file for each level; `lines` is the log that operators' scripts read.

        `relax` is called after each round of checks, `changed` when others are ill than before.
        """
        self._engine = engine
        self._machine = machine
        self._recorder = recorder
        self._folder = folder
        self._lines = lines
        self._relax = relax
        self._changed = changed
        self._mutex = threading.Lock()  # held for a round
        self._wake = threading.Event()
        self._started = time.monotonic()
        self._levels = {level: _Level() for level in Level}
        for one in self._levels.values():
            one.first = first * (1 + _chance())
        self._results: Mapping[tuple[str, Level], Result] = {}
        self._standings: dict[tuple[str, Level], Standing] = {}
        self._hanging: dict[str, threading.Thread] = {}
        self._looked = 0.0  # monotonic, when unsettled results were last looked at again

    # -- asking -----------------------------------------------------------------------------

    def report(self) -> Report:
        """What is known, without running anything."""
        results = _sorted(self._results.values())
        section = self._section()
        now = time.monotonic()
        return Report(
            worst=worst(results),
            failing=tuple(r.name for r in results if not r.verdict.well),
            rounds=tuple(
                Rounds(
                    level=level,
                    interval=_interval(section, level),
                    at=one.at,
                    duration=one.duration,
                    revision=one.revision,
                    next_in=None if (due := self._due(level, section)) is None
                    else round(max(due - now, 0.0), 1),
                )
                for level, one in self._levels.items()
            ),
            results=results,
        )  # fmt: skip

    def gauges(self) -> Gauges:
        """The machine's figures at this moment, for metrics."""
        try:
            units: Collection[str] = self._engine.desired().units
        except (EngineError, InvalidDocument, CheckFailed):
            units = ()
        return self._machine.gauges(units)

    def worst(self) -> Verdict | None:
        return worst(self._results.values())

    def run(self, level: Level | None = None, name: str | None = None) -> tuple[Result, ...]:
        """Run checks now: of one level or both, or the one of that name.

        Raises NoSuchCheck, and Busy where the round under way does not end.
        """
        if not self._mutex.acquire(timeout=WAIT):
            raise Busy
        try:
            ran = [
                result
                for one in (Level if level is None else (level,))
                for result in self._round(one, only=name)
            ]
        finally:
            self._mutex.release()
        if name is not None and not ran:
            raise NoSuchCheck(name)
        return _sorted(ran)

    # -- at intervals -----------------------------------------------------------------------

    def serve(self, stop: threading.Event) -> None:
        """Run what is due until `stop`; the caller's thread."""
        while not stop.is_set():
            pause = TICK
            try:
                self._machine.sample()
                self.turn()
                pause = self._idle()
            except Exception:
                # The thread's last line: whatever it is, watching goes on.
                log.exception("the health checks' round failed")
            self._wake.wait(pause)
            self._wake.clear()

    def wake(self) -> None:
        """Look at once at what is due: the document may have changed, or it is time to stop."""
        self._wake.set()

    def turn(self) -> None:
        """Run what is due now."""
        section = self._section()
        now = time.monotonic()
        for level in Level:
            due = self._due(level, section)
            if due is not None and due <= now:
                with self._mutex:
                    self._round(level)
        unsettled = self._unsettled()
        if unsettled and now - self._looked >= SECOND_LOOK:
            self._looked = now
            with self._mutex:
                for name, level in unsettled:
                    self._round(level, only=name)

    def _idle(self) -> float:
        """Seconds until something is due, at most a tick."""
        section, now = self._section(), time.monotonic()
        dues = [due for level in Level if (due := self._due(level, section)) is not None]
        if self._unsettled():
            dues.append(self._looked + SECOND_LOOK)
        return min(max(min(dues, default=now + TICK) - now, 0.1), TICK)

    def _unsettled(self) -> tuple[tuple[str, Level], ...]:
        """Those whose last result is not what has been told, looked at by intervals."""
        section = self._section()
        return tuple(
            key
            for key, standing in self._standings.items()
            if not standing.settled and _interval(section, key[1])
        )

    def _due(self, level: Level, section: monitoring.Section) -> float | None:
        interval = _interval(section, level)
        if not interval:
            return None
        one = self._levels[level]
        if one.ended is None:
            return self._started + min(one.first, interval)
        return one.ended + interval * one.spread

    # -- a round ----------------------------------------------------------------------------

    def _round(self, level: Level, only: str | None = None) -> tuple[Result, ...]:
        """Run the checks of a level, or one of them; the mutex is held."""
        began = time.monotonic()
        excluded = frozenset(self._section().excluded_checks)
        results: list[Result] = []
        given: Round | None = None
        for check in discover().values():
            wanted = check.name not in excluded if only is None else check.name == only
            if check.level is level and wanted:
                result, given = self._check(check, given)
                results.append(result)
        results += self._customs(level, only, excluded)
        one = self._levels[level]
        if only is None:
            one.ended, one.at = time.monotonic(), time.time()
            one.duration = round(one.ended - began, 3)
            one.revision = given.revision if given is not None else None
            one.spread = 1 + SPREAD * (2 * _chance() - 1)
            one.turn += 1
            self._looked = one.ended
        self._keep(level, results, whole=only is None)
        self._relax()
        return tuple(results)

    def _check(self, check: Check, given: Round | None) -> tuple[Result, Round | None]:
        """One check's result, of a moment in which nothing changed."""
        began = time.monotonic()
        looks = 0
        finding = unknown("documents came faster than it could be looked at")
        for _ in range(TRIES):
            try:
                given = self._given(check.level, given)
                found = self._bounded(check, given)
                self._unmoved(given)
            except _Moved:
                given = None
                continue
            finding = found
            looks += 1
            # A push that was rolled back meanwhile leaves no trace but this: look twice.
            if finding.verdict.well or check.level is Level.BASIC or looks > 1:
                break
            given = None
            time.sleep(PAUSE)
        revision = given.revision if given is not None else None
        return _result(check.name, check.level, finding, began, revision), given

    def _given(self, level: Level, given: Round | None) -> Round:
        """What the check looks at: the same as the check before, where nothing has changed."""
        state = self._quiet()
        if given is not None and given.revision == state.current:
            return given
        section = self._section()
        fresh = Round(
            machine=self._machine,
            thresholds=section.thresholds,
            agent_version=section.agent_version,
            before={name: result for (name, _), result in self._results.items()},
            look=self._engine.drift,
            turn=self._levels[level].turn,
        )
        if state.current is None:
            return fresh
        try:
            fresh.document = self._engine.current().document
            fresh.desired = self._engine.desired()
            fresh.revision = state.current
        except (EngineError, InvalidDocument, CheckFailed, StepFailed) as error:
            log.warning("what runs cannot be compared with: %s", error)
        return fresh

    def _quiet(self) -> State:
        """The state, once no change is under way. Raises _Moved."""
        deadline = time.monotonic() + QUIET
        while True:
            state = self._engine.state()
            if state.making is None:
                return state
            if time.monotonic() > deadline:
                raise _Moved
            time.sleep(PAUSE / 5)

    def _unmoved(self, given: Round) -> None:
        state = self._engine.state()
        moved = given.revision is not None and state.current != given.revision
        if state.making is not None or moved:
            raise _Moved

    def _bounded(self, check: Check, given: Round) -> Finding:
        """Run a check in a thread of its own: a disk that hangs must not hang all of them."""
        if given.desired is None and not check.bare:
            return Finding(verdict=Verdict.SKIPPED, message="no document has been applied yet")
        before = self._hanging.get(check.name)
        if before is not None and before.is_alive():
            return unknown("it still hangs since it was last run")
        found: list[Finding] = []
        thread = threading.Thread(
            target=lambda: found.append(_run(check, given)), name=f"check-{check.name}", daemon=True
        )
        thread.start()
        thread.join(LONGEST)
        if thread.is_alive():
            self._hanging[check.name] = thread
            return Finding(verdict=Verdict.FAILED, message=f"it did not end within {LONGEST:g} s")
        self._hanging.pop(check.name, None)
        return found[0] if found else unknown("it ended without a word")

    # -- operators' own ---------------------------------------------------------------------

    def _customs(
        self, level: Level, only: str | None, excluded: frozenset[str]
    ) -> Iterator[Result]:
        try:
            customs = self._machine.customs()
        except CannotTell as error:
            log.warning("operators' own checks: %s", error)
            return
        for one in customs:
            if one.name not in excluded if only is None else one.name == only:
                result = self._custom(one, level)
                if result is not None:
                    yield result

    def _custom(self, one: Custom, level: Level) -> Result | None:
        began = time.monotonic()
        if one.refused:
            finding: Finding | None = custom.refused(one) if level is Level.BASIC else None
        else:
            try:
                finding = custom.judge(self._machine.run_custom(one.name, level))
            except CannotTell as error:
                finding = unknown(str(error))
        return None if finding is None else _result(one.name, level, finding, began, None)

    # -- results ----------------------------------------------------------------------------

    def _keep(self, level: Level, results: Sequence[Result], *, whole: bool) -> None:
        """Remember results, tell what changed, and write the level's file."""
        new = {(result.name, level): result for result in results}
        kept = {key: one for key, one in self._results.items() if not (whole and key[1] is level)}
        gone = [key for key in self._results if whole and key[1] is level and key not in new]
        for key in gone:
            self._standings.pop(key, None)
        self._results = {**kept, **new}
        ill = self._ill()
        for key, result in new.items():
            standing, changed = damping.after(self._standings.get(key, Standing()), result.verdict)
            self._standings[key] = standing
            if changed:
                self._tell(result)
        self._write(level)
        if self._ill() != ill:
            self._note_ill()

    def _ill(self) -> frozenset[str]:
        """Names of checks that were told to be ill."""
        return frozenset(name for (name, _), one in self._standings.items() if one.ill)

    def _note_ill(self) -> None:
        """Leave a line of what is ill, for the console's banner."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                text = ", ".join(sorted(self._ill()))
                files.write(ill_file(self._folder), text.encode(), durable=False)
        self._changed()

    def _tell(self, result: Result) -> None:
        event = damping.event(result)
        log.log(
            logging.INFO if result.verdict.well else logging.WARNING,
            "check %s: %s: %s", result.name, result.verdict, result.message,
        )  # fmt: skip
        if self._recorder is not None:
            self._recorder.record(event)
        if self._lines is not None:
            details = {name: value for name, value in event.data.items() if name != "level"}
            self._lines.write(
                _LEVELS[event.severity], result.name, damping.sentence(result), **details
            )

    def _write(self, level: Level) -> None:
        if self._folder is None:
            return
        report = self.report()
        (rounds,) = (one for one in report.rounds if one.level is level)
        value = {
            "level": level,
            "at": rounds.at,
            "duration": rounds.duration,
            "revision": rounds.revision,
            "results": [_plain(one) for one in report.results if one.level is level],
        }
        try:
            files.make_folder(self._folder)
            text = json.dumps(value, indent=1).encode() + b"\n"
            files.write(self._folder / f"{level}.json", text, durable=False)
        except (OSError, StepFailed) as error:
            log.warning("%s/%s.json: %s", self._folder, level, error)

    def _section(self) -> monitoring.Section:
        try:
            section = self._engine.current().document.sections["monitoring"]
        except (EngineError, InvalidDocument, KeyError):
            return monitoring.ABSENT
        return section if isinstance(section, monitoring.Section) else monitoring.ABSENT


def ill_file(folder: Path) -> Path:
    """Where it stands which checks are ill, below the folder of their results."""
    return folder / "ill"


def _run(check: Check, given: Round) -> Finding:
    try:
        return check.run(given)
    except (CannotTell, EngineError, StepFailed, CheckFailed, InvalidDocument) as error:
        return unknown(str(error))
    except Exception as error:
        # A mistake in one check, or in what it was told, says nothing of the others.
        log.exception("the check %s failed by itself", check.name)
        return unknown(f"the check itself failed: {type(error).__name__}")


def _result(
    name: str, level: Level, finding: Finding, began: float, revision: int | None
) -> Result:
    return Result(
        name=name,
        level=level,
        verdict=finding.verdict,
        message=finding.message,
        missing=finding.missing,
        path=finding.path,
        at=round(time.time(), 3),
        duration=round(time.monotonic() - began, 3),
        revision=revision,
        value=finding.value,
        threshold=finding.threshold,
        unit=finding.unit,
    )


def _sorted(results: Iterable[Result]) -> tuple[Result, ...]:
    return tuple(sorted(results, key=lambda r: (r.level is Level.ADVANCED, r.name)))


def _plain(result: Result) -> Mapping[str, object]:
    return {name: getattr(result, name) for name in Result.__slots__}


def _interval(section: monitoring.Section, level: Level) -> int:
    return section.interval if level is Level.BASIC else section.advanced_interval


def _chance() -> float:
    """From 0 to 1, so that a rack of VMs that were started together does not check together."""
    return secrets.randbelow(1001) / 1000
