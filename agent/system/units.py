"""systemd's units: start, stop, reload, what they are, and the timer that undoes a change.

Over D-Bus, as org.freedesktop.systemd1(5) describes it. A job is waited for to its end, since
systemd's answer to the call only says that it was queued.
"""

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from agent.engine.host import StepFailed
from agent.engine.model import UnitState
from agent.system.bus import Bus, BusError, DBusAddress, connect
from agent.system.run import CommandFailed, run

_NAME = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = DBusAddress(_PATH, bus_name=_NAME, interface=f"{_NAME}.Manager")
_JOB_TIMEOUT = 60.0  # seconds; units' own time-outs are shorter
_DONE = frozenset({"done", "skipped"})
_NO_SUCH_UNIT = f"{_NAME}.NoSuchUnit"
_CONFIRM = "sysvm-confirm@"
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class UnitDetail:
    """How a unit's main process came to be; `started_at` is CLOCK_MONOTONIC, in seconds."""

    state: UnitState
    started_at: float
    restarts: int
    result: str


@dataclass(frozen=True, slots=True)
class Units:
    """systemd, behind a bus; `bus` is an address in tests."""

    bus: str = "SYSTEM"
    wait: bool = True  # else starts are only queued: at boot, jobs wait for one another

    def start(self, name: str) -> None:
        """Start a unit, also one that has failed too often. Raises StepFailed."""
        self._job("start", "StartUnit", name, wait=self.wait)

    def stop(self, name: str) -> None:
        """Stop a unit; fine where there is no such unit."""
        self._job("stop", "StopUnit", name)

    def reload(self, name: str) -> None:
        self._job("reload", "ReloadUnit", name)

    def restart(self, name: str) -> None:
        """Restart a unit, or start it where it does not run."""
        self._job("restart", "RestartUnit", name, wait=self.wait)

    def states(self, names: Collection[str], *, pids: bool = True) -> Mapping[str, UnitState]:
        """Each unit's state; one that systemd does not know is inactive.

        Without `pids`, main processes are not asked for, which is one call for all units.
        """
        if not names:
            return {}
        try:
            with connect(self.bus) as bus:
                return {
                    row[0]: UnitState(row[3], row[4], _main_pid(bus, row) if pids else 0)
                    for row in _listed(bus, names)
                }
        except BusError as error:
            raise StepFailed("read units", str(error)) from error

    def is_known(self, name: str) -> bool:
        """Is there a unit file, or the unit itself?"""
        try:
            with connect(self.bus) as bus:
                return all(row[2] != "not-found" for row in _listed(bus, [name]))
        except BusError as error:
            raise StepFailed("read units", str(error)) from error

    def condition_met(self, name: str) -> bool:
        """Whether the unit's conditions held when it was last to start. Raises StepFailed."""
        try:
            with connect(self.bus) as bus:
                path = _listed(bus, [name])[0][6]
                unit = DBusAddress(path, bus_name=_NAME, interface=f"{_NAME}.Unit")
                return bool(bus.get(unit, "ConditionResult"))
        except BusError as error:
            raise StepFailed(f"read {name}", str(error)) from error

    def detail(self, name: str) -> UnitDetail:
        """How a service is doing. Raises StepFailed."""
        try:
            with connect(self.bus) as bus:
                row = _listed(bus, [name])[0]
                values = bus.get_all(_service(row))
        except BusError as error:
            raise StepFailed(f"read {name}", str(error)) from error
        return UnitDetail(
            state=UnitState(row[3], row[4], values["MainPID"]),
            started_at=values["ExecMainStartTimestampMonotonic"] / _MICROSECONDS,
            restarts=values["NRestarts"],
            result=values["Result"],
        )

    def arm(self, revision: int, seconds: float) -> None:
        """Have `sysvm-confirm@REVISION.service` start after `seconds`, whatever becomes of us.

        A transient timer starts the service of its own name; systemd lets it name no other.
        """
        self.disarm()
        name = f"{_CONFIRM}{revision}.timer"
        properties = [
            ("Description", ("s", f"Rolls revision {revision} back unless it is confirmed")),
            ("TimersMonotonic", ("a(st)", [("OnActiveSec", int(seconds * _MICROSECONDS))])),
            ("AccuracyUSec", ("t", _MICROSECONDS // 10)),
            ("RemainAfterElapse", ("b", False)),
        ]
        try:
            with connect(self.bus) as bus:
                bus.call(
                    _MANAGER,
                    "StartTransientUnit",
                    "ssa(sv)a(sa(sv))",
                    (name, "replace", properties, []),
                )
        except BusError as error:
            raise StepFailed(f"arm {name}", str(error)) from error

    def disarm(self) -> None:
        """Stop every such timer."""
        try:
            with connect(self.bus) as bus:
                rows = bus.call(
                    _MANAGER, "ListUnitsByPatterns", "asas", ([], [f"{_CONFIRM}*.timer"])
                )[0]
        except BusError as error:
            raise StepFailed("disarm", str(error)) from error
        for row in rows:
            self.stop(row[0])

    def _job(self, verb: str, member: str, name: str, *, wait: bool = True) -> None:
        since = time.time()
        try:
            with connect(self.bus) as bus:
                if verb in {"start", "restart"}:
                    _reset_failed(bus, name)
                result = _finish(bus, member, name) if wait else _queue(bus, member, name)
        except BusError as error:
            if verb == "stop" and error.name == _NO_SUCH_UNIT:
                return
            raise StepFailed(f"{verb} {name}", str(error)) from error
        if result not in _DONE:
            raise StepFailed(f"{verb} {name}", _why(name, result, since))


def _listed(bus: Bus, names: Collection[str]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = bus.call(_MANAGER, "ListUnitsByNames", "as", (list(names),))[0]
    return rows


def _service(row: tuple[Any, ...]) -> DBusAddress:
    return DBusAddress(row[6], bus_name=_NAME, interface=f"{_NAME}.Service")


def _main_pid(bus: Bus, row: tuple[Any, ...]) -> int:
    if not row[0].endswith(".service") or row[3] in {"inactive", "failed"}:
        return 0
    pid: int = bus.get(_service(row), "MainPID")
    return pid


def _reset_failed(bus: Bus, name: str) -> None:
    """Forget earlier failures, which count against the unit's start limit."""
    try:
        bus.call(_MANAGER, "ResetFailedUnit", "s", (name,))
    except BusError as error:
        if error.name != _NO_SUCH_UNIT:  # a unit that is not loaded has not failed
            raise


def _queue(bus: Bus, member: str, name: str) -> str:
    bus.call(_MANAGER, member, "ss", (name, "replace"))
    return "done"


def _finish(bus: Bus, member: str, name: str) -> str:
    """Queue a job and wait for its end; its result, as JobRemoved tells it."""
    bus.call(_MANAGER, "Subscribe")
    with bus.hearing(_MANAGER, "JobRemoved") as removed:
        job = bus.call(_MANAGER, member, "ss", (name, "replace"))[0]
        deadline = time.monotonic() + _JOB_TIMEOUT
        while (ended := removed.next(max(deadline - time.monotonic(), 0.0))) is not None:
            if ended[1] == job:
                result: str = ended[3]
                return result
    return f"not finished after {_JOB_TIMEOUT:g} s"


def _why(name: str, result: str, since: float) -> str:
    """A job's result, with the last words that the unit's own processes wrote to the journal."""
    argv = ["journalctl", "-u", name, "-n", "20", "-o", "json", "--no-pager"]
    argv += [f"--since=@{since:.6f}", "--output-fields=MESSAGE,_PID"]
    try:
        lines = [json.loads(line) for line in run(argv, timeout=3.0).text.splitlines()]
    except CommandFailed:
        return result
    words = " / ".join(str(line.get("MESSAGE")) for line in lines if line.get("_PID") != "1")
    return f"{result}: {words}" if words else result
