"""What is in a Vagrant box: a tar of a disk, metadata, and settings that a machine starts from.

The formats: vagrant-libvirt's "Box format", and Vagrant's "Box file format" with VirtualBox's
box.ovf.
"""

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from appliance import data


def libvirt_box(disk: Path, size: int, folder: Path) -> tuple[Path, ...]:
    """The members of a box for vagrant-libvirt, made in the new `folder`.

    `disk` is a qcow2 of `size` bytes as the machine sees it.
    """
    folder.mkdir()
    about = {"provider": "libvirt", "format": "qcow2", "virtual_size": math.ceil(size / 2**30)}
    box_disk = folder / "box.img"
    os.link(disk, box_disk)
    return (_metadata(folder, about), _settings(folder, "libvirt"), box_disk)


def virtualbox_box(disk: Path, descriptor: bytes) -> tuple[Path, ...]:
    """The members of a box for VirtualBox, made beside `disk`, which the OVF descriptor names."""
    folder = disk.parent
    described = folder / "box.ovf"
    described.write_bytes(descriptor)
    metadata = _metadata(folder, {"provider": "virtualbox"})
    return (metadata, _settings(folder, "virtualbox"), described, disk)


def _metadata(folder: Path, content: Mapping[str, object]) -> Path:
    path = folder / "metadata.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def _settings(folder: Path, provider: str) -> Path:
    source = data.recipes() / "formats" / f"{provider}.Vagrantfile"
    return Path(shutil.copyfile(source, folder / "Vagrantfile"))
