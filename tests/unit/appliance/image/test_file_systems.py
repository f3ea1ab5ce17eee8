from appliance.image import file_systems
from appliance.image.file_systems import Inode


def test_layout_has_what_diskimage_builder_is_told_to_make() -> None:
    root, state = file_systems.layout()
    assert (root.partition, root.label) == ("root-a", "sysvm-a")
    assert (state.partition, state.label) == ("state", "sysvm-state")
    assert "-d" not in root.options
    assert any(option.startswith("hash_seed=") for option in root.options)
    assert root.uuid != state.uuid


def test_no_inode_tells_the_moment_of_the_build() -> None:
    assert file_systems.requests([Inode(12, 1_700_000_000)], 1_750_000_000) == (
        "sif <12> atime @1750000000\nsif <12> ctime @1750000000\n"
    )


def test_a_file_that_the_build_wrote_is_of_the_builds_time() -> None:
    asked = file_systems.requests([Inode(13, 1_750_000_001), Inode(2, 0)], 1_750_000_000)
    assert asked.splitlines() == [
        "sif <2> atime @1750000000",
        "sif <2> ctime @1750000000",
        "sif <13> atime @1750000000",
        "sif <13> ctime @1750000000",
        "sif <13> mtime @1750000000",
    ]
