"""What an image promises, tried on the booted image: cases that yield named checks.

`sysvm image test` runs them and prints what came of each check; the tests in tests/image assert
each one. A case leaves its bench so that any other can come next.
"""

from collections.abc import Callable
from dataclasses import dataclass

from agent.system.run import CommandFailed
from appliance.errors import ApplianceError
from appliance.qemu.bench import Bench
from appliance.qemu.cases.booting import channels, without_configuration
from appliance.qemu.cases.check import Check, Checks
from appliance.qemu.cases.console import console
from appliance.qemu.cases.exposure import listeners
from appliance.qemu.cases.hardship import clock, disk_full, forks, memory
from appliance.qemu.cases.health import health
from appliance.qemu.cases.libreswan import interoperate
from appliance.qemu.cases.power import power_cut, power_cuts_after, power_cuts_before
from appliance.qemu.cases.serving import power_cycle, power_on, reset, serve
from appliance.qemu.cases.sessions import sessions
from appliance.qemu.cases.slots import damaged_state, slots
from appliance.qemu.cases.tunnel import tunnel


@dataclass(frozen=True, slots=True)
class Case:
    """A story that ends in checks. Short ones are for each run, the others for `--all`."""

    name: str
    words: str
    tell: Callable[[Bench], Checks]
    short: bool = False
    every_variant: bool = False


def run(case: Case, bench: Bench) -> Checks:
    """A case's checks; that it could not be told to its end is one more, which fails."""
    try:
        yield from case.tell(bench)
    except (ApplianceError, AssertionError, CommandFailed, OSError, LookupError) as error:
        hint = getattr(error, "hint", "")
        tail = bench.vm.console[-1500:] if bench.vm is not None else ""
        # Whatever became of the machine, the next case is not to wait for it.
        bench.discard()
        yield Check(f"{case.words}: to its end", False, f"{error}\n{hint}\n{tail}".strip())  # noqa: FBT003


CASES = (
    Case("power-on", "from power-on to ready", power_on, short=True, every_variant=True),
    Case("serve", "a document pushed, a guest served", serve, short=True, every_variant=True),
    Case("reset", "reset, without management", reset, short=True, every_variant=True),
    Case("power-button", "the hypervisor's power button", power_cycle, every_variant=True),
    Case("listeners", "nothing listens that should not", listeners),
    Case("disk-full", "the disk is full", disk_full),
    Case("memory", "out of memory", memory),
    Case("forks", "no process can be started", forks),
    Case("clock", "the clock is years off", clock),
    Case("health", "health checks, and what they are kept from", health),
    Case("power-cut", "power cut in the middle of an apply", power_cut, short=True),
    Case(
        "power-cuts-before", "power cut at every point of an apply's first half", power_cuts_before
    ),
    Case("power-cuts-after", "power cut at every point of its second half", power_cuts_after),
    Case("console", "a guest's screen through it", console),
    Case("sessions", "5,000 consoles on 1 GiB", sessions),
    Case("ipsec", "IPsec between two of them, through a rekey", tunnel),
    Case("slots", "a new root that does not come up", slots),
    Case("damaged-state", "the state partition is damaged", damaged_state),
    Case("libreswan", "IPsec with libreswan, through a rekey", interoperate),
    Case("channels", "the boot configuration by every channel of QEMU's", channels),
    Case("no-configuration", "no boot configuration, or a broken one", without_configuration),
)


def chosen(*, short: bool, first: bool = True) -> tuple[Case, ...]:
    """The cases for one variant of an image: the first one gets all, the others what may differ."""
    return tuple(
        case
        for case in CASES
        if (case.every_variant or first)
        and (case.short or not short)
        # All points of an apply have the one of the short form among them.
        and (short or case.name != "power-cut")
    )
