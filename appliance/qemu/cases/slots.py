"""Two root slots, one of which may not come up, and a state partition that is damaged."""

import os
import tempfile
from pathlib import Path

from agent.system.run import run
from appliance.image import block_device, boot_loader
from appliance.image.block_device import Partition
from appliance.qemu.bench import READY, Bench
from appliance.qemu.cases.check import Checks, check, no_failed_units, same
from appliance.qemu.disk import copy, raw
from appliance.qemu.image import Contents
from appliance.qemu.machine import Machine

_TIMEOUT = 120.0
_CHUNK = 1 << 20
_TRIES = 3
_GRUB = "mount -o ro /dev/disk/by-partlabel/esp /mnt && grep -a '^[a-z]*=' /mnt/sysvm/grubenv"


def slots(bench: Bench) -> Checks:
    """A new slot whose init dies is left for the one before; one that comes up is kept."""
    disk = bench.cloud.folder / "slots.raw"
    try:
        copy(bench.cloud.contents.raw, disk)
        _write_slot_b(disk)
        _break_init(disk)
        _tell_grub(disk, slot="b", tries=str(_TRIES), previous="a", append="panic=1")
        vm = bench.boot(bench.attached(raw(disk, bench.variant.bus)), shell=False)
        for attempt in range(1, _TRIES + 1):
            begun = len(vm.console) if attempt > 1 else 0
            vm.wait_off(READY)
            said = vm.console[begun:]
            died = "Attempted to kill init" in said and "back to slot" not in said
            yield check(f"attempt {attempt}: the kernel starts, and init dies", died, said[-800:])
            vm.start()
        vm.wait_shell(READY)
        bench.cloud.wait_ready(READY)
        said = "Slot b does not come up: back to slot a"
        yield check("the boot loader says so, on the console", said in vm.console, vm.console)
        yield same("the slot before is back", "a", _slot(vm))
        left = _grub(vm)
        yield check("for good", "slot=a" in left and not _counting(left), left)
        yield from no_failed_units("in the slot before", vm)
        bench.push_example()
        generation = bench.cloud.running()
        vm.power_button()
        vm.wait_off(180)

        _write_slot_b(disk)
        _tell_grub(disk, slot="b", tries=str(_TRIES), previous="a")
        vm.start()
        vm.wait_shell(READY)
        bench.cloud.wait_ready(READY)
        yield same("a slot that comes up runs", "b", _slot(vm))
        good = ["systemctl", "-q", "is-active", "sysvm-boot-good.service"]
        vm.wait_success(good, READY, "the trial being over")
        left = _grub(vm)
        yield check("and its trial is over", "slot=b" in left and not _counting(left), left)
        yield same("it has what the other slot stored", generation, bench.cloud.running())
    finally:
        bench.discard()
        disk.unlink(missing_ok=True)


def damaged_state(bench: Bench) -> Checks:
    """A damaged state is repaired; one beyond repair is done without, and said."""
    disk = bench.cloud.folder / "damaged.raw"
    try:
        copy(bench.cloud.contents.raw, disk)
        vm = bench.boot(bench.attached(raw(disk, bench.variant.bus)))
        bench.cloud.wait_ready(READY)
        yield same("an undamaged one needs no words", "", _state_problem(bench))
        bench.push_example()
        generation = bench.cloud.running()
        state = block_device.table(disk)["state"]
        for words, length in (("its superblock gone", 4096), ("all of it gone", state.size)):
            vm.power_button()
            vm.wait_off(180)
            _punch(disk, state.start, length)
            vm.start()
            vm.wait_shell(READY)
            bench.cloud.wait_ready(READY)
            problem = _state_problem(bench)
            shown = vm.run(["sysvmctl", "status"]).text
            yield check(f"{words}: status says so", problem and "\nSTATE" in shown, shown)
            banner = vm.read("/run/sysvm/banner").decode()
            yield check(f"{words}: the console says so", "  STATE" in banner, banner)
            yield from no_failed_units(words, vm)
            if length < state.size:
                running = bench.cloud.running()
                yield same(f"{words}: repaired, what was stored is there", generation, running)
        yield same("all of it gone: what was stored is gone", 0, bench.cloud.running())
        kind = vm.run(["findmnt", "-n", "-o", "FSTYPE", "/var"]).text.strip()
        yield same("all of it gone: /var is in memory", "tmpfs", kind)
        bench.push_example()
        yield check("all of it gone: and yet it takes a push", bench.cloud.running())
    finally:
        bench.discard()
        disk.unlink(missing_ok=True)


def _state_problem(bench: Bench) -> str:
    said: str = bench.cloud.request("GET", "/v1/status").json()["state_problem"]
    return said


# -- in the machine --------------------------------------------------------------------------------


def _slot(vm: Machine) -> str:
    words = vm.read("/proc/cmdline").decode().split()
    return next(word.partition("=")[2] for word in words if word.startswith("sysvm.slot="))


def _grub(vm: Machine) -> frozenset[str]:
    """The settings in GRUB's environment block."""
    return frozenset(vm.run(["unshare", "--mount", "sh", "-c", _GRUB]).text.split())


def _counting(settings: frozenset[str]) -> bool:
    return any(setting.startswith("tries=") and setting != "tries=" for setting in settings)


# -- on its disk, while it is off ------------------------------------------------------------------


def _write_slot_b(disk: Path) -> None:
    """Write to slot B what slot A has, as an update writes a new root."""
    partitions = block_device.table(disk)
    source, target = partitions["root-a"], partitions["root-b"]
    _punch(disk, target.start, target.size)
    with disk.open("r+b") as file:
        for at in range(0, min(source.size, target.size), _CHUNK):
            file.seek(source.start + at)
            data = file.read(min(_CHUNK, source.size - at))
            if data.strip(b"\0"):
                file.seek(target.start + at)
                file.write(data)


def _break_init(disk: Path) -> None:
    """Have slot B's init end at once, which the kernel does not survive."""
    target: Partition = block_device.table(disk)["root-b"]
    with tempfile.TemporaryDirectory() as folder:
        dying = Path(folder) / "init"
        dying.write_text("#!/bin/sh\nexit 1\n")
        requests = Path(folder) / "requests"
        requests.write_text(
            f"rm /usr/sbin/init\nwrite {dying} /usr/sbin/init\nsif /usr/sbin/init mode 0100755\n"
        )
        where = f"{disk}?offset={target.start}"
        run(["debugfs", "-w", "-f", str(requests), where], timeout=_TIMEOUT)
    written = Contents(disk, target.start).read("/usr/sbin/init")
    if b"exit 1" not in written:
        raise AssertionError("slot B's init could not be replaced")


def _tell_grub(disk: Path, **settings: str) -> None:
    """Write GRUB's environment block, as the menu reads it."""
    place = f"{disk}@@{block_device.table(disk)['esp'].start}"
    with tempfile.NamedTemporaryFile() as file:
        file.write(boot_loader.environment(**settings))
        file.flush()
        run(["mcopy", "-o", "-i", place, file.name, "::sysvm/grubenv"], timeout=_TIMEOUT)


def _punch(disk: Path, start: int, length: int) -> None:
    where = (f"--offset={start}", f"--length={length}")
    run(["fallocate", "--punch-hole", *where, str(disk)], timeout=_TIMEOUT)
    os.sync()
