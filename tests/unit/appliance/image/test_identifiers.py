"""The one checksum that the standard library does not have."""

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
