"""What the engine needs of a machine: a narrow door, so that tests can put another behind it.

`agent.system.host.LinuxHost` is the real one; tests/unit/engine has one in memory.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.engine.model import (
    AddressSet,
    Command,
    Count,
    CounterKey,
    Desired,
    Family,
    Link,
    Observed,
    Probe,
    ProbeResult,
    Step,
    Table,
    UnitState,
)


class StepFailed(Exception):
    """A step could not be done; `path` is where in the document its cause is, if anywhere."""

    retryable = True

    def __init__(self, step: str, reason: str, path: str = "") -> None:
        super().__init__(f"{step}: {reason}")
        self.step = step
        self.reason = reason
        self.path = path


class CheckFailed(Exception):
    """A daemon's own checker, or the rehearsal, refused what was staged."""

    retryable = False

    def __init__(self, what: str, reason: str, path: str = "") -> None:
        super().__init__(f"{what}: {reason}")
        self.what = what
        self.reason = reason
        self.path = path


class HostFull(Exception):
    """There is no room, or no permission, to write: nothing was begun."""

    retryable = True


@dataclass(frozen=True, slots=True)
class Scope:
    """What to look at, besides the NICs and the firewall, all of which are ours.

    Without units, systemd is not asked for anything.
    """

    units: frozenset[str]
    sysctls: frozenset[str]


class Host(Protocol):
    """One machine. Every method may raise OSError-free errors of this module only."""

    def links(self) -> tuple[Link, ...]:
        """Every network interface but loopback."""

    def observe(self, scope: Scope) -> Observed:
        """What is there, within the scope."""

    def unit_states(self, names: Collection[str]) -> Mapping[str, UnitState]:
        """How these units are; at boot, once systemd can be asked."""

    def wait_until_closed(self) -> None:
        """At boot: return when what closes the VM without us is done with the firewall."""

    def look_ahead(self) -> None:
        """Begin to observe, for an `observe` that comes at once and finds less left to do."""

    def require_room(self) -> None:
        """Refuse a change that could not be kept, before it is begun. Raises HostFull."""

    def stage(self, revision: int, desired: Desired) -> None:
        """Write a revision's files (and missing objects) to their final names, not yet used.

        Staging the same revision again replaces what was staged. Raises HostFull.
        """

    def check(self, revision: int, commands: Sequence[Command]) -> None:
        """Run the checkers with `current` being the staged revision. Raises CheckFailed."""

    def rehearse(
        self,
        sets: Mapping[str, AddressSet],
        tables: Mapping[tuple[Family, Table], str],
    ) -> Mapping[tuple[Family, Table], str]:
        """Load firewall text, with its sets, where no packet passes, and read it back.

        Returns the canonical text of each table given: what `iptables-save -t TABLE` says there,
        without comments and counters. Raises CheckFailed, naming the rule's comment as its path
        where the tool's message names a line.
        """

    def perform(self, step: Step, revision: int) -> None:
        """Do one step; done twice is as good as once. Raises StepFailed."""

    def probe(self, probes: Sequence[Probe], timeout: float) -> tuple[ProbeResult, ...]:
        """Ask until each probe passes or `timeout` seconds are over; all at once."""

    def counters(self) -> Mapping[CounterKey, Count]:
        """The kernel's own figures now; they begin again whenever a table is replaced."""

    def missing_blobs(self, wanted: Collection[str]) -> frozenset[str]:
        """Which of these blobs (by SHA-256) have not been uploaded."""

    def discard(self, keep: Sequence[int], blobs: Collection[str]) -> None:
        """Remove staged revisions that are not to be kept, and objects that none of them names;
        and blobs that are not among `blobs`, unless they were uploaded a moment ago."""

    def arm(self, revision: int, seconds: float) -> None:
        """Have the machine, not this process, roll `revision` back after `seconds`."""

    def disarm(self) -> None:
        """Call that off; nothing happens where nothing is armed."""

    def fault(self, point: str) -> None:
        """Die here, if whoever booted this machine asked for it. Used by tests only."""


class Clock(Protocol):
    """Time, so that tests can move it."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def sleep(self, seconds: float) -> None:
        """Let that much time pass."""
