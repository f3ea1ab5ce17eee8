"""The swap: a plan's steps done in their order, what they made read back, and daemons asked.

What is committed has been through it, and so has what is put back.
"""

from collections.abc import Collection, Mapping

from agent.engine.host import Clock, Host, StepFailed
from agent.engine.model import (
    LATER,
    Count,
    CounterKey,
    Desired,
    Family,
    LoadConnection,
    Plan,
    Probe,
    PutTable,
    ReloadUnit,
    RestartUnit,
    StartUnit,
    Step,
    Table,
)
from agent.engine.plan import describe, name, touched_units
from agent.engine.store import Store
from agent.engine.target import Target, Targets

VERIFY_TRIES = 4
VERIFY_PAUSE = 0.1  # seconds; what has just been changed may take a moment to settle
PROBE_TIMEOUT = 8.0  # seconds


class DidNotHold(Exception):
    """The swap did not hold; the cause is for the operator."""

    def __init__(self, cause: str, path: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.path = path


class Swap:
    """Makes the machine what a target says."""

    def __init__(self, host: Host, store: Store, targets: Targets, clock: Clock) -> None:
        self._host = host
        self._store = store
        self._targets = targets
        self._clock = clock

    def do(self, target: Target, plan: Plan, spared: frozenset[str]) -> tuple[str, ...]:
        """Do the plan's steps, then read back and ask; returns what there is to say of it.

        Raises StepFailed or DidNotHold.
        """
        excused, warnings = self.perform(plan, target, spared, "push")
        self.verify(target, excused)
        self._host.fault("push:verified")
        self.probe(target.desired, touched_units(plan) - excused)
        self._host.fault("push:probed")
        return warnings

    def perform(
        self, plan: Plan, target: Target, spared: frozenset[str], phase: str
    ) -> tuple[frozenset[str], tuple[str, ...]]:
        """Do the steps; returns units of `spared` that do not start, and what to say of them."""
        excused: set[str] = set()
        warnings: list[str] = []
        replaced = {
            (step.family, step.table)
            for step in plan.steps
            if isinstance(step, PutTable) and step.edits is None
        }
        kernel = self._host.counters() if replaced else {}
        for step in plan.steps:
            try:
                self._host.perform(step, target.revision.info.number)
            except StepFailed as error:
                unit = _unit(step)
                if unit not in spared:
                    raise
                excused.add(unit)
                warnings.append(f"{unit}: {error}")
            self._host.fault(f"{phase}:{name(step)}")
        if replaced:
            self.fold(kernel, replaced)
        return frozenset(excused), tuple(warnings)

    def verify(self, target: Target, excused: frozenset[str]) -> None:
        """Read the machine again: there must be nothing left to do. Raises DidNotHold."""
        left = Plan(())
        for attempt in range(VERIFY_TRIES):
            if attempt:
                self._clock.sleep(VERIFY_PAUSE)
            left = self._targets.difference(target)
            left = Plan(tuple(step for step in left.steps if _unit(step) not in excused))
            if not left:
                return
        raise DidNotHold("the machine did not become it: " + "; ".join(describe(left)[:5]))

    def probe(self, desired: Desired, units: frozenset[str]) -> None:
        """Ask the daemons that were touched. Raises DidNotHold."""
        probes: list[Probe] = [
            probe
            for probe in desired.probes
            if probe.unit in units and not isinstance(probe, LATER)
        ]
        failed = [r for r in self._host.probe(probes, PROBE_TIMEOUT) if not r.passed]
        if failed:
            raise DidNotHold("; ".join(f"{r.probe.unit}: {r.detail}" for r in failed[:5]))

    def fold(
        self, kernel: Mapping[CounterKey, Count], replaced: Collection[tuple[Family, Table]]
    ) -> None:
        """Keep what rules had counted before their table was replaced; forget rules that went."""
        zero = Count(0, 0)
        base = self._store.counters()
        self._store.put_counters(
            {
                key: base.get(key, zero) + (now if (key.family, key.table) in replaced else zero)
                for key, now in kernel.items()
            }
        )


def bystanders(plan: Plan, target: Target, previous: Desired | None) -> frozenset[str]:
    """Units that the plan starts only because they were down, with the files that they had."""
    if previous is None:
        return frozenset()
    changed = {
        path
        for path in previous.files.keys() | target.desired.files.keys()
        if previous.files.get(path) != target.desired.files.get(path)
    }
    concerned = {
        desired.files[path].unit
        for desired in (previous, target.desired)
        for path in changed
        if path in desired.files
    }
    return frozenset(
        step.unit.name
        for step in plan.steps
        if isinstance(step, StartUnit)
        and step.unit.name in previous.units
        and step.unit.name not in concerned
    )


def _unit(step: Step) -> str:
    """The unit that a step is about; empty for the others."""
    match step:
        case StartUnit(unit) | ReloadUnit(unit) | RestartUnit(unit):
            return unit.name
        case LoadConnection(connection):
            return connection.unit
        case _:
            return ""
