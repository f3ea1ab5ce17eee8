"""What becomes of units, told by systemd as it happens, and by the kernel when a process ends.

One connection to the bus, for as long as it lasts: systemd tells each change of a unit's properties
(PropertiesChanged), in order. A pidfd (pidfd_open(2)) says the same of a death without systemd.
Where the bus goes away, `BusError` is raised, and a new watch has to be opened.
"""

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from agent.system.bus import Bus, BusError, DBusAddress, Ear, connect, ear

_NAME = "org.freedesktop.systemd1"
_MANAGER = DBusAddress("/org/freedesktop/systemd1", bus_name=_NAME, interface=f"{_NAME}.Manager")
_UNIT, _SERVICE = f"{_NAME}.Unit", f"{_NAME}.Service"
# What is asked for at first; a signal has more, and these among them.
_OF_UNIT = ("ActiveState", "SubState", "Job", "ConditionResult", "ConditionTimestampMonotonic")
_OF_SERVICE = ("MainPID", "Result", "NRestarts", "ExecMainCode", "ExecMainStatus")
_WANTED = frozenset(_OF_UNIT + _OF_SERVICE)
_SIGKILL = 9

Properties = Mapping[str, Any]


@dataclass(slots=True)
class UnitWatch:
    """Units by name, and their properties as last told. One thread's."""

    bus: Bus
    ear: Ear
    _paths: dict[str, str] = field(default_factory=dict)  # unit -> object path
    _units: dict[str, str] = field(default_factory=dict)  # object path -> unit
    _known: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    @contextlib.contextmanager
    def open(cls, address: str = "SYSTEM") -> Iterator[Self]:
        """Watch, for as long as the block lasts. Raises BusError."""
        with connect(address) as bus:
            bus.call(_MANAGER, "Subscribe")
            yield cls(bus, ear(bus, "org.freedesktop.DBus.Properties", "PropertiesChanged"))

    def fileno(self) -> int:
        """For poll(2)."""
        return self.ear.fileno()

    def follow(self, unit: str) -> Properties | None:
        """Watch a unit from now on, and tell how it is, as `read` does."""
        if unit not in self._paths:
            path = self.bus.call(_MANAGER, "LoadUnit", "s", (unit,))[0]
            self.ear.add(path)
            self._paths[unit], self._units[path] = path, unit
        return self.read(unit)

    def read(self, unit: str) -> Properties | None:
        """How a unit is now; None where that changed meanwhile, for `changes` then tells it.

        The properties are asked for one by one, and would not all be of one moment.
        """
        path = self._paths[unit]
        known: dict[str, Any] = {}
        for interface, names in ((_UNIT, _OF_UNIT), (_SERVICE, _OF_SERVICE)):
            address = DBusAddress(path, bus_name=_NAME, interface=interface)
            known |= {name: self.bus.get(address, name) for name in names}
        self._known[unit] = known
        return None if path in self.ear.waiting() else dict(known)

    @property
    def pending(self) -> bool:
        """Is there something for `changes` that poll(2) does not know of?"""
        return bool(self.ear.heard)

    def changes(self) -> Iterator[tuple[str, Properties]]:
        """Units that have changed, in order, each as it then was."""
        for path, (interface, changed, _) in self.ear.drain():
            unit = self._units.get(path)
            if unit is None:
                continue
            known = self._known.setdefault(unit, {})
            known |= {name: value[1] for name, value in changed.items() if name in _WANTED}
            if interface == _UNIT and known.keys() >= _WANTED:  # the service's own came before
                yield unit, dict(known)

    # -- acting: queued, for a job's end is told like any other change ---------------------------

    def start(self, unit: str) -> None:
        with contextlib.suppress(BusError):
            self.bus.call(_MANAGER, "ResetFailedUnit", "s", (unit,))
        self.bus.call(_MANAGER, "StartUnit", "ss", (unit, "replace"))

    def stop(self, unit: str) -> None:
        self.bus.call(_MANAGER, "StopUnit", "ss", (unit, "replace"))

    def kill(self, unit: str) -> None:
        """End the main process, whatever it is doing."""
        self.bus.call(_MANAGER, "KillUnit", "ssi", (unit, "main", _SIGKILL))


def pidfd(pid: int) -> int | None:
    """A descriptor that is readable once the process has ended; None where it has already."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def name_thread(name: str) -> None:
    """Have the calling thread be known by a name, for `top -H`; at most 15 characters."""
    with contextlib.suppress(OSError):
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name)


def is_stopped(pid: int) -> bool:
    """Has somebody stopped the process (SIGSTOP), so that it answers nobody?"""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - asked every two seconds
            return stat.read(512).rpartition(b") ")[2][:1] in b"Tt"
    except OSError:
        return False
