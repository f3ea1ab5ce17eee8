"""Translation of addresses, with real packets: out, in, round the corner, and undone."""

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from appliance.lab import Lab
from appliance.lab.node import Node, Server
from appliance.lab.wait import wait_until
from tests.lab.helpers import INTERNET, VM1, VM2, WWW, Document, Router, example, settle

FIRST, SECOND, THIRD = "203.0.113.10", "203.0.113.11", "203.0.113.12"
SHOP = "198.51.100.20"  # another address of the internet's, for lists of sources


def document() -> Document:
    """The example without what stands in the way of trying things one by one."""
    value = example()
    value["nat"] = {"source_address": FIRST}
    value["firewall"] = {
        "ingress": {
            FIRST: {"any": {"protocol": "all"}},
            THIRD: {"any": {"protocol": "all"}},
        }
    }
    return value


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    """Source NAT alone, and the guests have their addresses."""
    router = Router(lab)
    router.push(document())
    settle(lab.guests["vm1"], VM1)
    settle(lab.guests["vm2"], VM2)
    return router


@pytest.fixture(scope="module")
def servers(lab: Lab, router: Router) -> Iterator[dict[int, Server]]:
    """Servers on vm1: HTTP on 80, lines on 8001 to 8003, datagrams on 5001 to 5003."""
    vm1 = lab.guests["vm1"]
    started = {80: vm1.serve(80)}
    started |= {port: vm1.serve(port, str(port), protocol="tcp") for port in (8001, 8002, 8003)}
    started |= {port: vm1.serve(port, str(port), protocol="udp") for port in (5001, 5002, 5003)}
    yield started
    for server in started.values():
        server.stop()


def forward(**fields: object) -> Document:
    """A change with one forward to vm1."""
    default = {"address": FIRST, "protocol": "tcp", "to": VM1}
    return {"nat": {"forwards": {"one": default | fields}}}


def line(node: Node, address: str, port: int, source: str | None = None) -> str | None:
    """What a TCP server says by itself; None if there is no connection."""
    try:
        with node.connect(address, port, timeout=0.4, source=source) as sock:
            return sock.recv(100).decode() or None
    except OSError:
        return None


def visitor(lab: Lab, guest: str) -> str:
    """The address that the internet sees a guest come with."""
    return lab.guests[guest].get(f"http://{WWW}/").headers["x-client"]


def seen_by(node: Node, address: str, port: int) -> str | None:
    """Whom the HTTP server behind this address sees this node come as."""
    try:
        return node.get(f"http://{address}:{port}/", timeout=0.4).headers["x-client"]
    except OSError:
        return None


# -- out ---------------------------------------------------------------------------------------


def test_guests_go_out_with_the_chosen_address(lab: Lab, router: Router) -> None:
    assert visitor(lab, "vm1") == visitor(lab, "vm2") == FIRST
    before = router.daemons()
    with router.changed({"nat": {"source_address": SECOND}}) as plan:
        assert all("ipv4 nat" in entry or "flows" in entry for entry in plan), plan
        assert visitor(lab, "vm1") == visitor(lab, "vm2") == SECOND
    assert visitor(lab, "vm1") == FIRST
    assert router.daemons() == before
    assert set(lab.internet.visitors()) <= {FIRST, SECOND, THIRD}


def test_without_source_address_nobody_is_translated(lab: Lab, router: Router) -> None:
    with router.changed({"nat": {"source_address": None}}):
        # The internet has no way back to 10.1.1.0/24.
        assert not lab.guests["vm1"].reaches(WWW, 80, timeout=0.4)
    assert lab.guests["vm1"].reaches(WWW, 80)


def test_pings_and_datagrams_go_out_too(lab: Lab, router: Router) -> None:
    assert lab.guests["vm1"].pings(WWW)
    with lab.internet.serve(5353, protocol="udp"):
        assert lab.guests["vm2"].ask(INTERNET, 5353, b"x") == f"internet sees {FIRST}\nx".encode()


def test_static_nat_goes_both_ways_and_is_one_guests_own(lab: Lab, router: Router) -> None:
    vm2 = lab.guests["vm2"]
    with vm2.serve(80), vm2.serve(7777, protocol="udp"):
        assert seen_by(lab.internet, THIRD, 80) is None
        with router.changed({"nat": {"static": {THIRD: {"to": VM2}}}}):
            assert visitor(lab, "vm2") == THIRD
            assert visitor(lab, "vm1") == FIRST
            # In, with the visitor's own address, on any port and protocol.
            assert seen_by(lab.internet, THIRD, 80) == INTERNET
            assert lab.internet.ask(THIRD, 7777, b"x") == f"vm2 sees {INTERNET}\nx".encode()
            assert lab.internet.pings(THIRD)
            # Round the corner, for the other guest and for itself.
            assert seen_by(lab.guests["vm1"], THIRD, 80) == "10.1.1.1"
            assert seen_by(vm2, THIRD, 80) == "10.1.1.1"
            # Only what the address's ingress rules let in, whoever asks.
            closed = {"firewall": {"ingress": {THIRD: {"any": {"protocol": "udp"}}}}}
            with router.changed(closed):
                assert seen_by(lab.internet, THIRD, 80) is None
                assert seen_by(lab.guests["vm1"], THIRD, 80) is None
                assert lab.internet.ask(THIRD, 7777)
            assert seen_by(lab.internet, THIRD, 80) == INTERNET
        assert seen_by(lab.internet, THIRD, 80) is None
        assert lab.internet.ask(THIRD, 7777, timeout=0.4) is None
        assert visitor(lab, "vm2") == FIRST


# -- in ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("servers")
def test_forward_of_one_port(lab: Lab, router: Router) -> None:
    internet, before = lab.internet, router.daemons()
    assert seen_by(internet, FIRST, 8080) is None
    with router.changed(forward(ports=8080, to_ports=80)):
        assert seen_by(internet, FIRST, 8080) == INTERNET
        assert seen_by(internet, FIRST, 80) is None
        assert seen_by(internet, FIRST, 8081) is None
        assert router.daemons() == before
        assert router.count("/nat/forwards/one") == 1
    assert seen_by(internet, FIRST, 8080) is None
    assert router.daemons() == before


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ports": 8001}, {8001: "8001"}),
        ({"ports": "8001-8002"}, {8001: "8001", 8002: "8002"}),
        ({"ports": "9001-9003", "to_ports": "8001-8003"}, {9001: "8001", 9003: "8003"}),
        ({"ports": "7001-7002", "to_ports": 8003}, {7001: "8003", 7002: "8003"}),
    ],
    ids=["same", "range", "shifted", "to one"],
)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_forward_of_ranges(
    lab: Lab, router: Router, protocol: str, fields: Document, expected: dict[int, str]
) -> None:
    def said(port: int) -> str | None:
        if protocol == "tcp":
            return line(lab.internet, FIRST, port)
        answer = lab.internet.ask(FIRST, port - 3000, b"", timeout=0.3)
        return None if answer is None else f"8{answer.decode()[1:]}"

    if protocol == "udp":
        moved = {key: _lower(value) for key, value in fields.items()}
        fields = {**moved, "protocol": "udp"}
    outside = [min(expected) - 1, max(expected) + 1]
    with router.changed(forward(**fields)):
        assert {port: said(port) for port in expected} == expected
        assert [said(port) for port in outside] == [None, None]
    assert said(min(expected)) is None


def _lower(ports: int | str) -> int | str:
    """The same ports 3000 lower."""
    if isinstance(ports, int):
        return ports - 3000
    return "-".join(str(int(port) - 3000) for port in ports.split("-"))


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize(
    "sources", [[f"{INTERNET}/32"], [f"{INTERNET}/32", "192.0.2.0/24", "203.0.113.128/25"]]
)
def test_forward_for_some_only(lab: Lab, router: Router, sources: list[str]) -> None:
    with router.changed(forward(ports=8001, sources=sources)):
        assert line(lab.internet, FIRST, 8001) == "8001"
        assert line(lab.internet, FIRST, 8001, source=SHOP) is None
        sets = lab.vm.run(["ipset", "list", "-name"]).text
        assert ("list4-" in sets) is (len(sources) > 1)
    with router.changed(forward(ports=8001, sources=[f"{SHOP}/32", "192.0.2.0/24"])):
        assert line(lab.internet, FIRST, 8001) is None
        assert line(lab.internet, FIRST, 8001, source=SHOP) == "8001"
    assert "list4-" not in lab.vm.run(["ipset", "list", "-name"]).text


@pytest.mark.usefixtures("servers")
def test_forward_opens_nothing_and_can_be_reached_from_inside(lab: Lab, router: Router) -> None:
    vm1, vm2 = lab.guests["vm1"], lab.guests["vm2"]
    with router.changed(forward(ports=8080, to_ports=80)):
        # Round the corner, also to itself: the way back leads through the VM.
        assert seen_by(vm2, FIRST, 8080) == "10.1.1.1"
        assert seen_by(vm1, FIRST, 8080) == "10.1.1.1"
        outside_only = {"any": {"protocol": "all", "sources": [f"{INTERNET}/32"]}}
        with router.changed({"firewall": {"ingress": {FIRST: outside_only}}}):
            assert seen_by(lab.internet, FIRST, 8080) == INTERNET
            assert seen_by(vm2, FIRST, 8080) is None
        with router.changed({"firewall": {"ingress": {FIRST: None}}}):
            assert seen_by(lab.internet, FIRST, 8080) is None
            assert seen_by(vm2, FIRST, 8080) is None
        # Ingress rules name the port that was asked for, not the guest's.
        theirs = {"any": None, "guest": {"protocol": "tcp", "ports": 80}}
        with router.changed({"firewall": {"ingress": {FIRST: theirs}}}):
            assert seen_by(lab.internet, FIRST, 8080) is None
        ours = {"any": None, "public": {"protocol": "tcp", "ports": 8080}}
        with router.changed({"firewall": {"ingress": {FIRST: ours}}}):
            assert seen_by(lab.internet, FIRST, 8080) == INTERNET


@pytest.mark.usefixtures("servers")
def test_guest_address_is_not_reached_from_outside(lab: Lab, router: Router) -> None:
    internet = lab.internet
    internet.run(["ip", "route", "replace", "10.1.1.0/24", "via", FIRST])
    try:
        with router.changed(forward(ports=8080, to_ports=80)):
            assert seen_by(internet, VM1, 80) is None
            assert line(internet, VM1, 8001) is None
    finally:
        internet.run(["ip", "route", "del", "10.1.1.0/24"])


# -- flows that are over -----------------------------------------------------------------------


def echoes(sock: socket.socket, timeout: float = 0.4) -> bool:
    """Does what is sent come back?"""
    sock.settimeout(timeout)
    try:
        sock.sendall(b"?")
        return sock.recv(1) == b"?"
    except OSError:
        return False


@pytest.fixture
def echo(lab: Lab) -> Iterator[int]:
    """An echo server on vm1 that keeps its connections; its port."""
    program = (
        "import socketserver,sys\n"
        "class Echo(socketserver.BaseRequestHandler):\n"
        "    def handle(self):\n"
        "        while data := self.request.recv(99): self.request.sendall(data)\n"
        "socketserver.ThreadingTCPServer.allow_reuse_address = True\n"
        "server = socketserver.ThreadingTCPServer(('', 7), Echo)\n"
        "print('ready', flush=True)\n"
        "server.serve_forever()\n"
    )
    process = lab.guests["vm1"].popen(["python3", "-c", program])
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield 7
    process.kill()
    process.communicate()


def test_removed_forward_cuts_its_own_flow_and_no_other(
    lab: Lab, router: Router, echo: int
) -> None:
    """Case 33."""
    both = {
        "nat": {
            "forwards": {
                name: {"address": FIRST, "protocol": "tcp", "ports": port, "to": VM1, "to_ports": 7}
                for name, port in (("kept", 7001), ("gone", 7002))
            }
        }
    }
    with (
        router.changed(both),
        closing(lab.internet.connect(FIRST, 7001)) as kept,
        closing(lab.internet.connect(FIRST, 7002)) as gone,
        closing(lab.guests["vm2"].connect(WWW, 80)) as out,
    ):
        assert echoes(kept)
        assert echoes(gone)
        with router.changed({"nat": {"forwards": {"gone": None}}}) as plan:
            assert any("tracked flows tcp" in entry and "7002" in entry for entry in plan)
            assert not echoes(gone)
            assert echoes(kept)
            out.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            assert out.recv(8) == b"HTTP/1.1"
            tracked = lab.vm.run(["conntrack", "-L", "-p", "tcp"]).text
            assert "dport=7001" in tracked
            assert "dport=7002" not in tracked


def test_flow_whose_permission_is_gone_is_cut(lab: Lab, router: Router, echo: int) -> None:
    change = forward(ports=7001, to_ports=7)
    allowed = {"any": None, "echo": {"protocol": "tcp", "ports": 7001}}
    with (
        router.changed(change),
        router.changed({"firewall": {"ingress": {FIRST: allowed}}}),
        closing(lab.internet.connect(FIRST, 7001)) as flow,
    ):
        assert echoes(flow)
        # Another rule says the same: the flow goes on.
        same = {"echo": None, "more": {"protocol": "tcp", "ports": "7000-7009"}}
        with router.changed({"firewall": {"ingress": {FIRST: same}}}):
            wait_until(lambda: echoes(flow), 3, "the flow goes on")
            with router.changed({"firewall": {"ingress": {FIRST: {"more": None}}}}):
                assert not echoes(flow)
