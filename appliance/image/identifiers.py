"""Gives a converted disk identifiers that follow from its content.

qemu-img puts the time of day and random identifiers into VHD, VHDX and VMDK files. Two
conversions of one image would differ in them alone; here they are replaced by what the rest of
the file says, and the checksums that guard them are made anew.

Layouts: Virtual Hard Disk Image Format Specification 1.0 (Microsoft), [MS-VHDX], and VMware
Virtual Disk Format 1.1.
"""

import re
import struct
import uuid
from pathlib import Path
from typing import BinaryIO

from appliance.errors import ApplianceError
from appliance.image.checksums import sha256

_NAMESPACE = uuid.UUID("6f3f5e0c-6a0d-5d0b-9d53-5c4f7e0b8d11")


def set_vhd(path: Path, epoch: int) -> None:
    """Set a VHD's time stamp (to `epoch`, in seconds since 1970) and its identifier."""
    with path.open("r+b") as file:
        footer = bytearray(_read(file, 0, 512))
        size = file.seek(0, 2)
        if footer[:8] != b"conectix" or _read(file, size - 512, 512) != bytes(footer):
            raise ApplianceError(f"{path} is not a dynamic VHD as qemu-img writes it")
        footer[24:28] = struct.pack(">I", max(0, epoch - _VHD_EPOCH))
        for identifier in (bytes(16), None):
            footer[68:84] = identifier if identifier is not None else _identifier(path)
            footer[64:68] = bytes(4)
            footer[64:68] = struct.pack(">I", ~sum(footer) & 0xFFFFFFFF)
            for place in (0, size - 512):
                _write(file, place, footer)


def set_vhdx(path: Path) -> None:
    """Set a VHDX's write, data and disk identifiers, and empty its log, which is used up."""
    with path.open("r+b") as file:
        disk = _vhdx_disk_identifier(file)
        for identifier in (bytes(16), None):
            found = identifier if identifier is not None else _identifier(path)
            _write(file, disk, found)
            # The header with the greater number is in force.
            for number, place in enumerate(_VHDX_HEADERS, 1):
                header = bytearray(_read(file, place, 4096))
                if header[:4] != b"head" or any(header[48:64]):
                    raise ApplianceError(f"{path} is not a VHDX that was closed properly")
                header[8:48] = struct.pack("<Q16s16s", number, found, found)
                header[4:8] = bytes(4)
                header[4:8] = struct.pack("<I", crc32c(header))
                _write(file, place, header)
                length, log = struct.unpack_from("<IQ", header, 68)
                _write(file, log, bytes(length))


def set_vmdk(path: Path) -> None:
    """Set the content identifier (CID) in the descriptor of a streamOptimized VMDK."""
    with path.open("r+b") as file:
        sector, sectors = struct.unpack_from("<QQ", _read(file, 0, 512), 28)
        descriptor = _read(file, sector * 512, sectors * 512)
        # qemu-img leaves leading zeros out; the text is followed by zeros, up to its sectors' end.
        text, found = re.subn(rb"\nCID=[0-9a-f]{1,8}\n", b"\nCID=00000000\n", descriptor)
        place = sector * 512 + text.find(b"\nCID=") + len(b"\nCID=")
        if found != 1 or any(text[len(descriptor) :]):
            raise ApplianceError(f"{path} is not a VMDK as qemu-img writes it")
        _write(file, sector * 512, text[: len(descriptor)])
        # ffffffff and fffffffe mean "none".
        _write(file, place, f"{int(sha256(path)[:8], 16) & 0x7FFFFFFF:08x}".encode())


def crc32c(content: bytes | bytearray) -> int:
    """The Castagnoli CRC-32 (RFC 3720, appendix B.4), for a few kilobytes."""
    value = 0xFFFFFFFF
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


_VHD_EPOCH = 946684800  # 2000-01-01, in seconds since 1970
_VHDX_HEADERS = (64 << 10, 128 << 10)
_VHDX_REGIONS = 192 << 10
_VHDX_METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_VHDX_DISK_IDENTIFIER = uuid.UUID("beca12ab-b2e6-4523-93ef-c309e000c746").bytes_le


def _vhdx_disk_identifier(file: BinaryIO) -> int:
    """Where the identifier of the virtual disk ("page 83 data") lies."""
    regions = _read(file, _VHDX_REGIONS, 64 << 10)
    entry = regions.index(_VHDX_METADATA)
    (metadata,) = struct.unpack_from("<Q", regions, entry + 16)
    table = _read(file, metadata, 64 << 10)
    (offset,) = struct.unpack_from("<I", table, table.index(_VHDX_DISK_IDENTIFIER) + 16)
    return int(metadata + offset)


def _identifier(path: Path) -> bytes:
    return uuid.uuid5(_NAMESPACE, sha256(path)).bytes_le


def _read(file: BinaryIO, place: int, length: int) -> bytes:
    file.seek(place)
    return file.read(length)


def _write(file: BinaryIO, place: int, content: bytes | bytearray) -> None:
    file.seek(place)
    file.write(content)
    file.flush()
