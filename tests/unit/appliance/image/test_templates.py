"""What a cloud's registration step reads: parameters of CloudStack's API by their names."""

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.image import templates
from appliance.image.formats import Format

SETTINGS = {
    "KVM": "router.template.kvm",
    "XenServer": "router.template.xenserver",
    "VMware": "router.template.vmware",
    "Hyperv": "router.template.hyperv",
    "LXC": "router.template.lxc",
    "Ovm3": "router.template.ovm3",
}
# Those of registerTemplate that we use (CloudStack 4.20, RegisterTemplateCmd).
PARAMETERS = {
    *("arch", "bits", "checksum", "displaytext", "format", "hypervisor", "isextractable"),
    *("isfeatured", "ispublic", "isrouting", "name", "passwordenabled", "requireshvm", "url"),
    "zoneids",
}


@pytest.fixture
def files(tmp_path: Path) -> dict[Format, Path]:
    found = {form: tmp_path / f"sysvm.{form}" for form in (*Format,)}
    for path in found.values():
        path.write_bytes(path.name.encode())
    return found


def _entries(files: dict[Format, Path], url: str | None = None) -> dict[str, Any]:
    text = templates.render(files, name="sysvm", version="1.0", virtual_size=4096, url=url)
    return {entry["hypervisor"]: entry for entry in json.loads(text)["templates"]}


def test_every_hypervisor_has_a_template_and_the_setting_that_it_serves(
    files: dict[Format, Path],
) -> None:
    entries = _entries(files)
    assert {
        name: entry["cloudstack"]["setting"]["name"] for name, entry in entries.items()
    } == SETTINGS
    for entry in entries.values():
        parameters = entry["cloudstack"]["parameters"]
        # CloudStack finds a router's template by the name that its setting holds.
        assert entry["cloudstack"]["setting"]["value"] == parameters["name"]
        assert {name for name in parameters if not name.startswith("details[")} == PARAMETERS
        assert parameters["isrouting"] is True
    names = {entry["cloudstack"]["parameters"]["name"] for entry in entries.values()}
    assert len(names) == len(entries)


def test_without_a_url_the_files_names_stand_in_for_it(files: dict[Format, Path]) -> None:
    assert _entries(files)["KVM"]["url"] == "sysvm.qcow2"
    assert _entries(files, "https://example.org/x")["KVM"]["url"] == (
        "https://example.org/x/sysvm.qcow2"
    )


def test_only_what_was_made_is_offered(files: dict[Format, Path]) -> None:
    assert set(_entries({Format.OVA: files[Format.OVA]})) == {"VMware"}
    assert _entries({Format.VHDX: files[Format.VHDX]}) == {}


def test_vmware_is_told_the_controllers_of_the_ova(files: dict[Format, Path]) -> None:
    parameters = _entries(files)["VMware"]["cloudstack"]["parameters"]
    assert parameters["details[0].rootDiskController"] == "pvscsi"
    assert parameters["details[0].nicAdapter"] == "Vmxnet3"
