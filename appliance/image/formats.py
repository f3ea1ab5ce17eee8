"""The image in the formats that hypervisors take: each made from the raw disk by qemu-img(1).

What is written depends on the raw disk, the name and the epoch alone, so that two conversions
of one image are equal bit for bit.
"""

import math
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import jinja2

from agent.system.run import CommandFailed, run
from appliance import data, tools
from appliance.errors import ApplianceError
from appliance.image import checksums, identifiers
from appliance.image.vagrant_box import libvirt_box, virtualbox_box

_TIMEOUT = 1800.0  # seconds; half a minute where the disk is not slow


class Format(StrEnum):
    """What `--format` takes."""

    QCOW2 = "qcow2"  # KVM, LXC; zstd clusters: QEMU 5.1 or later
    RAW = "raw"
    VHD = "vhd"  # XenServer, Hyper-V generation 1
    VHDX = "vhdx"  # Hyper-V
    VMDK = "vmdk"  # streamOptimized: the one that ESXi and VirtualBox import
    OVA = "ova"  # VMware
    BOX = "box"  # Vagrant: one for libvirt, one for VirtualBox


@dataclass(frozen=True, slots=True)
class Machine:
    """What an OVF descriptor says of the hardware, in its reader's own words."""

    family: str
    controller: str
    nic: str
    network: str
    drive: bool  # for a disc with the boot configuration


# ESXi 6.5 and later. VirtualSCSI is what VMware calls pvscsi.
VMWARE = Machine("vmx-13", "VirtualSCSI", "VmxNet3", "control", drive=True)
# VirtualBox attaches a NIC on a network named NAT to its NAT, as Vagrant needs. The Vagrantfile
# adds the drive: what VirtualBox would call an imported one differs between its versions.
VIRTUALBOX = Machine("virtualbox-2.2", "lsilogic", "E1000", "NAT", drive=False)


def write(raw: Path, wanted: Format, target: Path, *, epoch: int = 0) -> tuple[Path, ...]:
    """Write the raw disk `raw` as `target` in the wanted format, with checksums beside it.

    Returns the files of the format (a box is two: `target` is libvirt's, and VirtualBox's is
    beside it). Raises ApplianceError.
    """
    name = target.name.removesuffix(f".{wanted}")
    ((_, files),) = write_all(raw, (wanted,), target.parent, name, epoch=epoch)
    return files


def write_all(
    raw: Path, wanted: Iterable[Format], folder: Path, name: str, *, epoch: int = 0
) -> Iterator[tuple[Format, tuple[Path, ...]]]:
    """Write the raw disk as `folder`/`name`.FORMAT in each format; yields each when it is there.

    `epoch`, in seconds since 1970, is the time that the files carry. A disk that several formats
    contain is converted once. Each file gets a `.sha256` beside it. Raises ApplianceError.
    """
    tools.need("qemu-img")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder) as scratch:
        disks = _Disks(raw, Path(scratch), name, epoch)
        for form in dict.fromkeys(wanted):
            files = tuple(_place(file, folder) for file in _make(form, disks))
            for file in files:
                checksums.write(file)
            yield form, files


def capacity(disk: Path) -> int:
    """The size in bytes of the disk that a machine sees."""
    return math.ceil(disk.stat().st_size / 512) * 512


def ovf(name: str, disk: Path, size: int, machine: Machine) -> bytes:
    """An OVF 1.1 descriptor (DMTF DSP0243) of a machine with this disk of `size` bytes."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=True, keep_trailing_newline=True
    )
    source = (data.recipes() / "formats" / "machine.ovf").read_text()
    described = {"file": disk.name, "file_size": disk.stat().st_size, "capacity": size}
    return (
        environment.from_string(source).render(name=name, disk=described, machine=machine).encode()
    )


def pack(target: Path, members: Iterable[Path], epoch: int) -> None:
    """Write a tar (ustar: the one that every OVF reader takes) of these files, in this order."""
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.size = member.stat().st_size
            info.mtime = epoch
            info.mode = 0o644
            with member.open("rb") as content:
                archive.addfile(info, content)


class _Disks:
    """The disk in the formats that others contain, each converted when it is first asked for."""

    def __init__(self, raw: Path, scratch: Path, name: str, epoch: int) -> None:
        self.raw = raw
        self.scratch = scratch
        self.name = name
        self.epoch = epoch

    def qcow2(self) -> Path:
        return self._converted("qcow2", "qcow2", ("-c", "-o", "compression_type=zstd"))

    def vhd(self) -> Path:
        # force_size: the size of the disk, not of the nearest whole number of cylinders.
        made = self._converted("vhd", "vpc", ("-o", "subformat=dynamic,force_size=on"))
        identifiers.set_vhd(made, self.epoch)
        return made

    def vhdx(self) -> Path:
        made = self._converted("vhdx", "vhdx", ("-o", "subformat=dynamic"))
        identifiers.set_vhdx(made)
        return made

    def vmdk(self) -> Path:
        made = self.scratch / f"{self.name}.vmdk"
        if not made.exists():
            options = "subformat=streamOptimized,adapter_type=lsilogic"
            self._converted("vmdk", "vmdk", ("-o", options))
            identifiers.set_vmdk(made)
        return made

    def _converted(self, suffix: str, driver: str, options: tuple[str, ...]) -> Path:
        target = self.scratch / f"{self.name}.{suffix}"
        if not target.exists():
            argv = ("qemu-img", "convert", "-f", "raw", "-O", driver, *options)
            try:
                run([*argv, str(self.raw), str(target)], timeout=_TIMEOUT)
            except CommandFailed as error:
                raise ApplianceError(
                    f"qemu-img could not write {suffix}: {error}",
                    "qcow2 with zstd needs QEMU 5.1 or later; look for room on the disk",
                ) from error
        return target


def _make(form: Format, disks: _Disks) -> tuple[Path, ...]:
    match form:
        case Format.RAW:
            return (_copied(disks.raw, disks.scratch / f"{disks.name}.raw"),)
        case Format.QCOW2:
            return (disks.qcow2(),)
        case Format.VHD:
            return (disks.vhd(),)
        case Format.VHDX:
            return (disks.vhdx(),)
        case Format.VMDK:
            return (disks.vmdk(),)
        case Format.OVA:
            return (_ova(disks),)
        case Format.BOX:
            return _boxes(disks)


def _ova(disks: _Disks) -> Path:
    disk = disks.vmdk()
    descriptor = disks.scratch / f"{disks.name}.ovf"
    descriptor.write_bytes(ovf(disks.name, disk, capacity(disks.raw), VMWARE))
    manifest = disks.scratch / f"{disks.name}.mf"
    lines = (f"SHA256({file.name})= {checksums.sha256(file)}\n" for file in (descriptor, disk))
    manifest.write_text("".join(lines))
    target = disks.scratch / f"{disks.name}.ova"
    # The order is the standard's: descriptor, manifest, disks.
    pack(target, (descriptor, manifest, disk), disks.epoch)
    return target


def _boxes(disks: _Disks) -> tuple[Path, ...]:
    size = capacity(disks.raw)
    libvirt = libvirt_box(disks.qcow2(), size, disks.scratch / "libvirt")
    disk = disks.scratch / "virtualbox" / f"{disks.name}.vmdk"
    disk.parent.mkdir()
    _link(disks.vmdk(), disk)
    virtualbox = virtualbox_box(disk, ovf(disks.name, disk, size, VIRTUALBOX))
    targets = (
        disks.scratch / f"{disks.name}.box",
        disks.scratch / f"{disks.name}.virtualbox.box",
    )
    for target, members in zip(targets, (libvirt, virtualbox), strict=True):
        pack(target, members, disks.epoch)
    return targets


def _place(made: Path, folder: Path) -> Path:
    """Put a complete file under its final name; the scratch's may still be needed."""
    target = folder / made.name
    target.unlink(missing_ok=True)
    _link(made, target)
    return target


def _link(source: Path, target: Path) -> None:
    os.link(source, target)


def _copied(source: Path, target: Path) -> Path:
    """A copy with the same holes."""
    run(["cp", "--sparse=always", str(source), str(target)], timeout=_TIMEOUT)
    shutil.copymode(source, target)
    return target
