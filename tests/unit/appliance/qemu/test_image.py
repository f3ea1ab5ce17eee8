from pathlib import Path

import pytest

from appliance.errors import ApplianceError
from appliance.qemu.bench import variants
from appliance.qemu.image import bootable, image_format
from appliance.qemu.machine import Bus, Firmware


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.qcow2", "qcow2"),
        ("a.raw", "raw"),
        ("a.vhd", "vpc"),
        ("a.vhdx", "vhdx"),
        ("a.vmdk", "vmdk"),
    ],
)
def test_format_goes_by_the_ending(name: str, form: str) -> None:
    assert image_format(Path(name)) == form
    assert bootable(Path(name))


def test_package_of_an_image_is_not_booted() -> None:
    assert not bootable(Path("sysvm.ova"))
    with pytest.raises(ApplianceError, match="not an image"):
        image_format(Path("sysvm.ova"))


def test_each_format_boots_on_what_its_hypervisor_gives_it() -> None:
    assert [variant.firmware for variant in variants(Path("a.qcow2"))] == [
        Firmware.BIOS,
        Firmware.UEFI,
    ]
    assert variants(Path("a.vhd"))[0].bus is Bus.IDE
    assert variants(Path("a.vmdk"))[0].bus is Bus.PVSCSI
