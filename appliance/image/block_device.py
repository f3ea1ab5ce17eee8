"""A block-device plug-in for DIB that needs neither device mapper nor partition scanning.

DIB's own `partitioning` makes the table and has kpartx map its partitions, which the kernel of a
CI container or a small VM often cannot. `sysvm_partitioning` takes the same configuration (GPT
only; besides, `uuid` of the disk and of each partition), writes the table into the raw file by
sfdisk(8), and attaches one loop device per partition.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diskimage_builder.block_device.exception import BlockDeviceSetupException
from diskimage_builder.block_device.level0.localloop import loopdev_detach
from diskimage_builder.block_device.level1.partitioning import Partitioning
from diskimage_builder.block_device.utils import parse_rel_size_spec

from agent.system.run import CommandFailed, run

MIB = 1024 * 1024
SECTOR = 512  # bytes
_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of a disk: where it lies, in bytes."""

    name: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """A partition to be made. `size` is in bytes."""

    name: str
    kind: str
    uuid: str | None
    size: int


def script(disk_uuid: str | None, partitions: Sequence[Wanted]) -> str:
    """What sfdisk(8) is told to make this table. Partitions begin at whole mebibytes."""
    lines = ["label: gpt", "unit: sectors", *([f"label-id: {disk_uuid}"] if disk_uuid else [])]
    start = MIB // SECTOR
    for partition in partitions:
        sectors = partition.size // SECTOR
        words = [f"start={start}", f"size={sectors}", f"type={partition.kind}"]
        words += [f"uuid={partition.uuid}"] if partition.uuid else []
        lines.append(", ".join([*words, f'name="{partition.name}"']))
        start += sectors
    return "\n".join(lines) + "\n"


def sizes(wanted: Sequence[str], disk: int) -> tuple[int, ...]:
    """Partitions' sizes in bytes, each a whole number of mebibytes.

    A size in percent is of what is left. The first and the last mebibyte are the table's.
    """
    left = disk - 2 * MIB
    found = []
    for spec in wanted:
        size = parse_rel_size_spec(spec, left)[1] // MIB * MIB
        if not 0 < size <= left:
            raise BlockDeviceSetupException(
                f"a partition of {spec} does not fit: {left} B are left"
            )
        found.append(size)
        left -= size
    return tuple(found)


def table(image: Path) -> Mapping[str, Partition]:
    """The partitions of this raw disk, by name. Raises CommandFailed."""
    said = run(["sfdisk", "--json", str(image)], timeout=_TIMEOUT).stdout
    found = json.loads(said)["partitiontable"]["partitions"]
    return {
        entry["name"]: Partition(entry["name"], entry["start"] * SECTOR, entry["size"] * SECTOR)
        for entry in found
    }


class LoopPartitioning(Partitioning):  # type: ignore[misc]  # DIB has no types
    """DIB's partitioning, with loop devices for what it has kpartx(8) do."""

    def __init__(self, config: dict[str, Any], default_config: Any, state: Any) -> None:
        super().__init__(config, default_config, state)
        if self.label != "gpt":
            raise BlockDeviceSetupException("sysvm_partitioning makes GPT tables only")
        self.uuid = config.get("uuid")
        self.uuids = [entry.get("uuid") for entry in config["partitions"]]
        self.loops: list[str] = []

    def create(self) -> None:
        """Make the table and the loop devices; called once for each partition, done once."""
        self.number_of_partitions += 1
        if self.number_of_partitions > 1:
            return
        image = Path(self.state["blockdev"][self.base]["image"])
        nodes = self.partitions
        room = sizes([node.get_size() for node in nodes], image.stat().st_size)
        wanted = [
            Wanted(node.get_name(), node.get_type(), uuid, size)
            for node, uuid, size in zip(nodes, self.uuids, room, strict=True)
        ]
        argv = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--wipe=always"]
        text = script(self.uuid, wanted).encode()
        try:
            run([*argv, str(image)], timeout=_TIMEOUT, stdin=text)
            made = table(image)
            for node in nodes:
                device = self._attach(image, made[node.get_name()])
                node.add_rollback(loopdev_detach, device)
                self.loops.append(device)
                self.state["blockdev"][node.get_name()] = {"device": device}
        except CommandFailed as error:
            raise BlockDeviceSetupException(str(error)) from error

    def umount(self) -> None:
        """Detach the loop devices; called once for each partition, done at the last."""
        self.number_of_partitions -= 1
        if self.number_of_partitions == 0:
            for device in reversed(self.loops):
                loopdev_detach(device)

    def _attach(self, image: Path, partition: Partition) -> str:
        place = (f"--offset={partition.start}", f"--sizelimit={partition.size}")
        argv = [*as_root(), "losetup", "--find", "--show", *place, str(image)]
        return run(argv, timeout=_TIMEOUT).text.strip()


def as_root() -> tuple[str, ...]:
    """What goes before a command that only root may run, as DIB does it."""
    return () if os.geteuid() == 0 else ("sudo",)


def left_behind(folder: Path) -> tuple[str, ...]:
    """Loop devices whose files are, or were, below this folder. Raises CommandFailed."""
    said = run(["losetup", "--json", "--list", "--output=NAME,BACK-FILE"], timeout=_TIMEOUT).text
    devices = json.loads(said)["loopdevices"] if said.strip() else []
    below = f"{folder}/"
    return tuple(entry["name"] for entry in devices if (entry["back-file"] or "").startswith(below))


def detach_left_behind(folder: Path) -> None:
    """Detach loop devices that a build which was killed has left. Raises CommandFailed."""
    for device in left_behind(folder):
        run(["losetup", "--detach", device], timeout=_TIMEOUT)
