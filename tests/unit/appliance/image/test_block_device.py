"""The block-device plug-in: a table in a file, and one loop device per partition."""

from pathlib import Path

import pytest
from diskimage_builder.block_device.config import config_tree_to_graph
from diskimage_builder.block_device.exception import BlockDeviceSetupException

from agent.system.run import run
from appliance import data
from appliance.image import block_device
from appliance.image.block_device import MIB, LoopPartitioning, Wanted


def _config() -> dict[str, object]:
    import yaml

    path = data.recipes() / "elements/sysvm-boot/block-device-default.yaml"
    graph = config_tree_to_graph(yaml.safe_load(path.read_text()))
    (found,) = (entry["sysvm_partitioning"] for entry in graph if "sysvm_partitioning" in entry)
    return dict(found)


def test_dib_finds_the_plug_in_by_its_name() -> None:
    assert [entry["name"] for entry in _config()["partitions"]][2] == "root-a"  # type: ignore[attr-defined]  # DIB's own structure


def test_the_table_that_is_made_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(16 * MIB)
    kind, uuid = "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "53595356-4D00-4000-8000-000000000001"
    wanted = [Wanted("one", kind, uuid, 2 * MIB), Wanted("two", kind, None, 5 * MIB)]
    run(
        ["sfdisk", "--quiet", str(disk)],
        timeout=20,
        stdin=block_device.script(uuid, wanted).encode(),
    )
    assert block_device.table(disk) == {
        "one": block_device.Partition("one", MIB, 2 * MIB),
        "two": block_device.Partition("two", 3 * MIB, 5 * MIB),
    }
    said = run(["sfdisk", "--json", str(disk)], timeout=20).text
    assert uuid in said


def test_a_percentage_is_of_what_is_left() -> None:
    sizes = block_device.sizes(["1MiB", "50%", "100%"], 12 * MIB)
    assert sizes == (MIB, 4 * MIB, 5 * MIB)


@pytest.mark.parametrize("specs", [["20MiB"], ["10MiB", "1MiB"], ["0"]])
def test_what_does_not_fit_is_refused(specs: list[str]) -> None:
    with pytest.raises(BlockDeviceSetupException):
        block_device.sizes(specs, 12 * MIB)


def test_our_own_disk_fits_and_both_slots_are_equal() -> None:
    config = _config()
    state = {"blockdev": {"image0": {"image": "/nowhere"}}}
    plug_in = LoopPartitioning(config, {}, state)
    specs = [node.get_size() for node in plug_in.get_nodes()]
    sizes = dict(zip([n.get_name() for n in plug_in.get_nodes()], specs, strict=True))
    assert sizes["root-a"] == sizes["root-b"]
    # The last one takes what is left, and can grow.
    assert list(sizes)[-1] == "state"
    assert block_device.sizes(specs, 2304 * MIB)[-1] >= 512 * MIB


def test_only_gpt_is_made() -> None:
    with pytest.raises(BlockDeviceSetupException, match="GPT"):
        LoopPartitioning({**_config(), "label": "mbr", "partitions": []}, {}, {})
