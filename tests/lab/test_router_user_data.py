"""Guests fetch their own user data, and nobody else's, whatever they say or pretend (case 56)."""

import hashlib
import os

import pytest

from appliance.lab import Lab
from appliance.lab.http import Response, exchange
from appliance.lab.node import Guest, Node
from appliance.lab.wait import wait_until
from tests.lab.helpers import VM1, VM1_MAC, VM2, VM2_MAC, Document, Router, settle, with_mac

BINARY = os.urandom(48 * 1024) + b"\0\r\n\xff"
SERVER = "10.1.1.1"


def named(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    """The example; vm2 has user data as well."""
    router = Router(lab)
    lab.manager.upload(BINARY)
    router.change(guest(VM2, user_data=named(BINARY)))
    settle(lab.guests["vm1"], VM1)
    settle(lab.guests["vm2"], VM2)
    return router


def guest(address: str, **fields: object) -> Document:
    return {"user_data": {"guests": {address: fields}}}


def fetch(node: Node, path: str, **headers: str) -> Response:
    return node.get(f"http://{SERVER}{path}", timeout=3, headers=headers)


def test_each_guest_gets_its_own(lab: Lab, router: Router) -> None:
    vm1, vm2 = lab.guests["vm1"], lab.guests["vm2"]
    assert fetch(vm2, "/latest/user-data").body == BINARY
    told = fetch(vm1, "/latest/user-data")
    assert told.status == 200
    assert named(told.body) == router.document["user_data"]["guests"][VM1]["user_data"]
    for path in ("/latest/local-hostname", "/latest/meta-data/local-hostname"):
        assert (fetch(vm1, path).text, fetch(vm2, path).text) == ("vm1", "vm2")
    assert fetch(vm1, "/latest/local-ipv4").text == VM1
    assert fetch(vm1, "/latest/meta-data/rack").text == "b12"
    assert fetch(vm2, "/latest/meta-data/rack").status == 404
    assert fetch(vm1, "/latest/public-keys").text.startswith("ssh-ed25519 ")


def test_what_there_is_is_listed(lab: Lab, router: Router) -> None:
    vm1, vm2 = lab.guests["vm1"], lab.guests["vm2"]
    assert fetch(vm1, "/latest/").text.split() == ["meta-data", "user-data"]
    listed = fetch(vm1, "/latest/meta-data/").text.split()
    assert {"rack", "public-keys", "instance-id", "local-ipv4"} <= set(listed)
    for key in listed:
        assert fetch(vm1, f"/latest/meta-data/{key}").status == 200
    assert "rack" not in fetch(vm2, "/latest/meta-data/").text.split()


@pytest.mark.usefixtures("router")
def test_data_server_is_found_by_its_name(lab: Lab) -> None:
    vm1 = lab.guests["vm1"]
    vm1.dhcp()
    assert vm1.curl("http://data-server/latest/local-hostname").text == "vm1"
    assert vm1.curl("http://data-server.net1.example.internal/latest/vm-id", check=False).text


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "Host"])
def test_no_header_makes_somebody_of_a_guest(lab: Lab, router: Router, header: str) -> None:
    said = f"for={VM1}" if header == "Forwarded" else VM1
    answer = fetch(lab.guests["vm2"], "/latest/local-hostname", **{header: said})
    assert answer.text == "vm2"
    assert fetch(lab.guests["vm2"], "/latest/user-data", **{header: said}).body == BINARY


def test_no_path_leads_to_somebody_else(lab: Lab, router: Router) -> None:
    vm2 = lab.guests["vm2"]
    theirs = router.document["user_data"]["guests"][VM1]["user_data"]
    secret = fetch(lab.guests["vm1"], "/latest/user-data").body
    paths = [
        f"/latest/{VM1}/user-data",
        f"/latest/user-data/{VM1}",
        f"/latest/user-data?ip={VM1}",
        f"/blobs/{theirs}",
        f"/{theirs}",
        f"/latest/../../../var/lib/sysvm/blobs/{theirs}",
        f"/var/lib/sysvm/blobs/{theirs}",
        f"/latest/%2e%2e/%2e%2e/blobs/{theirs}",
        "/latest/meta-data/../../../../etc/shadow",
        "/latest/..%2f..%2f..%2fetc%2fshadow",
        "//latest//user-data",
        "/metadata/",
        "/cgi-bin/",
        f"http://{VM1}/latest/user-data",
    ]
    for path in paths:
        sock = vm2.connect(SERVER, 80, timeout=3)
        answer = exchange(sock, "GET", path, host=SERVER)
        assert secret not in answer.body, path
        assert b"root:" not in answer.body, path
        if answer.status == 200:
            assert answer.body == BINARY, path  # its own


def test_address_of_another_guest_is_not_enough(lab: Lab, router: Router) -> None:
    """The pair of address and MAC is what a guest is known by."""
    vm1, vm2 = lab.guests["vm1"], lab.guests["vm2"]

    def take(thief: Guest) -> None:
        thief.forget()
        settle(thief, VM1)
        thief.run(["ip", "neigh", "flush", "all"])

    vm1.forget()
    try:
        take(vm2)
        lab.vm.run(["ip", "neigh", "flush", "dev", "eth0"])
        assert not vm2.reaches(SERVER, 80, timeout=0.5)
        assert vm2.pings(SERVER)  # it is there, and is not let in
        with with_mac(vm2, VM1_MAC):
            settle(vm2, VM1)
            assert fetch(vm2, "/latest/local-hostname").text == "vm1"
        # An address that nobody has been given has no data.
        vm2.forget()
        settle(vm2, "10.1.1.60")
        assert not vm2.reaches(SERVER, 80, timeout=0.5)
    finally:
        vm2.forget()
        settle(vm1, VM1)
        settle(vm2, VM2)
        lab.vm.run(["ip", "neigh", "flush", "dev", "eth0"])
    assert fetch(vm1, "/latest/local-hostname").text == "vm1"
    assert fetch(vm2, "/latest/local-hostname").text == "vm2"


def test_data_changes_without_a_reload_and_goes_again(lab: Lab, router: Router) -> None:
    vm1, vm2, before = lab.guests["vm1"], lab.guests["vm2"], router.daemons()
    firewall = router.firewall()
    new = b"#!/bin/sh\necho new\n"
    lab.manager.upload(new)
    changed = guest(VM1, user_data=named(new), metadata={"service-offering": "großer Gast"})
    with router.changed(changed) as plan:
        assert not any("reload" in line or "restart" in line for line in plan)
        assert fetch(vm1, "/latest/user-data").body == new
        assert fetch(vm1, "/latest/service-offering").body.decode() == "großer Gast"
        assert fetch(vm2, "/latest/user-data").body == BINARY
    assert fetch(vm1, "/latest/service-offering").text == "small"
    assert (router.daemons(), router.firewall()) == (before, firewall)
    with router.changed(guest(VM1, user_data=None)):
        assert fetch(vm1, "/latest/user-data").status == 404
    with router.changed({"user_data": {"guests": {VM1: None}}}):
        assert not vm1.reaches(SERVER, 80, timeout=0.5)
        assert fetch(vm2, "/latest/local-hostname").text == "vm2"
    assert fetch(vm1, "/latest/local-hostname").text == "vm1"


def test_blob_that_nobody_uploaded_is_named_and_nothing_changes(lab: Lab, router: Router) -> None:
    missing = "0" * 64
    document = {**router.document}
    document["user_data"] = {"guests": {VM2: {"mac": VM2_MAC, "user_data": missing}}}
    problems = router.refused(document)
    assert list(problems) == [f"/user_data/guests/{VM2}/user_data"]
    wrong = lab.vm.request("PUT", f"/v1/blobs/{missing}", body=b"something else")
    assert wrong.status == 422
    assert lab.vm.request("GET", f"/v1/blobs/{missing}").status == 404
    large = b"x" * (4 * 2**20 + 1)
    assert lab.vm.request("PUT", f"/v1/blobs/{named(large)}", body=large).status == 413


def test_it_is_for_guests_alone(lab: Lab, router: Router) -> None:
    internet = lab.internet
    internet.run(["ip", "route", "replace", "10.1.1.0/24", "via", "203.0.113.10"])
    try:
        assert not internet.reaches(SERVER, 80, timeout=0.4)
        assert not internet.reaches("203.0.113.10", 80, timeout=0.4)
    finally:
        internet.run(["ip", "route", "del", "10.1.1.0/24"])
    with router.changed({"user_data": None}) as plan:
        assert "- stop apache2.service" in plan
        assert not lab.guests["vm1"].reaches(SERVER, 80, timeout=0.4)
        assert ":80 " not in lab.vm.run(["ss", "-Hlnt", "src", SERVER]).text
    wait_until(lambda: fetch(lab.guests["vm1"], "/latest/").status == 200, 5, "user data")
