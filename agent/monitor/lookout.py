"""What the agent looks for that nothing else would tell of: how it began, and the state partition.

Each look compares with what was found before, so that an event is a change.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from agent.document.heartbeat import Condition, Health
from agent.engine.errors import EngineError
from agent.engine.host import HostFull
from agent.engine.store import Revision, State
from agent.monitor.events import Event, Kind, Recorder
from agent.monitor.health import Verdict
from agent.system import files
from agent.system.paths import Paths

STATE_INTERVAL = 5.0  # seconds from one look at the state partition to the next
SPARE = 3  # descriptors that a little work needs
LOST = 12  # looks in a row without


def started(paths: Paths, events: Recorder) -> None:
    """The agent has started; at the first time after a boot, what the boot found is told too."""
    marker = paths.run / "agent-started"
    booted = not marker.exists()
    why = "the VM has booted" if booted else "the VM ran on meanwhile"
    events.record(
        Event(
            kind=Kind.AGENT_STARTED,
            subject="sysvm-agent",
            message=f"the agent has started; {why}",
            data={"boot": booted},
        )
    )
    if not booted:
        return
    if problem := files.note(paths.state_problem):
        events.record(
            Event(
                kind=Kind.STATE_REPLACED,
                subject="state",
                message=f"the state partition is not used: {problem}",
                data={"cause": problem},
            )
        )
    with contextlib.suppress(OSError):
        marker.touch(mode=0o600)


def watch(folder: Path, events: Recorder, means: "MeansWatch", stop: threading.Event) -> None:
    """Look at the state partition there, and at the agent's means, until `stop`."""
    looks = StateWatch(folder, events).look, means.look
    while not stop.wait(STATE_INTERVAL):
        for look in looks:
            look()


class StateWatch:
    """Can the state partition be written?"""

    def __init__(self, folder: Path, events: Recorder) -> None:
        self._folder = folder
        self._events = events
        self._well = True

    def look(self) -> None:
        reason = _full(self._folder)
        if self._well is bool(reason):
            self._events.record(_told(reason, files.free(self._folder)))
        self._well = not reason


class MeansWatch:
    """Can the agent open files, and start threads and processes?

    Whatever fails for want of them fails by itself; this is so that somebody is told why. No
    descriptor for long is a leak, most likely: then the agent is `lost`, and systemd's watchdog is
    to have it. Without tasks another agent could not even begin.
    """

    def __init__(
        self, events: Recorder, look: Callable[[], Mapping[str, str]] | None = None
    ) -> None:
        self._events = events
        self._look = look or lacking
        self._lacks: frozenset[str] = frozenset()
        self._looks = 0  # in a row, without a descriptor

    @property
    def lost(self) -> bool:
        """Has it had no descriptor for long?"""
        return self._looks >= LOST

    def look(self) -> None:
        found = self._look()
        for name in sorted(found.keys() - self._lacks):
            self._events.record(
                Event(
                    kind=Kind.AGENT_STARVED,
                    subject=name,
                    message=f"the agent has no {name} left: {found[name]}",
                    data={"lacks": name, "detail": found[name]},
                )
            )
        for name in sorted(self._lacks - found.keys()):
            self._events.record(
                Event(
                    kind=Kind.AGENT_FED,
                    subject=name,
                    message=f"the agent has {name} again",
                    data={"lacks": name},
                )
            )
        self._lacks = frozenset(found)
        self._looks = self._looks + 1 if "descriptors" in found else 0


def lacking() -> Mapping[str, str]:
    """What this process can have no more of, and what the kernel says."""
    found: dict[str, str] = {}
    handles: list[int] = []
    try:
        handles += [os.dup(2) for _ in range(SPARE)]
    except OSError as error:
        found["descriptors"] = str(error)
    finally:
        for handle in handles:
            os.close(handle)
    try:
        thread = threading.Thread(target=int, name="means")
        thread.start()
        thread.join()
    except RuntimeError as error:
        found["tasks"] = str(error)
    return found


def _full(folder: Path) -> str:
    """Why nothing can be written there; empty where something can."""
    try:
        files.require_room(folder, 0, 0)
    except HostFull as error:
        return str(error)
    return ""


def _told(reason: str, free: int) -> Event:
    if not reason:
        message = "the state partition can be written again"
        return Event(
            kind=Kind.STATE_WRITABLE, subject="state", message=message, data={"free": free}
        )
    return Event(
        kind=Kind.STATE_NOT_WRITABLE,
        subject="state",
        message=f"the state partition takes nothing: {reason}",
        data={"reason": reason, "free": free},
    )


class Runs(Protocol):
    """What the engine tells of what runs."""

    def state(self) -> State:
        """Which revision runs. Raises EngineError."""

    def current(self) -> Revision:
        """The one that runs. Raises EngineError."""


class Conditions:
    """How the VM is, for the heartbeat: by its state, and by whoever else watches something."""

    def __init__(self, engine: Runs, *watches: Callable[[], Health]) -> None:
        self._engine = engine
        self._watches = watches
        self._known: tuple[int | None, int | None] = (None, None)  # revision, and its generation

    def now(self) -> Condition:
        try:
            state = self._engine.state()
            if state.current != self._known[0]:
                self._known = state.current, self._engine.current().info.generation
            own = Health.FAILED if state.degraded else Health.OK
        except EngineError:
            own = Health.UNKNOWN
        worst = max((own, *(watch() for watch in self._watches)), key=lambda found: found.rank)
        revision, generation = self._known
        return Condition(generation, revision, worst)


def found(worst: Verdict | None) -> Health:
    """What the health checks' worst verdict is to the heartbeat."""
    return Health.UNKNOWN if worst is None else _VERDICTS[worst]


_VERDICTS: Mapping[Verdict, Health] = {
    Verdict.PASSED: Health.OK,
    Verdict.SKIPPED: Health.OK,
    Verdict.UNKNOWN: Health.UNKNOWN,
    Verdict.WARNING: Health.WARNING,
    Verdict.FAILED: Health.FAILED,
}


class DriftWatch:
    """Is the machine what was asked for, and are there rules beside ours?"""

    def __init__(self, events: Recorder) -> None:
        self._events = events
        self._drift: tuple[str, ...] = ()
        self._legacy: tuple[str, ...] = ()

    def found(self, drift: tuple[str, ...], legacy: tuple[str, ...]) -> None:
        """What a look has found, as lines for a person."""
        if drift != self._drift:
            self._events.record(_drifted(drift))
        if legacy != self._legacy:
            self._events.record(_beside(legacy))
        self._drift, self._legacy = drift, legacy


def _drifted(lines: tuple[str, ...]) -> Event:
    if not lines:
        return Event(kind=Kind.DRIFT_OVER, subject="drift", message="no drift any more")
    return Event(
        kind=Kind.DRIFT_FOUND,
        subject="drift",
        message=f"the VM is not what the document says: {_some(lines)}",
        data={"lines": len(lines), "first": lines[0]},
    )


def _beside(rules: tuple[str, ...]) -> Event:
    if not rules:
        return Event(
            kind=Kind.LEGACY_RULES_OVER, subject="legacy-rules", message="no legacy rules any more"
        )
    return Event(
        kind=Kind.LEGACY_RULES_FOUND,
        subject="legacy-rules",
        message=f"rules in the legacy tables: {_some(rules)}",
        data={"rules": len(rules), "first": rules[0]},
    )


def _some(lines: tuple[str, ...]) -> str:
    more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
    return "; ".join(lines[:5]) + more
