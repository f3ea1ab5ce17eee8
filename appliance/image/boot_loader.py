"""GRUB on a raw disk, for BIOS and UEFI, without grub-install, mounts or anything of it in the VM.

Both are made by grub-mkimage with all that they need inside, and read their menu from the EFI
system partition. A slot on trial is booted a few times, counted in GRUB's environment block; if
it has not said by then that it is good (`sysvm-boot-good.service`), the other slot is booted.

Layouts: GRUB 2.12's boot.S and diskboot.S (grub-core/boot/i386/pc).
"""

import struct
import tempfile
from pathlib import Path

from agent.system.run import run
from appliance import data, tools
from appliance.errors import ApplianceError
from appliance.image import block_device

_TIMEOUT = 60.0
_SECTOR = block_device.SECTOR
_PREFIX = "(,gpt2)/sysvm"  # on the disk that the firmware booted from
_COMMON = (
    *("part_gpt", "fat", "ext2", "normal", "linux", "loadenv", "test", "regexp", "echo", "sleep"),
    *(
        "serial",
        "terminal",
        "configfile",
        "reboot",
        "halt",
        "search",
        "ls",
        "cat",
        "minicmd",
        "keystatus",
    ),
)
_BIOS = (*_COMMON, "biosdisk")
_UEFI = (*_COMMON, "efi_gop", "efi_uga", "video", "all_video", "gfxterm")
_ENVIRONMENT = 1024  # bytes, fixed: GRUB writes it in place
_LOAD_SEGMENT = 0x820  # where diskboot loads the rest of the core


def install(image: Path, tools_root: Path, command_line: str, epoch: int) -> None:
    """Make this raw disk boot. Its partitions `bios` and `esp` are overwritten.

    `tools_root` is a root file system with GRUB's tools; `command_line` is appended to the
    kernel's. Raises ApplianceError, CommandFailed.
    """
    tools.need("sfdisk", "mcopy", "mkfs.vfat")
    partitions = block_device.table(image)
    core = _mkimage(tools_root, "i386-pc", _BIOS)
    boot = (tools_root / "usr/lib/grub/i386-pc/boot.img").read_bytes()
    place = partitions["bios"]
    with image.open("r+b") as disk:
        first = disk.read(_SECTOR)
        disk.seek(place.start)
        disk.write(placed_core(core, place.start // _SECTOR, place.size))
        disk.seek(0)
        disk.write(boot_sector(boot, first, place.start // _SECTOR))
    _fill_esp(
        image, partitions["esp"], _mkimage(tools_root, "x86_64-efi", _UEFI), command_line, epoch
    )


def boot_sector(boot: bytes, first: bytes, core: int) -> bytes:
    """The disk's first sector: GRUB's code, where its core is, the partition table's bytes."""
    code = bytearray(boot[:440])
    struct.pack_into("<Q", code, 0x5C, core)
    code[0x66:0x68] = b"\x90\x90"  # do not take the drive's number for broken
    return bytes(code) + first[440:_SECTOR]


def placed_core(core: bytes, sector: int, room: int) -> bytes:
    """GRUB's core with the list of blocks that tells its first sector where the rest lies."""
    if len(core) > room:
        raise ApplianceError(f"GRUB's core has {len(core)} bytes, and {room} are free for it")
    padded = bytearray(core + bytes(-len(core) % _SECTOR))
    struct.pack_into("<QHH", padded, 0x1F4, sector + 1, len(padded) // _SECTOR - 1, _LOAD_SEGMENT)
    return bytes(padded)


def environment(**values: str) -> bytes:
    """An environment block (grub-editenv(1)) with these values."""
    text = "# GRUB Environment Block\n" + "".join(f"{k}={v}\n" for k, v in values.items())
    return text.encode().ljust(_ENVIRONMENT, b"#")


def _mkimage(root: Path, target: str, modules: tuple[str, ...]) -> bytes:
    argv = ["chroot", str(root), "grub-mkimage", f"--format={target}", f"--prefix={_PREFIX}"]
    return run([*argv, *modules], timeout=_TIMEOUT).stdout


def _fill_esp(
    image: Path, esp: block_device.Partition, uefi: bytes, command_line: str, epoch: int
) -> None:
    menu = data.recipes() / "elements/sysvm-boot/grub.cfg"
    at = f"{image}@@{esp.start}"
    # mtools and mkfs.vfat take the time for what they write from here.
    env = {"SOURCE_DATE_EPOCH": str(epoch), "MTOOLS_SKIP_CHECK": "1", "TZ": "UTC"}
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        blank = tree / "blank"
        with blank.open("wb") as file:
            file.truncate(esp.size)
        identity = ("-i", "53595356", "-n", "SYSVM-ESP")
        argv = ["mkfs.vfat", "-F", "32", "-s", "1", "--invariant", *identity, str(blank)]
        run(argv, timeout=_TIMEOUT, env=env)
        _overwrite(image, esp.start, blank)
        (tree / "BOOTX64.EFI").write_bytes(uefi)
        (tree / "grub.cfg").write_bytes(menu.read_bytes())
        (tree / "grubenv").write_bytes(environment(slot="a", append=command_line))
        run(["mmd", "-i", at, "::EFI", "::EFI/BOOT", "::sysvm"], timeout=_TIMEOUT, env=env)
        for name, folder in (
            ("BOOTX64.EFI", "EFI/BOOT"),
            ("grub.cfg", "sysvm"),
            ("grubenv", "sysvm"),
        ):
            argv = ["mcopy", "-i", at, str(tree / name), f"::{folder}/{name}"]
            run(argv, timeout=_TIMEOUT, env=env)


def _overwrite(image: Path, start: int, source: Path) -> None:
    with image.open("r+b") as disk, source.open("rb") as file:
        disk.seek(start)
        while piece := file.read(1 << 20):
            # Holes stay holes.
            if piece.count(0) == len(piece):
                disk.seek(len(piece), 1)
            else:
                disk.write(piece)
