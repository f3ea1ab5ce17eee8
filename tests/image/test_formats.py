"""Each format holds the very disk, twice the same, and what its reader looks for."""

import json
import random
import tarfile
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from agent.system.run import run
from appliance import tools
from appliance.errors import ApplianceError
from appliance.image import checksums, formats
from appliance.image.formats import Format

pytestmark = pytest.mark.image

SIZE = (37 << 20) + 512  # not a whole number of cylinders, megabytes or clusters
GRAIN = 64 << 10  # a VMDK is a whole number of them
EPOCH = 1_700_000_000
CHECKED = {Format.QCOW2: "qcow2", Format.VHDX: "vhdx", Format.VMDK: "vmdk"}
DRIVERS = {**CHECKED, Format.RAW: "raw", Format.VHD: "vpc"}
OVF = {
    "ovf": "http://schemas.dmtf.org/ovf/envelope/1",
    "rasd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData",
    "vssd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData",
}

Made = Mapping[Format, tuple[Path, ...]]


@pytest.fixture(scope="module", autouse=True)
def _able() -> None:
    try:
        tools.need("qemu-img")
    except ApplianceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "disk"
    dice = random.Random(7)  # noqa: S311  # the same bytes each time
    with path.open("wb") as file:
        for _ in range(30):
            file.seek(dice.randrange(SIZE - 70_000))
            file.write(dice.randbytes(70_000))
        file.truncate(SIZE)
    return path


@pytest.fixture(scope="module")
def made(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("formats")
    return dict(formats.write_all(raw, Format, folder, "sysvm-1", epoch=EPOCH))


@pytest.mark.parametrize("form", DRIVERS)
def test_the_disk_is_the_raw_one(raw: Path, made: Made, form: Format) -> None:
    (file,) = made[form]
    assert file.name == f"sysvm-1.{form}"
    _compare(raw, file, DRIVERS[form])
    info = run(
        ["qemu-img", "info", "--output=json", "-f", DRIVERS[form], str(file)], timeout=60
    ).stdout
    size = json.loads(info)["virtual-size"]
    assert size - SIZE == 0 or (form is Format.VMDK and 0 < size - SIZE < GRAIN)


@pytest.mark.parametrize("form", CHECKED)
def test_qemu_finds_nothing_to_repair(made: Made, form: Format) -> None:
    run(["qemu-img", "check", "-f", CHECKED[form], str(made[form][0])], timeout=60)


def test_the_qcow2_is_compressed_with_zstd(made: Made) -> None:
    argv = ("qemu-img", "info", "--output=json", str(made[Format.QCOW2][0]))
    about = json.loads(run(argv, timeout=60).stdout)
    assert about["format-specific"]["data"]["compression-type"] == "zstd"


def test_a_second_conversion_is_equal_bit_for_bit(raw: Path, made: Made, tmp_path: Path) -> None:
    again = dict(formats.write_all(raw, Format, tmp_path, "sysvm-1", epoch=EPOCH))
    for form, files in again.items():
        assert [checksums.sha256(file) for file in files] == [
            checksums.sha256(file) for file in made[form]
        ], form


@pytest.mark.parametrize("form", [Format.VHD, Format.VHDX, Format.VMDK])
def test_another_disk_has_other_identifiers(
    raw: Path, made: Made, tmp_path: Path, form: Format
) -> None:
    changed = tmp_path / "changed"
    changed.write_bytes(raw.read_bytes()[:-512] + b"\1" * 512)
    (file,) = formats.write(changed, form, tmp_path / f"sysvm-1.{form}", epoch=EPOCH)
    place, length = {
        Format.VHD: (68, 16),
        Format.VHDX: ((64 << 10) + 16, 16),
        Format.VMDK: (512, 1024),
    }[form]
    assert _cut(file, place, length) != _cut(made[form][0], place, length)


def test_checksums_are_what_sha256sum_checks(made: Made) -> None:
    for file in (file for files in made.values() for file in files):
        beside = file.with_name(f"{file.name}.sha256")
        run(["sha256sum", "--check", "--strict", beside.name], timeout=60, cwd=file.parent)
    file.write_bytes(file.read_bytes() + b"\0")
    checked = run(["sha256sum", "-c", beside.name], timeout=60, cwd=file.parent, check=False)
    assert checked.returncode == 1
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 1)


def test_nothing_else_is_left(made: Made) -> None:
    folder = made[Format.RAW][0].parent
    files = {file for files in made.values() for file in files}
    assert set(folder.iterdir()) == files | {
        file.with_name(f"{file.name}.sha256") for file in files
    }


# -- OVA ---------------------------------------------------------------------------------------


def test_an_ova_begins_with_its_descriptor_and_carries_true_digests(
    made: Made, tmp_path: Path
) -> None:
    members = _unpack(made[Format.OVA][0], tmp_path)
    assert members == ["sysvm-1.ovf", "sysvm-1.mf", "sysvm-1.vmdk"]
    manifest = (tmp_path / "sysvm-1.mf").read_text().splitlines()
    assert manifest == [
        f"SHA256({name})= {checksums.sha256(tmp_path / name)}"
        for name in ("sysvm-1.ovf", "sysvm-1.vmdk")
    ]


def test_an_ovf_describes_the_disk_that_is_there(raw: Path, made: Made, tmp_path: Path) -> None:
    _unpack(made[Format.OVA][0], tmp_path)
    envelope = ET.parse(tmp_path / "sysvm-1.ovf").getroot()  # noqa: S314
    file = _found(envelope, "ovf:References/ovf:File")
    disk = _found(envelope, "ovf:DiskSection/ovf:Disk")
    assert (tmp_path / _of(file, "href")).stat().st_size == int(_of(file, "size"))
    assert _of(disk, "fileRef") == _of(file, "id")
    assert int(_of(disk, "capacity")) == raw.stat().st_size
    assert _of(disk, "format").endswith("vmdk.html#streamOptimized")
    _compare(raw, tmp_path / _of(file, "href"), "vmdk")


def test_an_ova_is_for_vmware_and_a_box_for_virtualbox(made: Made, tmp_path: Path) -> None:
    seen = {}
    for name, package in (("ova", made[Format.OVA][0]), ("box", made[Format.BOX][1])):
        folder = tmp_path / name
        folder.mkdir()
        (descriptor,) = (name for name in _unpack(package, folder) if name.endswith(".ovf"))
        seen[name] = ET.parse(folder / descriptor).getroot()  # noqa: S314
    hardware = {name: _hardware(root) for name, root in seen.items()}
    assert hardware["ova"] == ("vmx-13", "VirtualSCSI", "VmxNet3")
    assert hardware["box"] == ("virtualbox-2.2", "lsilogic", "E1000")


def test_every_item_of_an_ovf_hangs_on_another_that_is_there(made: Made, tmp_path: Path) -> None:
    _unpack(made[Format.OVA][0], tmp_path)
    envelope = ET.parse(tmp_path / "sysvm-1.ovf").getroot()  # noqa: S314
    items = envelope.findall(".//ovf:Item", OVF)
    numbers = [_text(item, "InstanceID") for item in items]
    assert len(set(numbers)) == len(numbers) == 7
    assert {_text(item, "Parent") for item in items} - {None} <= set(numbers)
    networks = {_of(net, "name") for net in envelope.findall(".//ovf:Network", OVF)}
    assert {_text(item, "Connection") for item in items} - {None} == networks
    disks = {f"ovf:/disk/{_of(disk, 'diskId')}" for disk in envelope.findall(".//ovf:Disk", OVF)}
    assert {_text(item, "HostResource") for item in items} - {None} == disks
    # The schema wants the children of an item in the order of their names.
    for item in items:
        names = [child.tag for child in item]
        assert names == sorted(names)


# -- boxes -------------------------------------------------------------------------------------


def test_libvirts_box_is_what_vagrant_libvirt_takes(raw: Path, made: Made, tmp_path: Path) -> None:
    members = _unpack(made[Format.BOX][0], tmp_path)
    assert members == ["metadata.json", "Vagrantfile", "box.img"]
    about = json.loads((tmp_path / "metadata.json").read_text())
    assert about == {"provider": "libvirt", "format": "qcow2", "virtual_size": 1}
    _compare(raw, tmp_path / "box.img", "qcow2")


def test_virtualboxs_box_is_what_vagrant_takes(raw: Path, made: Made, tmp_path: Path) -> None:
    assert made[Format.BOX][1].name == "sysvm-1.virtualbox.box"
    members = _unpack(made[Format.BOX][1], tmp_path)
    assert members == ["metadata.json", "Vagrantfile", "box.ovf", "sysvm-1.vmdk"]
    assert json.loads((tmp_path / "metadata.json").read_text()) == {"provider": "virtualbox"}
    root = ET.parse(tmp_path / "box.ovf").getroot()  # noqa: S314
    assert _of(_found(root, "ovf:References/ovf:File"), "href") == "sysvm-1.vmdk"
    # The interface name NAT is what VirtualBox attaches to its NAT.
    assert _of(_found(root, "ovf:NetworkSection/ovf:Network"), "name") == "NAT"


def test_what_is_packed_is_nobodys_and_of_the_epoch(made: Made) -> None:
    for package in (made[Format.OVA][0], *made[Format.BOX]):
        with tarfile.open(package) as archive:
            for member in archive:
                assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
                assert (member.mtime, member.mode) == (EPOCH, 0o644)


# -- refusals ----------------------------------------------------------------------------------


def test_a_disk_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ApplianceError, match="qemu-img could not write qcow2"):
        formats.write(tmp_path / "none", Format.QCOW2, tmp_path / "out" / "x.qcow2")
    assert list((tmp_path / "out").iterdir()) == []


def _compare(raw: Path, file: Path, driver: str) -> None:
    run(["qemu-img", "compare", "-f", "raw", "-F", driver, str(raw), str(file)], timeout=60)


def _cut(path: Path, place: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(place)
        return file.read(length)


def _unpack(package: Path, folder: Path) -> list[str]:
    with tarfile.open(package) as archive:
        archive.extractall(folder, filter="data")
        return archive.getnames()


def _found(element: ET.Element, path: str) -> ET.Element:
    found = element.find(path, OVF)
    assert found is not None, path
    return found


def _of(element: ET.Element, name: str) -> str:
    return element.attrib[f"{{{OVF['ovf']}}}{name}"]


def _text(item: ET.Element, name: str) -> str | None:
    return item.findtext(f"rasd:{name}", namespaces=OVF)


def _hardware(root: ET.Element) -> tuple[str | None, str | None, str | None]:
    def of(kind: str) -> str | None:
        items = root.findall(".//ovf:Item", OVF)
        (item,) = (item for item in items if _text(item, "ResourceType") == kind)
        return _text(item, "ResourceSubType")

    return root.findtext(".//vssd:VirtualSystemType", namespaces=OVF), of("6"), of("10")
