"""The Vagrantfile is valid, tells the machine the truth, and Vagrant takes our boxes."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.document import boot
from agent.document.document import parse
from agent.document.site import NicRole
from agent.system.boot_channels import LABEL, ON_DRIVE
from agent.system.run import CommandFailed, run
from appliance.image import formats
from appliance.image.formats import Format

# No mark: none of it needs root, and not every Debian has Vagrant (a skip is no failure).
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Vagrantfile needs of a checkout, so that nothing is left in this one; validated."""
    if shutil.which("vagrant") is None:
        pytest.skip("vagrant is not on this machine (Debian 12 has it)")
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copy(ROOT / "Vagrantfile", folder)
    shutil.copytree(ROOT / "examples", folder / "examples")
    assert "validated successfully" in _vagrant(folder, "validate", "--ignore-provider")
    return folder


def _vagrant(checkout: Path, *arguments: str, **environment: str) -> str:
    home = {"HOME": str(checkout), "VAGRANT_HOME": str(checkout / "home"), **environment}
    done = run(
        ["vagrant", *arguments, "--no-color"],
        timeout=300,
        env={"VAGRANT_CHECKPOINT_DISABLE": "1", **home},
        cwd=checkout,
    )
    return done.text


def _written(checkout: Path, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((checkout / ".vagrant/sysvm" / name).read_text())
    return found


def test_ruby_reads_the_vagrantfile(tmp_path: Path) -> None:
    if shutil.which("ruby") is None:
        pytest.skip("ruby is not on this machine")
    for path in (ROOT / "Vagrantfile", *(ROOT / "image-recipes/formats").glob("*.Vagrantfile")):
        run(["ruby", "-c", str(path)], timeout=60)


def test_the_boot_configuration_is_one_and_lets_the_throw_away_key_in(checkout: Path) -> None:
    work = checkout / ".vagrant/sysvm"
    config = boot.parse((work / "drive" / ON_DRIVE).read_bytes())
    (nic,) = config.control_nics().values()
    assert [str(address) for address in nic.addresses] == ["10.0.2.15/24"]
    assert config.authorized_keys == ((work / "key.pub").read_text().strip(),)
    assert (work / "key").stat().st_mode & 0o077 == 0
    assert f'volume_id: "{LABEL}"' in (checkout / "Vagrantfile").read_text()


def test_the_document_is_the_example_by_the_control_address_of_vagrant(checkout: Path) -> None:
    written = (checkout / ".vagrant/sysvm/document.json").read_bytes()
    document = parse(written)
    example = parse((ROOT / "examples/router.json").read_bytes())
    assert document.role == example.role
    control = {
        str(address)
        for nic in document.site.nics.values()
        if nic.role is NicRole.CONTROL
        for address in nic.addresses
    }
    assert control == {"10.0.2.15/24"}
    before = json.loads((ROOT / "examples/router.json").read_text())
    after = json.loads(written)
    assert {key for key in before if before[key] != after[key]} == {"site"}


def test_a_vagrantfile_that_is_wrong_is_not_valid(checkout: Path, tmp_path: Path) -> None:
    shutil.copytree(checkout / "examples", tmp_path / "examples")
    text = (checkout / "Vagrantfile").read_text()
    (tmp_path / "Vagrantfile").write_text(text.replace("private_key_path", "private_kee_path"))
    with pytest.raises(CommandFailed):
        _vagrant(tmp_path, "validate", "--ignore-provider")


def test_the_key_is_made_once(checkout: Path) -> None:
    before = (checkout / ".vagrant/sysvm/key").read_bytes()
    _vagrant(checkout, "validate", "--ignore-provider")
    assert (checkout / ".vagrant/sysvm/key").read_bytes() == before


def test_vagrant_takes_our_boxes(checkout: Path) -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not on this machine (package qemu-utils)")
    raw = checkout / "disk"
    raw.write_bytes(b"sysvm" * 100_000)
    boxes = formats.write(raw, Format.BOX, checkout / "build/sysvm.box")
    for box, provider in zip(boxes, ("libvirt", "virtualbox"), strict=True):
        _vagrant(checkout, "box", "add", "--name", "sysvm", "--provider", provider, str(box))
    listed = _vagrant(checkout, "box", "list")
    assert "sysvm (libvirt, 0)" in listed
    assert "sysvm (virtualbox, 0)" in listed
    kept = next((checkout / "home/boxes/sysvm/0").glob("**/libvirt/box.img"))
    run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(raw), str(kept)], timeout=60)


def test_the_drive_has_the_label_that_the_machine_looks_for(checkout: Path) -> None:
    if shutil.which("mkisofs") is None:
        pytest.skip("mkisofs is not on this machine (package genisoimage)")
    drive, folder = checkout / "boot.iso", checkout / ".vagrant/sysvm/drive"
    # As Vagrant's host capability create_iso calls it.
    mkisofs = ("mkisofs", "-quiet", "-joliet", "-volid", LABEL)
    run([*mkisofs, "-o", str(drive), str(folder)], timeout=60)
    assert run(["blkid", "-p", "-o", "value", "-s", "LABEL", str(drive)], timeout=60).text == (
        f"{LABEL}\n"
    )
    shown = run(["isoinfo", "-J", "-f", "-i", str(drive)], timeout=60).text
    assert f"/{ON_DRIVE}" in shown.splitlines()
