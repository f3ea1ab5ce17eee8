import struct
from pathlib import Path

import pytest

from appliance.qemu.disk import VolatileDisk

SECTOR = 512
FLUSH, FUA, DISCARD = 1, 2, 4


@pytest.fixture
def disk(tmp_path: Path) -> VolatileDisk:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(b"." * SECTOR * 8)
    return VolatileDisk(raw)


def log(*entries: tuple[int, int, bytes]) -> bytes:
    """A log as QEMU's blklogwrites leaves one: (sector, flags, data or nothing) per entry."""
    written = [struct.pack("<QQQI", 0x6A736677736872, 1, 0, SECTOR).ljust(SECTOR, b"\0")]
    for sector, flags, data in entries:
        discarded = 1 if flags & DISCARD else 0
        sectors = discarded or len(data) // SECTOR
        head = struct.pack("<QQQQ", sector, sectors, flags, 0)
        written += [head.ljust(SECTOR, b"\0"), data]
    return b"".join(written)


def block(letter: str) -> bytes:
    return letter.encode() * SECTOR


def record(disk: VolatileDisk, content: bytes) -> None:
    disk.raw.with_suffix(".log").write_bytes(content)


def shown(disk: VolatileDisk) -> str:
    """Each sector's first letter."""
    content = disk.raw.read_bytes()
    return "".join(chr(content[at]) for at in range(0, len(content), SECTOR)).replace("\0", "0")


def test_power_cut_keeps_what_was_flushed_and_loses_the_rest(disk: VolatileDisk) -> None:
    record(disk, log((1, 0, block("a")), (2, 0, block("b")), (0, FLUSH, b""), (3, 0, block("c"))))
    assert disk.cut() == 1
    assert shown(disk) == ".ab....."


def test_power_cut_before_any_flush_loses_everything(disk: VolatileDisk) -> None:
    record(disk, log((1, 0, block("a"))))
    assert disk.cut() == 1
    assert shown(disk) == "........"


def test_power_cut_keeps_a_write_that_was_forced_to_the_medium(disk: VolatileDisk) -> None:
    record(disk, log((0, FLUSH, b""), (1, 0, block("a")), (2, FUA, block("b"))))
    disk.cut()
    assert shown(disk) == "..b....."


def test_later_write_to_a_sector_wins(disk: VolatileDisk) -> None:
    record(disk, log((1, 0, block("a")), (1, 0, block("b")), (0, FLUSH, b"")))
    disk.cut()
    assert shown(disk) == ".b......"


def test_write_that_was_cut_in_two_is_not_there(disk: VolatileDisk) -> None:
    whole = log(
        (1, 0, block("a")), (0, FLUSH, b""), (2, 0, block("b") + block("c")), (0, FLUSH, b"")
    )
    record(disk, whole[: -SECTOR * 2])
    disk.cut()
    assert shown(disk) == ".a......"


def test_discarded_sectors_are_zero(disk: VolatileDisk) -> None:
    record(disk, log((1, DISCARD, b""), (0, FLUSH, b"")))
    disk.cut()
    assert shown(disk) == ".0......"


def test_orderly_end_keeps_what_was_not_flushed_either(disk: VolatileDisk) -> None:
    record(disk, log((1, 0, block("a")), (0, FLUSH, b""), (3, 0, block("c"))))
    disk.keep()
    assert shown(disk) == ".a.c...."


def test_machine_that_never_wrote_leaves_the_disk_as_it_was(disk: VolatileDisk) -> None:
    record(disk, b"")
    assert disk.cut() == 0
    assert shown(disk) == "........"
