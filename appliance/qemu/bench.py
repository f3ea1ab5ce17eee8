"""What a case of the proof works on: an image in a variant, booted, pushed to, served, again."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance import blobs, data
from appliance.errors import ApplianceError
from appliance.lab.faults import example
from appliance.lab.wait import TookTooLong, wait_until
from appliance.lab.whole import UNITS, Whole, whole
from appliance.qemu import guest
from appliance.qemu.cloud import Cloud, cloud
from appliance.qemu.disk import overlay
from appliance.qemu.image import image_format
from appliance.qemu.machine import Bus, Disk, Firmware, Machine, Spec

READY = 300.0  # seconds from power-on, without KVM on a busy machine
_SERVED = 90.0


@dataclass(frozen=True, slots=True)
class Variant:
    """How an image is booted: on what a hypervisor would give it."""

    firmware: Firmware = Firmware.BIOS
    bus: Bus = Bus.VIRTIO
    nic: str = "virtio-net-pci"

    def __str__(self) -> str:
        return f"{self.firmware}, disk on {self.bus}, {self.nic}"


# What each format's hypervisors have. Neither Xen's nor Hyper-V's own devices are in QEMU; what
# they emulate is.
_OWN = {
    "vpc": Variant(bus=Bus.IDE, nic="e1000"),
    "vhdx": Variant(Firmware.UEFI, Bus.AHCI, "e1000e"),
    "vmdk": Variant(bus=Bus.PVSCSI, nic="vmxnet3"),
}


def variants(image: Path) -> tuple[Variant, ...]:
    """How an image in this format is to boot."""
    form = image_format(image)
    return (_OWN[form],) if form in _OWN else (Variant(), Variant(Firmware.UEFI))


@dataclass(slots=True)
class Bench:
    """One image, in one variant, in a cloud."""

    cloud: Cloud
    image: Path
    variant: Variant
    say: Callable[[str], None] = lambda _: None
    vm: Machine | None = None
    pushed: Whole | None = None  # the machine as it was when the example had been applied
    _disks: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    # -- machines ------------------------------------------------------------------------------

    def new_disk(self) -> Path:
        """Where a fresh disk over the image is to be written to."""
        return self.cloud.folder / f"disk{next(self._disks)}.qcow2"

    def spec(self, disk: Path | None = None, **changes: object) -> Spec:
        """The system VM's machine, with a fresh disk unless one is named."""
        path = disk or self.new_disk()
        return self.attached(
            overlay(self.image, image_format(self.image), path, self.variant.bus), **changes
        )

    def attached(self, disk: Disk, **changes: object) -> Spec:
        """The system VM's machine, with this disk."""
        given: dict[str, Any] = {
            "firmware": self.variant.firmware,
            "nic": self.variant.nic,
            **changes,
        }
        return self.cloud.system_vm(disk, **given)

    def boot(self, spec: Spec, *, shell: bool = True) -> Machine:
        """Switch such a system VM on, in the place of the one before."""
        self.pushed = None
        self.vm = self.cloud.machine(spec)
        self.vm.start()
        if shell:
            self.vm.wait_shell(READY)
        return self.vm

    def discard(self) -> None:
        """Switch the system VM off for good: the next one has a fresh disk."""
        self.vm = self.pushed = None
        self.cloud.scrap("vm")

    def started(self) -> Machine:
        """A system VM that answers management: the one that runs, or a fresh one."""
        if self.vm is None or not self.vm.running:
            self.boot(self.spec())
        self.cloud.wait_ready(READY)
        if self.vm is None:
            raise ApplianceError("no machine was booted")
        return self.vm

    def serving(self) -> Machine:
        """A system VM that runs the example, with a guest behind it that is served."""
        vm = self.started()
        if self.pushed is None or self.cloud.running() in (None, 0):
            self.push_example()
        self.wait_whole(self.pushed)
        round_ = guest.last(self.cloud.guest()).round
        guest.wait_served(self.cloud.guest(), _SERVED, after=round_)
        return vm

    # -- what it is told -------------------------------------------------------------------------

    def upload(self) -> None:
        """Upload the files that the example names."""
        for path in blobs.beside(data.examples() / "router.json"):
            self.cloud.manager.upload(path.read_bytes())

    def push_example(self) -> None:
        """Push the example, with forwards that nobody may use."""
        self.upload()
        answer = self.cloud.push(example(0))
        if answer.status not in (200, 201):
            raise ApplianceError(f"the push was refused ({answer.status})", answer.text[:2000])
        self.pushed = self.settled()

    def push_into_the_dark(self, document: dict[str, object]) -> threading.Thread:
        """Push to an agent that will not live to answer."""

        def push() -> None:
            with contextlib.suppress(OSError):
                self.cloud.push(document)

        thread = threading.Thread(target=push, daemon=True)
        thread.start()
        return thread

    # -- how it is -------------------------------------------------------------------------------

    def look(self) -> Whole:
        """The machine as it is now."""
        if self.vm is None:
            raise ApplianceError("no machine was booted")
        return whole(self.vm)

    def settled(self) -> Whole:
        """The machine when its daemons run: all of them."""

        def all_run() -> Whole | None:
            now = self.look()
            return now if now.units == frozenset(UNITS) else None

        found = wait_until(all_run, 90, "the daemons", every=0.5)
        if found is None:
            raise TookTooLong("the daemons")
        return found

    def wait_whole(self, wanted: Whole | None, timeout: float = 90) -> Whole:
        """The machine once it is as it was; as it is, where that does not come about."""
        deadline = time.monotonic() + timeout
        while True:
            now = self.look()
            if now == wanted or time.monotonic() > deadline:
                return now
            time.sleep(0.5)


@contextlib.contextmanager
def bench(
    image: Path,
    variant: Variant,
    *,
    name: str = "proof",
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Bench]:
    """A bench for this image in this variant; all of it is gone afterwards."""
    with cloud(image, name) as made:
        yield Bench(made, image, variant, say)


def difference(before: Whole, after: Whole) -> str:
    """Where two states of a machine differ, in a few lines; empty where they do not."""
    lines = []
    for name in Whole.__slots__:
        old, new = getattr(before, name), getattr(after, name)
        if old == new:
            continue
        was, now = (
            set(value.splitlines()) if isinstance(value, str) else set(value)
            for value in (old, new)
        )
        lines += [f"{name}: gone: {line}" for line in sorted(was - now)[:5]]
        lines += [f"{name}: new: {line}" for line in sorted(now - was)[:5]]
        if was == now:
            lines.append(f"{name}: in another order")
    return "\n".join(lines)
