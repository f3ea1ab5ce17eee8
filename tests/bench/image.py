"""What a booted image costs: how long until a guest is served, in which units, how much memory.

The floor of the boot is the kernel and systemd of the same image, on the same machine, without
the units of ours: whatever is beyond it is ours to answer for. Both are booted by their kernel
directly, so that neither has the boot loader's time in it.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from appliance import data
from appliance.errors import ApplianceError
from appliance.image.base import listed
from appliance.lab.wait import wait_until
from appliance.qemu.bench import READY, Bench, Variant, bench
from appliance.qemu.machine import Direct, Machine
from tests.bench import documents
from tests.bench.router import Json

BUILT = Path(__file__).parents[2] / "build"
MEMORY = {50: 256, 1000: 512}  # MiB of the machine, by the guests behind it
SLOWEST = 10  # units that are shown

_APPEND = "root=PARTLABEL=root-a ro console=ttyS0 quiet panic=10 sysvm.slot=a"
_WEB = "198.51.100.10"


def newest() -> Path:
    """The image that SYSVM_IMAGE names, or the newest of build/. Raises ApplianceError."""
    if named := os.environ.get("SYSVM_IMAGE"):
        return Path(named)
    found = sorted(BUILT.glob("sysvm-*.qcow2"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ApplianceError("no image in build/", "sysvm image build makes one")
    return found[-1]


def measure(*, boots: int, sizes: Mapping[int, int], say: Callable[[str], None]) -> Json:
    """All of it. `sizes` are numbers of guests, and the machine's memory in MiB for each."""
    image = newest()
    result: Json = {"name": image.name, "bytes": image.stat().st_size}
    with bench(image, Variant(), name="bench", say=say) as ground:
        result["accelerator"] = "KVM" if "kvm" in ground.cloud.accelerator else "TCG"
        result["boot"] = _boots(ground, boots, say)
        ground.discard()
        result["memory"] = [_memory(ground, size, sizes[size], say) for size in sizes]
    return result


# -- the boot ------------------------------------------------------------------------------------


def _boots(ground: Bench, boots: int, say: Callable[[str], None]) -> Json:
    """A document is pushed once; then each boot is timed until the network serves a guest."""
    disk = ground.new_disk()
    direct = _direct(ground, ())
    say("the first boot, and a push")
    ground.boot(ground.spec(disk, direct=direct))
    ground.cloud.wait_ready(READY)
    ground.push_example()
    ground.cloud.neighbour.dhcp()
    served: list[float] = []
    bare: list[float] = []
    told = ""
    for number in range(boots):
        say(f"boot {number + 1} of {boots}, until a guest is served")
        with _power(ground, disk, direct) as vm:
            served.append(_until_served(ground, vm))
            _settled(vm)
            told = told or vm.run(["systemd-analyze", "time"], 120).text
            if not number:
                units = _units(vm.run(["systemd-analyze", "blame"], 120).text)
                chain = vm.run(["systemd-analyze", "critical-chain", "sysvm-agent.service"], 120)
        say(f"boot {number + 1} of {boots}, kernel and systemd alone")
        with _power(ground, disk, _direct(ground, _ours())) as vm:
            bare.append(_settled(vm))
    return {
        "served": served,
        "bare": bare,
        "analyze": told.splitlines()[0] if told else "",
        "units": units,
        "chain": chain.text,
    }


def _direct(ground: Bench, masked: tuple[str, ...]) -> Direct:
    initrd = ground.cloud.folder / "initrd.img"
    if not initrd.exists():
        initrd.write_bytes(ground.cloud.contents.read("/boot/initrd.img"))
    append = " ".join([_APPEND, *(f"systemd.mask={unit}" for unit in masked)])
    return Direct(ground.cloud.kernel, initrd, append)


def _ours() -> tuple[str, ...]:
    """What runs from boot on because of us."""
    return listed(data.units() / "presets")


@contextmanager
def _power(ground: Bench, disk: Path, direct: Direct) -> Iterator[Machine]:
    """The machine off and on again, its disk as it was."""
    if ground.vm is not None and ground.vm.running:
        ground.vm.power_button()
        ground.vm.wait_off(180)
    yield ground.boot(ground.spec(disk, direct=direct), shell=False)


def _until_served(ground: Bench, vm: Machine) -> float:
    """Seconds until a guest that has its lease reaches the internet, translated."""
    guest = ground.cloud.neighbour

    def served() -> bool:
        try:
            return guest.get(f"http://{_WEB}/", timeout=1).status == 200
        except OSError:
            return False

    wait_until(served, READY, "a guest being served", every=0.1)
    return time.monotonic() - vm.started


def _settled(vm: Machine) -> float:
    """Seconds until systemd has nothing left to start."""
    vm.wait_shell(READY)
    vm.run(["systemctl", "is-system-running", "--wait"], 300, check=False)
    return time.monotonic() - vm.started


def _units(blame: str) -> list[Json]:
    """The slowest, as `systemd-analyze blame` tells them: seconds of each."""
    found = []
    for line in blame.splitlines():
        words = line.split()
        if words and words[-1].endswith((".service", ".mount", ".socket", ".target")):
            found.append({"unit": words[-1], "seconds": _seconds(" ".join(words[:-1]))})
    return found[:SLOWEST]


def _seconds(text: str) -> float:
    """systemd.time(7), as far as systemd-analyze writes it: 1min 2.5s, 340ms."""
    factors = {"min": 60.0, "s": 1.0, "ms": 0.001, "us": 0.000001}
    return sum(
        float(number) * factors[unit] for number, unit in re.findall(r"([\d.]+)(min|ms|us|s)", text)
    )


# -- memory ------------------------------------------------------------------------------------


def _memory(ground: Bench, size: int, memory: int, say: Callable[[str], None]) -> Json:
    """What a machine of so much memory has in use with so many guests behind it, in MiB."""
    say(f"memory with {size} guests in {memory} MiB")
    vm = ground.boot(replace(ground.spec(), memory=memory))
    ground.cloud.wait_ready(READY)
    before = _used(vm)
    listeners = size // 10
    answer = ground.cloud.push(documents.router(size, listeners=listeners), timeout=600)
    if answer.status != 201:
        raise ApplianceError(f"{size} guests were refused: {answer.status}", answer.text[:500])
    ground.settled()
    used = _used(vm)
    processes = vm.run(["sh", "-c", _PROCESSES]).text
    top = [line.split(None, 1) for line in processes.splitlines() if line.strip()]
    ground.discard()
    return {
        "guests": size,
        "listeners": listeners,
        "machine": memory,
        "before": before,
        "used": used,
        "processes": [{"name": name, "pss": int(kib) / 1024} for kib, name in top],
    }


_PROCESSES = (
    "for p in /proc/[0-9]*; do "
    "kib=$(sed -n 's/^Pss: *\\([0-9]*\\).*/\\1/p' $p/smaps_rollup 2>/dev/null); "
    '[ -n "$kib" ] && echo "$kib $(sed "s,.*/,," $p/cgroup)"; '
    "done | sort -rn | head -n 12"
)


def _used(vm: Machine) -> float:
    """What is in use and cannot be given back: MemTotal less MemAvailable (proc(5)), in MiB."""
    fields = dict(line.split(":") for line in vm.run(["cat", "/proc/meminfo"]).text.splitlines())
    total, available = (int(fields[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return (total - available) / 1024
