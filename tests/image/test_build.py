"""Building the disk: loop devices without partition scanning, and nothing left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from diskimage_builder.block_device.blockdevice import BlockDeviceState

from agent.system.run import run
from appliance.image import block_device, kernel, rootfs
from appliance.image.block_device import MIB, LoopPartitioning
from appliance.lab.wait import wait_until

pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root attaches loop devices"),
]

_KIND = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
_ROOT = Path(__file__).parents[2]


def _plug_in(folder: Path) -> LoopPartitioning:
    disk = folder / "image0.raw"
    with disk.open("wb") as file:
        file.truncate(32 * MIB)
    state = BlockDeviceState()
    state["blockdev"] = {"image0": {"image": str(disk), "device": "/dev/null"}}
    named = {"type": _KIND, "base": "image0"}
    config = {
        "base": "image0",
        "label": "gpt",
        "partitions": [
            {"name": "first", "size": "4MiB", **named},
            {"name": "second", "size": "100%", **named},
        ],
    }
    return LoopPartitioning(config, {}, state)


def test_each_partition_has_a_loop_device_of_its_own_until_it_is_unmounted(tmp_path: Path) -> None:
    plug_in = _plug_in(tmp_path)
    for node in plug_in.get_nodes():
        node.create()
    try:
        devices = plug_in.state["blockdev"]
        assert len(block_device.left_behind(tmp_path)) == 2
        # What is written to the device lies in the file where the table says.
        with Path(devices["second"]["device"]).open("r+b", buffering=0) as device:
            device.write(b"state".ljust(4096, b"\0"))
        run(["sync", devices["second"]["device"]], timeout=20)
        disk = tmp_path / "image0.raw"
        place = block_device.table(disk)["second"]
        assert disk.read_bytes()[place.start : place.start + 5] == b"state"
        size = run(["blockdev", "--getsize64", devices["first"]["device"]], timeout=20)
        assert int(size.text) == 4 * MIB
    finally:
        for node in plug_in.get_nodes():
            node.umount()
    assert block_device.left_behind(tmp_path) == ()


def test_a_failed_build_rolls_its_loop_devices_back(tmp_path: Path) -> None:
    plug_in = _plug_in(tmp_path)
    nodes = plug_in.get_nodes()
    nodes[0].create()
    assert len(block_device.left_behind(tmp_path)) == 2
    for node in reversed(nodes):
        node.rollback()
    assert block_device.left_behind(tmp_path) == ()


def test_what_a_killed_build_left_is_detached_by_the_next(tmp_path: Path) -> None:
    plug_in = _plug_in(tmp_path)
    plug_in.get_nodes()[0].create()
    # The killed one's files are gone before the next one looks.
    (tmp_path / "image0.raw").unlink()
    assert len(block_device.left_behind(tmp_path)) == 2
    block_device.detach_left_behind(tmp_path)
    assert block_device.left_behind(tmp_path) == ()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_build_that_is_ended_leaves_no_mounts_loops_or_processes(
    tmp_path: Path, how: signal.Signals
) -> None:
    rootfs.layers()
    folder = tmp_path / "disk" / "one"
    folder.mkdir(parents=True)
    code = (
        "import sys; from pathlib import Path; from appliance.image import dib, recipe;"
        "dib.build(recipe.read(), Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=_ROOT)

    try:
        wait_until(lambda: len(block_device.left_behind(folder)) >= 6, 300, "loop devices")
        devices = block_device.left_behind(folder)
        process.send_signal(how)
        process.wait(60)
        wait_until(lambda: not _naming(str(folder)), 60, "the build's processes being gone")
    finally:
        process.kill()
        process.wait(60)
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()
    if how == signal.SIGKILL:
        # Nobody was left to detach them; the next build does it first.
        block_device.detach_left_behind(folder.parent)
    wait_until(
        lambda: not any(_is_ours(device, folder) for device in devices), 20, "no loop devices"
    )


def _is_ours(device: str, folder: Path) -> bool:
    """Whether a loop device has a file below the folder, or one whose mount is gone."""
    backing = Path("/sys/block", Path(device).name, "loop/backing_file")
    try:
        path = backing.read_text().strip()
    except OSError:
        return False
    return path.startswith(str(folder)) or path == "/image0.raw"


def _naming(folder: str) -> set[str]:
    """The processes that work below this folder, or name it on their command line."""
    found = set()
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and path.name != str(os.getpid()):
            try:
                words = (path / "cmdline").read_bytes().decode(errors="replace")
                place = str((path / "cwd").readlink())
            except OSError:
                continue
            if folder in words or place.startswith(folder):
                found.add(path.name)
    return found


_THERE = (
    *("virtio_blk", "virtio_scsi", "virtio_net", "xen_blkfront", "xen_netfront", "vmxnet3"),
    *("vmw_pvscsi", "e1000", "e1000e", "mptspi", "mptsas", "hv_storvsc", "hv_netvsc", "hv_utils"),
    *("ahci", "ata_piix", "nvme", "ppp_generic", "pppoe", "l2tp_ppp", "esp4", "esp6", "xfrm_user"),
    *(
        "wireguard",
        "ip_vs",
        "ip_set",
        "nf_tables",
        "nft_compat",
        "nf_conntrack",
        "vsock",
        "hv_sock",
    ),
    *("vfat", "isofs", "nls_cp437", "nls_ascii", "ext4", "tun", "8021q", "qemu_fw_cfg", "ptp_kvm"),
)
_GONE = (
    "snd",
    "cfg80211",
    "bluetooth",
    "nouveau",
    "amdgpu",
    "i915",
    "btrfs",
    "ib_uverbs",
    "videodev",
)


def test_the_template_has_the_drivers_of_every_hypervisor_and_no_others() -> None:
    base = rootfs.layers().base
    folder = base / kernel.MODULES / kernel.version(base)
    needs = kernel.dependencies((folder / "modules.dep").read_text())
    there = {kernel.module_name(path) for path in needs}
    builtin = {
        kernel.module_name(line) for line in (folder / "modules.builtin").read_text().splitlines()
    }
    missing = {name for name in _THERE if name not in there | builtin}
    assert not missing
    assert not there & set(_GONE)
    for path, needed in needs.items():
        assert (folder / path).exists(), path
        assert set(needed) <= set(needs), path
