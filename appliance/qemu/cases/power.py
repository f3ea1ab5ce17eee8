"""The power is cut while the agent applies a document."""

from collections.abc import Sequence

from appliance.lab.faults import AFTER_COMMIT, POINTS, bare, example
from appliance.lab.wait import wait_until
from appliance.lab.whole import UNITS, Whole
from appliance.qemu.bench import READY, Bench, difference
from appliance.qemu.cases.check import Checks, check, no_failed_units, same
from appliance.qemu.disk import VolatileDisk
from appliance.qemu.machine import Machine

_HALF = POINTS.index("set-link")


def power_cut(bench: Bench) -> Checks:
    """The power is cut at one point of an apply, and what the disk had not flushed is lost."""
    yield from _power_cuts(bench, ("flip",))


def power_cuts_before(bench: Bench) -> Checks:
    """The power is cut at every point of an apply before the first NIC is touched."""
    yield from _power_cuts(bench, POINTS[:_HALF])


def power_cuts_after(bench: Bench) -> Checks:
    """The power is cut at every point from then on, the one after the commit included."""
    yield from _power_cuts(bench, (*POINTS[_HALF:], AFTER_COMMIT))


def _power_cuts(bench: Bench, points: Sequence[str]) -> Checks:
    """Each point costs one boot: the next point's boot shows what came of the one before."""
    raw = bench.cloud.folder / "volatile.raw"
    disk = VolatileDisk.copied(bench.cloud.contents.raw, raw, bench.variant.bus)
    try:
        vm = _boot_volatile(bench, disk)
        # The first push passes the points, too: it is made without a fault.
        bench.upload()
        answer = bench.cloud.push(bare(0))
        yield check("takes a bare document", answer.status == 201, answer.text)
        generation = bench.cloud.running() or 0
        before = _settled_as(bench, frozenset({"sysvm-front.service"}))
        vm.power_button()
        vm.wait_off(180)
        disk.keep()
        vm = _boot_volatile(bench, disk, points[0])
        now = bench.wait_whole(before)
        yield check("a reboot changes nothing", now == before, difference(before, now))
        for point, next_point in zip(points, (*points[1:], None), strict=True):
            bench.push_into_the_dark(example(0))
            reached = ["test", "-s", "/run/sysvm/faults-reached"]
            vm.wait_success(reached, 120, f"the agent to stop at {point}")
            vm.kill()
            lost = disk.cut()
            bench.say(f"power cut at {point}: {lost} writes were lost with the disk's cache")
            vm = _boot_volatile(bench, disk, next_point)
            yield from _after_cut(bench, vm, point, before, generation)
    finally:
        if bench.vm is not None:
            bench.vm.kill()
        disk.remove()


def _boot_volatile(bench: Bench, disk: VolatileDisk, point: str | None = None) -> Machine:
    variant = bench.variant
    fault = f"power:push:{point}" if point else None
    spec = bench.cloud.system_vm(
        disk.attach(), firmware=variant.firmware, nic=variant.nic, fault=fault
    )
    vm = bench.boot(spec)
    bench.cloud.wait_ready(READY)
    return vm


def _settled_as(bench: Bench, units: frozenset[str]) -> Whole:
    wait_until(lambda: bench.look().units == units, 60, "the daemons", every=0.5)
    return bench.look()


def _after_cut(bench: Bench, vm: Machine, point: str, before: Whole, generation: int) -> Checks:
    ran = bench.cloud.running()
    if point == AFTER_COMMIT:
        yield check(f"power cut at {point}: the new generation runs", (ran or 0) > generation, ran)
        now = _settled_as(bench, frozenset(UNITS))
        yield check(f"power cut at {point}: wholly", "10.1.1.10:80" in now.firewall, now.firewall)
    else:
        yield same(f"power cut at {point}: the old generation runs", generation, ran)
        now = bench.wait_whole(before)
        yield check(f"power cut at {point}: wholly", now == before, difference(before, now))
    yield from no_failed_units(f"power cut at {point}", vm)
