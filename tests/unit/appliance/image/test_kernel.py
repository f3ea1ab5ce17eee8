"""The kernel's modules: what a system VM can use stays, and nothing else."""

from pathlib import Path

import pytest

from appliance.errors import ApplianceError
from appliance.image import kernel, recipe

_DEP = """\
kernel/drivers/net/e1000.ko.xz:
kernel/drivers/net/virtio-net.ko.xz: kernel/net/core/failover.ko.xz kernel/lib/deep.ko.xz
kernel/net/core/failover.ko.xz: kernel/lib/deep.ko.xz
kernel/lib/deep.ko.xz:
kernel/sound/soundcore.ko.xz:
kernel/net/l2tp/l2tp_core.ko.xz:
"""


def test_what_a_module_depends_on_stays_with_it() -> None:
    kept = kernel.kept(["virtio_net"], kernel.dependencies(_DEP))
    assert {kernel.module_name(path) for path in kept} == {"virtio_net", "failover", "deep"}


def test_a_folder_and_a_pattern_name_several() -> None:
    needs = kernel.dependencies(_DEP)
    assert kernel.kept(["net/l2tp/"], needs) == {"kernel/net/l2tp/l2tp_core.ko.xz"}
    assert kernel.kept(["e1*"], needs) == {"kernel/drivers/net/e1000.ko.xz"}
    assert kernel.kept([], needs) == set()


def test_a_dependency_comes_before_what_needs_it() -> None:
    needs = kernel.dependencies(_DEP)["kernel/drivers/net/virtio-net.ko.xz"]
    assert needs == ("kernel/lib/deep.ko.xz", "kernel/net/core/failover.ko.xz")


def test_there_is_one_kernel(tmp_path: Path) -> None:
    with pytest.raises(ApplianceError, match="0 kernels"):
        kernel.version(tmp_path)
    for release in ("6.12.1-amd64", "6.12.2-amd64"):
        (tmp_path / kernel.MODULES / release).mkdir(parents=True)
        (tmp_path / kernel.MODULES / release / "modules.builtin").touch()
        if release.startswith("6.12.1"):
            assert kernel.version(tmp_path) == release
    with pytest.raises(ApplianceError, match="2 kernels"):
        kernel.version(tmp_path)


# What the issue and each hypervisor ask for, and what nobody has a use for in a system VM.
_WANTED = (
    *("virtio_blk", "virtio_scsi", "virtio_net", "xen-blkfront", "xen-netfront"),
    *("vmxnet3", "vmw_pvscsi", "e1000", "e1000e", "mptspi", "mptsas", "hv_storvsc", "hv_netvsc"),
    *("hv_utils", "ahci", "ata_piix", "nvme", "wireguard", "vfat", "isofs", "hid-hyperv"),
)


@pytest.mark.parametrize("name", _WANTED)
def test_a_driver_that_a_hypervisor_needs_is_asked_for(name: str) -> None:
    needs = {f"kernel/x/{name}.ko.xz": (), f"kernel/drivers/hv/{name}.ko.xz": ()}
    assert kernel.kept(recipe.read().modules, needs)


@pytest.mark.parametrize("name", ["snd", "cfg80211", "bluetooth", "nouveau", "amdgpu", "ib_core"])
def test_what_no_system_vm_has_is_not_asked_for(name: str) -> None:
    assert not kernel.kept(recipe.read().modules, {f"kernel/drivers/x/{name}.ko.xz": ()})
