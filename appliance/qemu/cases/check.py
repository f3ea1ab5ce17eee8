"""What a case yields: things that are to hold, and whether they do."""

from collections.abc import Iterator
from dataclasses import dataclass

from appliance.qemu.machine import Machine


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is to hold: in words, whether it does, and what was seen if it does not."""

    what: str
    holds: bool
    seen: str = ""


Checks = Iterator[Check]


def check(what: str, holds: object, seen: object = "") -> Check:
    """A check; what was seen is kept only where it does not hold."""
    return Check(what, bool(holds), "" if holds else str(seen))


def same(what: str, before: object, after: object) -> Check:
    """A check that two things are equal."""
    return check(what, before == after, f"{before!r} before, {after!r} now")


def no_failed_units(when: str, vm: Machine) -> Checks:
    """No unit of the machine has failed."""
    failed = vm.run(["systemctl", "--failed", "--no-legend", "--plain"]).text.strip()
    yield check(f"{when}: no unit failed", not failed, failed)


def unit_property(vm: Machine, unit: str, name: str) -> str:
    """A property of a unit, as systemctl shows it."""
    return vm.run(["systemctl", "show", "--value", "-p", name, unit]).text.strip()
