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

import dns.exception

from agent.system.run import run
from appliance import data
from appliance.errors import ApplianceError
from appliance.image.base import listed
from appliance.lab.wait import wait_until
from appliance.qemu.bench import READY, Bench, Variant, bench
from appliance.qemu.disk import overlay
from appliance.qemu.image import image_format
from appliance.qemu.machine import Direct, Disk, Machine, Spec
from tests.bench import documents
from tests.bench.router import Json

BUILT = Path(__file__).parents[2] / "build"
MEMORY = {50: 256, 1000: 512}  # MiB of the machine, by the guests behind it
SLOWEST = 10  # units that are shown

_APPEND = "root=PARTLABEL=root-a ro console=ttyS0 quiet panic=10 oops=panic sysvm.slot=a"
_WEB = "198.51.100.10"
_ROUTER = "10.1.1.1"


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
    ours = ground.new_disk()
    bare = _without_ours(ground)
    say("the first boot, and a push")
    ground.boot(_spec(ground, overlay(ground.image, image_format(ground.image), ours)))
    ground.cloud.wait_ready(READY)
    ground.push_example()
    ground.cloud.neighbour.dhcp()
    result: Json = {"served": [], "answered": [], "bare": []}
    for number in range(boots):
        say(f"boot {number + 1} of {boots}, until a guest is served")
        with _power(ground, overlay(ground.image, image_format(ground.image), ours)) as vm:
            result["served"].append(_until_served(ground, vm))
            result["answered"].append(_until_answered(ground, vm))
            _settled(vm)
            result["analyze"] = vm.run(["systemd-analyze", "time"], 120).text.splitlines()[0]
            result["units"] = _units(vm.run(["systemd-analyze", "blame"], 120).text)
            # Guests are served when the first has ended, management when the second has begun.
            units = ["sysvm-firewall.service", "sysvm-agent.service"]
            chain = ["systemd-analyze", "critical-chain", *units]
            result["chain"] = vm.run(chain, 120).text.partition("\n\n")[2]
        say(f"boot {number + 1} of {boots}, kernel and systemd alone")
        fresh = overlay(bare, "raw", ground.new_disk())
        with _power(ground, fresh) as vm:
            result["bare"].append(_settled(vm))
            result["bare_analyze"] = vm.run(["systemd-analyze", "time"], 120).text.splitlines()[0]
    return result


def _without_ours(ground: Bench) -> Path:
    """The image's disk, with every unit masked that runs from boot on because of us."""
    contents = ground.cloud.contents
    raw = ground.cloud.folder / "bare.raw"
    run(["cp", "--sparse=always", str(contents.raw), str(raw)], timeout=120)
    masks = [
        f"symlink /etc/systemd/system/{unit} /dev/null" for unit in listed(data.units() / "presets")
    ]
    script = "".join(f"{line}\n" for line in masks).encode()
    source = f"{raw}?offset={contents.offset}"
    run(["debugfs", "-w", "-f", "/dev/stdin", source], timeout=120, stdin=script)
    return raw


def _spec(ground: Bench, disk: Disk) -> Spec:
    initrd = ground.cloud.folder / "initrd.img"
    if not initrd.exists():
        initrd.write_bytes(ground.cloud.contents.read("/boot/initrd.img"))
    direct = Direct(ground.cloud.kernel, initrd, _APPEND)
    return ground.cloud.system_vm(disk, direct=direct)


@contextmanager
def _power(ground: Bench, disk: Disk) -> Iterator[Machine]:
    """The machine that runs off, and one with this disk on."""
    if ground.vm is not None and ground.vm.running:
        ground.vm.power_button()
        ground.vm.wait_off(180)
    yield ground.boot(_spec(ground, disk), shell=False)


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


def _until_answered(ground: Bench, vm: Machine) -> float:
    """Seconds until guests' names are told, and leases given: both are dnsmasq's."""
    guest = ground.cloud.neighbour

    def answers() -> bool:
        try:
            return bool(guest.query("data-server", server=_ROUTER, timeout=0.5))
        except (OSError, dns.exception.DNSException):
            return False

    wait_until(answers, READY, "dnsmasq", every=0.1)
    return time.monotonic() - vm.started


def _settled(vm: Machine) -> float:
    """Seconds from power-on until systemd had nothing left to start.

    Its own clock tells, which began with the kernel: asking takes time in a machine that is busy.
    """
    vm.wait_shell(READY)
    vm.run(["systemctl", "is-system-running", "--wait"], 300, check=False)
    before_kernel = min(_before_kernel(vm) for _ in range(3))
    shown = vm.run(["systemctl", "show", "--value", "-p", "FinishTimestampMonotonic"]).text
    return before_kernel + int(shown) / 1e6


def _before_kernel(vm: Machine) -> float:
    """Seconds from power-on to the kernel's first, at most."""
    up = float(vm.run(["cut", "-d ", "-f1", "/proc/uptime"]).text)
    return time.monotonic() - vm.started - up


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
