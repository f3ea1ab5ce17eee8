"""Which doors there are, from every side, and who gets through the one with the lock."""

import re
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor

import pytest

from appliance.lab import Lab
from appliance.lab.http import client_context
from appliance.lab.node import Node
from appliance.lab.wait import wait_until
from tests.lab.helpers import (
    CONTROL_MAC,
    PUBLIC_MAC,
    ROUTER_MAC,
    VM1,
    VM2,
    Document,
    Router,
    reached,
    settle,
)

SIX: Document = {
    "site": {
        "nics": {
            ROUTER_MAC: {"addresses": {"2001:db8:1::1/64": {}}},
            CONTROL_MAC: {"addresses": {"2001:db8:3::2/64": {}}},
            PUBLIC_MAC: {"addresses": {"2001:db8:2::10/64": {}}},
        }
    }
}


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    """The example with IPv6 on every NIC, and nothing forwarded."""
    router = Router(lab)
    router.change(SIX | {"nat": {"static": None, "forwards": None}})
    settle(lab.guests["vm1"], VM1)
    settle(lab.guests["vm2"], VM2)
    for node, address in (
        (lab.guests["vm1"], "2001:db8:1::a"),
        (lab.internet, "2001:db8:2::1"),
        (lab.manager, "2001:db8:3::1"),
    ):
        node.run(["ip", "address", "add", f"{address}/64", "dev", "eth0", "nodad"])
    return router


# -- case 50 -----------------------------------------------------------------------------------


def scan(node: Node, address: str, *options: str) -> set[int]:
    """The ports that nmap calls open."""
    six = ["-6"] if ":" in address else []
    argv = ["nmap", *six, "-n", "-Pn", "--open", "-T5", "--max-retries", "1", *options]
    text = node.run([*argv, "-oG", "-", address], timeout=120).text
    return {int(port) for port in re.findall(r"(\d+)/open/", text)}


TCP = ("-sS", "-p-", "--min-rate", "20000")
# Every UDP port would take minutes: these are what Debian or we ever listened on.
UDP_PORTS = "53,67,68,69,123,161,500,514,546,547,1194,4500,5353,5355,8443"
UDP = ("-sU", "-p", UDP_PORTS, "--max-rtt-timeout", "200ms")
DOORS: dict[tuple[str, str, str], set[int]] = {
    ("tcp", "vm1", "10.1.1.1"): {53, 80},
    ("tcp", "vm1", "2001:db8:1::1"): {53},
    ("tcp", "vm1", "203.0.113.11"): {80},
    ("tcp", "vm1", "169.254.10.2"): set(),
    ("tcp", "internet", "203.0.113.10"): set(),
    ("tcp", "internet", "203.0.113.11"): {80},
    ("tcp", "internet", "203.0.113.12"): set(),
    ("tcp", "internet", "2001:db8:2::10"): set(),
    ("tcp", "management", "169.254.10.2"): {8443},
    ("tcp", "management", "2001:db8:3::2"): {8443},
    ("udp", "vm1", "10.1.1.1"): {53},
    ("udp", "vm1", "2001:db8:1::1"): {53},
    ("udp", "internet", "203.0.113.10"): set(),
    ("udp", "internet", "2001:db8:2::10"): set(),
    ("udp", "management", "169.254.10.2"): set(),
}


@pytest.fixture(scope="module")
def found(lab: Lab, router: Router) -> dict[tuple[str, str, str], set[int]]:
    """All scans, side by side: nmap waits most of the time."""

    def one(door: tuple[str, str, str]) -> set[int]:
        kind, side, address = door
        return scan(lab.nodes[side], address, *(TCP if kind == "tcp" else UDP))

    with ThreadPoolExecutor(len(DOORS)) as threads:
        return dict(zip(DOORS, threads.map(one, DOORS), strict=True))


@pytest.mark.parametrize("door", DOORS, ids=" ".join)
def test_exactly_these_ports_are_open(
    found: dict[tuple[str, str, str], set[int]], door: tuple[str, str, str]
) -> None:
    # DHCP's port answers some of what nmap sends, and not always in time.
    assert found[door] - {67} == DOORS[door]


def test_other_sides_addresses_are_no_way_in(lab: Lab, router: Router) -> None:
    """Who routes to the VM's address of another network finds what the NIC allows, not more."""
    for node, via, targets in (
        (lab.internet, "203.0.113.10", ("10.1.1.1", "169.254.10.2")),
        (lab.guests["vm2"], "10.1.1.1", ("169.254.10.2",)),
        (lab.manager, "169.254.10.2", ("10.1.1.1", "203.0.113.10", VM1)),
    ):
        for target in targets:
            node.run(["ip", "route", "replace", f"{target}/32", "via", via])
            try:
                ports = (22, 53, 80, 443, 8080, 8443)
                # Pings are another matter: guests may, and one address has a rule for everybody.
                assert reached(node, target, tcp=ports, udp=(53,)) <= {"ping"}
            finally:
                node.run(["ip", "route", "del", f"{target}/32"])


def test_listening_sockets_are_those_that_are_meant(lab: Lab, router: Router) -> None:
    text = lab.vm.run(["ss", "-Hlntu"]).text
    found = {(line.split()[0], line.split()[4]) for line in text.splitlines()}
    local = {entry for entry in found if entry[1].startswith(("127.", "[::1]"))}
    assert {address for _, address in local} <= {"127.0.0.1:8443", "[::1]:8443"}
    ports = {(kind, address.rpartition(":")[2]) for kind, address in found - local}
    assert ports == {("tcp", "53"), ("udp", "53"), ("udp", "67"), ("tcp", "80"), ("tcp", "8443")}
    control = {address for _, address in found if address.endswith(":8443")}
    assert control <= {"127.0.0.1:8443", "169.254.10.2:8443", "[2001:db8:3::2]:8443"}


# -- case 51 -----------------------------------------------------------------------------------


def test_management_gets_in(lab: Lab, router: Router) -> None:
    assert lab.manager.request("GET", "/v1/status").status == 200
    assert lab.manager.request("GET", "/v1/status", identity="manager").status == 200


def front_log(lab: Lab) -> str:
    return lab.vm.journal("-u", "sysvm-front", "-o", "cat")


@pytest.mark.parametrize(
    ("identity", "logged"),
    [
        (None, "certificate"),
        ("stranger", "verify="),
        ("expired", "expired"),
        ("revoked", "revoked"),
    ],
    ids=str,
)
def test_bad_certificate_is_refused_and_logged(
    lab: Lab, router: Router, identity: str | None, logged: str
) -> None:
    before = len(front_log(lab))
    with pytest.raises(OSError, match=r".*"):
        lab.manager.request("GET", "/v1/status", identity=identity, timeout=5)
    wait_until(
        lambda: "refused" in (said := front_log(lab)[before:]) and logged in said.lower(),
        5,
        f"{logged} in the log",
    )
    assert lab.manager.request("GET", "/v1/status").status == 200


def test_wrong_name_is_forbidden(lab: Lab, router: Router) -> None:
    before = router.current()
    for method, path in (("GET", "/v1/status"), ("PUT", "/v1/document"), ("POST", "/v1/rollback")):
        answer = lab.manager.request(method, path, identity="misnamed", body=b"{}")
        assert answer.status == 403
    assert router.current() == before
    assert "somebody-else" in front_log(lab)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, None], ids=["TLS 1.2", "plain"])
def test_older_tls_and_plain_text_are_refused(
    lab: Lab, router: Router, version: ssl.TLSVersion | None
) -> None:
    manager = lab.manager
    keys = manager.keys_folder
    with manager.connect(manager.vm_address, manager.vm_port) as plain:
        if version is None:
            plain.sendall(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"HTTP/1.1 200" not in _answer(plain)
            return
        context = client_context(
            str(keys / "ca.pem"), str(keys / "manager.pem"), str(keys / "manager.key")
        )
        context.minimum_version = context.maximum_version = version
        with pytest.raises(OSError, match=r"(?i)version|reset|eof"):
            context.wrap_socket(plain, server_hostname=manager.vm_address)


def _answer(sock: socket.socket) -> bytes:
    sock.settimeout(5)
    try:
        return sock.recv(4096)
    except OSError:
        return b""


def test_server_proves_who_it_is(lab: Lab, router: Router) -> None:
    """A client that trusts another authority does not talk to it."""
    stranger = lab.folder / "other.pem"
    stranger.write_text(lab.keys.stranger.certificate)
    context = client_context(str(stranger))
    with (
        lab.manager.connect(lab.manager.vm_address, lab.manager.vm_port) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(plain, server_hostname=lab.manager.vm_address)


def test_revocation_list_and_names_come_by_a_push(lab: Lab, router: Router) -> None:
    """Who is revoked by the next list is out; and in again by the list before."""
    authority = lab.keys.authority
    second = authority.issue("second.example")
    second.write(lab.manager.keys_folder, "second")
    assert lab.manager.request("GET", "/v1/status", identity="second").status == 403
    both = {"control": {"allowed_names": ["sysvm-manager", "second.example"]}}
    with router.changed(both):
        assert lab.manager.request("GET", "/v1/status", identity="second").status == 200
        crl = authority.crl([lab.keys.revoked, second])
        control = {"control": {"ca": authority.identity.certificate, "crl": crl}}
        with router.changed(control):
            with pytest.raises(OSError, match=r".*"):
                lab.manager.request("GET", "/v1/status", identity="second", timeout=5)
            assert lab.manager.request("GET", "/v1/status").status == 200
        assert lab.manager.request("GET", "/v1/status", identity="second").status == 200
    assert lab.manager.request("GET", "/v1/status", identity="second").status == 403
