"""GRUB without grub-install: what goes where on the disk."""

import struct
from pathlib import Path

import pytest

from appliance import data
from appliance.errors import ApplianceError
from appliance.image import boot_loader


def test_the_first_sector_keeps_the_partition_table_and_finds_the_core() -> None:
    first = bytes(440) + b"table" + bytes(65) + b"\x55\xaa"
    sector = boot_loader.boot_sector(b"\xeb" * 512, first, 2048)
    assert len(sector) == 512
    assert sector[440:] == first[440:]
    assert struct.unpack_from("<Q", sector, 0x5C) == (2048,)
    assert sector[0x66:0x68] == b"\x90\x90"
    assert sector[0] == 0xEB


def test_the_core_says_where_the_rest_of_it_lies() -> None:
    placed = boot_loader.placed_core(bytes(1000), 2048, 4096)
    assert len(placed) == 1024
    assert struct.unpack_from("<QHH", placed, 0x1F4) == (2049, 1, 0x820)


def test_a_core_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ApplianceError, match="5000 bytes"):
        boot_loader.placed_core(bytes(5000), 2048, 4096)


def test_an_environment_block_is_as_grub_wants_it() -> None:
    block = boot_loader.environment(slot="a", append="console=hvc0")
    assert len(block) == 1024
    assert block.startswith(b"# GRUB Environment Block\nslot=a\nappend=console=hvc0\n#")
    assert set(block[block.rindex(b"\n") + 1 :]) == {ord("#")}


def test_the_menu_boots_what_the_disk_has() -> None:
    element = data.recipes() / "elements/sysvm-boot"
    menu = (element / "grub.cfg").read_text()
    names = [
        line.partition("name:")[2].strip()
        for line in (element / "block-device-default.yaml").read_text().splitlines()
        if "- name:" in line
    ]
    assert names == ["bios", "esp", "root-a", "root-b", "state"]
    # GRUB counts from 1: slot a is partition 3, slot b is 4, the menu lies on 2.
    assert "set number=4; else set number=3" in menu
    assert ",gpt2)" in Path(boot_loader.__file__).read_text()
