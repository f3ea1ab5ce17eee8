"""What lies in examples/ is what it says: documents that a system VM of the lab can become."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from agent.document.document import Document, merge, parse, parse_value
from agent.engine.compose import Composer
from agent.engine.model import Link
from agent.services.user_data import Section as UserData
from appliance import blobs
from appliance.lab.topologies import CONSOLE, ROUTER, GuestVm, SystemVm

EXAMPLES = Path(__file__).parents[3] / "examples"
ROUTER_FILE = EXAMPLES / "router.json"
PATCHES = sorted(EXAMPLES.glob("patch-*.json"))
DOCUMENTS = sorted(set(EXAMPLES.glob("*.json")) - set(PATCHES))
VMS = {  # of several with one role, the first: it is the one that the example is for
    spec.role: spec
    for topology in (CONSOLE, ROUTER)
    for spec in reversed(tuple(topology.nodes.values()))
    if isinstance(spec, SystemVm)
}
VM = VMS["router"]


def links(vm: SystemVm) -> tuple[Link, ...]:
    return tuple(Link(nic.name, nic.mac, 1500, up=False) for nic in vm.nics)


LINKS = links(VM)


def user_data(document: Document) -> UserData:
    section = document.sections["user_data"]
    assert isinstance(section, UserData)
    return section


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_is_one_and_has_the_labs_nics(path: Path) -> None:
    document = parse(path.read_bytes())
    vm = VMS[document.role]
    Composer().compose(document, links(vm), None)
    assert set(document.site.nics) <= {nic.mac for nic in vm.nics}
    (mac,) = (nic.mac for nic in vm.nics if nic.name == vm.control_nic)
    assert [str(address) for address in document.site.nics[mac].addresses] == [vm.control_address]


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.name)
def test_a_patch_makes_a_document_of_the_routers(path: Path) -> None:
    whole = json.loads(ROUTER_FILE.read_text())
    patch = json.loads(path.read_text())
    assert patch["generation"] > whole["generation"]
    patched = merge(whole, patch)
    assert patched != whole | {"generation": patch["generation"]}
    Composer().compose(parse_value(patched), LINKS, None)


def test_the_router_has_the_labs_nics_and_guests() -> None:
    document = parse(ROUTER_FILE.read_bytes())
    macs = {spec.nics[0].mac for spec in ROUTER.nodes.values() if isinstance(spec, GuestVm)}
    assert set(document.site.nics) == {nic.mac for nic in VM.nics}
    assert {guest.mac for guest in user_data(document).guests.values()} == macs


def test_the_routers_user_data_is_the_file_beside_it() -> None:
    (guest,) = (
        g for g in user_data(parse(ROUTER_FILE.read_bytes())).guests.values() if g.user_data
    )
    content = (EXAMPLES / "user-data.txt").read_bytes()
    assert guest.user_data == hashlib.sha256(content).hexdigest()
    assert blobs.beside(ROUTER_FILE) == (EXAMPLES / "user-data.txt",)


def test_files_beside_a_document_count_only_if_it_names_them(tmp_path: Path) -> None:
    document = tmp_path / "document.json"
    (tmp_path / "named").write_bytes(b"content")
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "folder").mkdir()
    value: Any = {"a": [{"b": hashlib.sha256(b"content").hexdigest()}], "c": "text"}
    document.write_text(json.dumps(value))
    assert blobs.beside(document) == (tmp_path / "named",)
    document.write_text("not JSON")
    assert blobs.beside(document) == ()
