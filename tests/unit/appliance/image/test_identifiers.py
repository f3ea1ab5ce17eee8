"""The one checksum that the standard library does not have."""

import struct
from pathlib import Path

import pytest

from appliance.errors import ApplianceError
from appliance.image import identifiers


def test_crc32c_is_castagnolis() -> None:
    # RFC 3720, appendix B.4.
    assert identifiers.crc32c(bytes(32)) == 0x8A9136AA
    assert identifiers.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert identifiers.crc32c(bytes(range(32))) == 0x46DD794E


def test_what_is_no_vhd_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(2048))
    with pytest.raises(ApplianceError, match="not a dynamic VHD"):
        identifiers.set_vhd(path, 0)
    assert path.read_bytes() == bytes(2048)


@pytest.mark.parametrize("number", [b"1", b"89abcde", b"fedcba98"])
def test_a_vmdk_is_the_same_whatever_number_it_was_given(tmp_path: Path, number: bytes) -> None:
    made = tmp_path / "disk.vmdk"
    made.write_bytes(_vmdk(number))
    identifiers.set_vmdk(made)
    (tmp_path / "other.vmdk").write_bytes(_vmdk(b"12345678"))
    identifiers.set_vmdk(tmp_path / "other.vmdk")
    assert made.read_bytes() == (tmp_path / "other.vmdk").read_bytes()
    assert b"CID=00000000\n" not in made.read_bytes()
    assert made.stat().st_size == 512 * 4
    assert made.read_bytes().endswith(b"grains".ljust(512, b"."))


def _vmdk(number: bytes) -> bytes:
    """A header that names the descriptor's sectors, the descriptor, and a sector of data."""
    header = b"KDMV".ljust(28, b"\0") + struct.pack("<QQ", 1, 2)
    text = b"# Disk DescriptorFile\nversion=1\nCID=" + number + b"\nparentCID=ffffffff\n"
    return header.ljust(512, b"\0") + text.ljust(1024, b"\0") + b"grains".ljust(512, b".")
