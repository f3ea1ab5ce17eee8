"""What may pass the VM and what may not, with real packets, and what is counted."""

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from appliance.lab import Lab
from tests.lab.helpers import (
    INTERNET,
    PUBLIC_MAC,
    ROUTER_MAC,
    VM1,
    VM2,
    WWW,
    Document,
    Router,
    collected,
    ethernet,
    example,
    is_udp,
    reached,
    settle,
    udp,
    wire,
)

FIRST, SECOND, THIRD = "203.0.113.10", "203.0.113.11", "203.0.113.12"
SHOP = "198.51.100.20"
POLICY = "/firewall/egress/policy"
INGRESS = f"/firewall/ingress/{FIRST}"


def document() -> Document:
    """Static NAT for vm1 and source NAT for the other, and nothing let in."""
    value = example()
    value["nat"] = {"source_address": SECOND, "static": {FIRST: {"to": VM1}}}
    value["firewall"] = {}
    return value


@pytest.fixture(scope="module")
def router(lab: Lab) -> Iterator[Router]:
    """Nothing is let in, everything out; vm1 and the internet have a few servers."""
    router = Router(lab)
    router.push(document())
    vm1, internet = lab.guests["vm1"], lab.internet
    settle(vm1, VM1)
    settle(lab.guests["vm2"], VM2)
    started = [vm1.serve(port, protocol="tcp") for port in (22, 80, 443)]
    started += [vm1.serve(port, protocol="udp") for port in (53, 500)]
    started += [internet.serve(port, protocol="tcp") for port in (25, 443)]
    started += [internet.serve(port, protocol="udp") for port in (123, 5000)]
    yield router
    for server in started:
        server.stop()


def ingress(**rules: object) -> Document:
    return {"firewall": {"ingress": {FIRST: rules}}}


def egress(policy: str, **rules: object) -> Document:
    return {"firewall": {"egress": {"policy": policy, "rules": rules}}}


def lets_in(lab: Lab, address: str = FIRST) -> set[str]:
    """What of a handful of things reaches vm1 from outside."""
    return reached(lab.internet, address, tcp=(22, 80, 443), udp=(53, 500))


def lets_out(lab: Lab) -> set[str]:
    """What of a handful of things reaches the internet from a guest."""
    return reached(lab.guests["vm2"], INTERNET, tcp=(25, 80, 443), udp=(123, 5000))


EVERYTHING_OUT = {"tcp 25", "tcp 80", "tcp 443", "udp 123", "udp 5000", "ping"}


def in_order(value: object) -> str:
    """A test's name that all processes of a run agree on.

    Sets that come from the bytecode's cache have another order than those that were just compiled.
    """
    return str(sorted(value) if isinstance(value, set) else value)


# -- in ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"protocol": "tcp", "ports": 22}, {"tcp 22"}),
        ({"protocol": "tcp", "ports": "80-443"}, {"tcp 80", "tcp 443"}),
        ({"protocol": "tcp"}, {"tcp 22", "tcp 80", "tcp 443"}),
        ({"protocol": "udp", "ports": 500}, {"udp 500"}),
        ({"protocol": "udp"}, {"udp 53", "udp 500"}),
        ({"protocol": "icmp", "icmp_type": 8, "icmp_code": 0}, {"ping"}),
        ({"protocol": "icmp", "icmp_type": 13}, set()),
        ({"protocol": "icmp"}, {"ping"}),
        ({"protocol": "esp"}, set()),
        (
            {"protocol": "all"},
            {"tcp 22", "tcp 80", "tcp 443", "udp 53", "udp 500", "ping"},
        ),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_what_is_let_in_and_nothing_else(
    lab: Lab, router: Router, rule: Document, expected: set[str]
) -> None:
    before = router.daemons(), router.firewall()
    with router.changed(ingress(one=rule)) as plan:
        assert all("ipv4 filter" in entry or "tracked flows" in entry for entry in plan), plan
        assert lets_in(lab) == expected
        counted = router.count(f"{INGRESS}/one")
        assert counted >= len(expected)
        assert router.count(INGRESS) > 0 or len(expected) == 6
        assert set(before[1]) <= set(router.firewall())
    assert lets_in(lab) == set()
    assert (router.daemons(), router.firewall()) == before


@pytest.mark.parametrize(
    "others", [(), ("192.0.2.0/24", "198.51.100.128/25")], ids=["one network", "several"]
)
def test_let_in_from_some_only(lab: Lab, router: Router, others: tuple[str, ...]) -> None:
    def reaches(source: str) -> bool:
        try:
            lab.internet.connect(FIRST, 22, timeout=1, source=source).close()
        except OSError:
            return False
        return True

    def rule(network: str) -> Document:
        return ingress(ssh={"protocol": "tcp", "ports": 22, "sources": [network, *others]})

    with router.changed(rule("203.0.113.0/30")):
        assert (reaches(INTERNET), reaches(SHOP)) == (True, False)
        listed = lab.vm.run(["ipset", "list", "-name"]).text
        assert ("list4-" in listed) is bool(others)
        # A list that changes never changes under a rule that is in use.
        with router.changed(rule("198.51.100.0/27")):
            assert (reaches(INTERNET), reaches(SHOP)) == (False, True)
    assert (reaches(INTERNET), reaches(SHOP)) == (False, False)
    assert "list4-" not in lab.vm.run(["ipset", "list", "-name"]).text


def test_rules_are_one_addresss_own(lab: Lab, router: Router) -> None:
    static = {"nat": {"static": {FIRST: None, THIRD: {"to": VM1}}}}
    with router.changed(static), router.changed(ingress(all={"protocol": "all"})):
        assert lets_in(lab, THIRD) == set()
        assert lets_in(lab, FIRST) == {"ping"}  # the VM itself


def test_answers_come_back_and_errors_that_belong_to_a_flow(lab: Lab, router: Router) -> None:
    # Nothing is let in, and what guests ask for is answered.
    assert lets_in(lab) == set()
    assert lets_out(lab) == EVERYTHING_OUT
    with lab.guests["vm2"].open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect((INTERNET, 9))
        sock.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(1)


# -- out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "about"),
    [
        ({"protocol": "tcp", "ports": 25}, {"tcp 25"}),
        ({"protocol": "tcp", "ports": "80-443"}, {"tcp 80", "tcp 443"}),
        ({"protocol": "udp"}, {"udp 123", "udp 5000"}),
        ({"protocol": "icmp", "icmp_type": 8}, {"ping"}),
        ({"protocol": "all"}, EVERYTHING_OUT),
        ({"protocol": "all", "destinations": ["203.0.113.0/24"]}, EVERYTHING_OUT),
        ({"protocol": "all", "destinations": ["198.51.100.0/24"]}, set()),
        (
            {"protocol": "tcp", "ports": 25, "destinations": ["192.0.2.0/24", f"{INTERNET}/32"]},
            {"tcp 25"},
        ),
        ({"protocol": "tcp", "sources": [f"{VM2}/32"]}, {"tcp 25", "tcp 80", "tcp 443"}),
        ({"protocol": "tcp", "sources": [f"{VM1}/32", "10.1.1.64/26"]}, set()),
    ],
    ids=in_order,
)
@pytest.mark.parametrize("policy", ["allow", "deny"])
def test_rules_are_the_policys_exceptions(
    lab: Lab, router: Router, policy: str, rule: Document, about: set[str]
) -> None:
    with router.changed(egress(policy, one=rule)):
        expected = EVERYTHING_OUT - about if policy == "allow" else about
        assert lets_out(lab) == expected
        assert (router.count("/firewall/egress/rules/one") > 0) is bool(about)


def test_policy_is_changed_and_changed_back(lab: Lab, router: Router) -> None:
    assert lets_out(lab) == EVERYTHING_OUT
    with router.changed(egress("deny")):
        dropped = router.count(POLICY)
        assert lets_out(lab) == set()
        assert router.count(POLICY) > dropped
        # The VM's own services are not what goes out.
        assert lab.guests["vm2"].query("vm1", server="10.1.1.1").answer
    assert lets_out(lab) == EVERYTHING_OUT


def test_flow_of_a_guest_is_cut_when_it_is_no_longer_allowed(lab: Lab, router: Router) -> None:
    def alive(sock: socket.socket) -> bool:
        sock.settimeout(0.4)
        try:
            sock.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
            return sock.recv(4096).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    with lab.guests["vm2"].connect(WWW, 80) as one, lab.guests["vm1"].connect(WWW, 80) as other:
        assert alive(one)
        assert alive(other)
        rule = {"protocol": "tcp", "ports": 80, "sources": [f"{VM2}/32"]}
        with router.changed(egress("allow", web=rule)):
            assert not alive(one)
            assert alive(other)


# -- the VM itself, pings and spoofing ---------------------------------------------------------


def test_vm_answers_pings_of_guests_and_of_others_only_if_told(lab: Lab, router: Router) -> None:
    internet, vm1 = lab.internet, lab.guests["vm1"]
    assert vm1.pings("10.1.1.1")
    assert not internet.pings(THIRD, timeout=0.3)
    ping = {"firewall": {"ingress": {THIRD: {"ping": {"protocol": "icmp", "icmp_type": 8}}}}}
    with router.changed(ping):
        assert internet.pings(THIRD)
        assert not internet.pings(SECOND, timeout=0.3)
        assert vm1.pings(THIRD)
    assert not internet.pings(THIRD, timeout=0.3)
    assert vm1.pings("10.1.1.1")


def test_guest_speaks_with_addresses_of_its_network_only(lab: Lab, router: Router) -> None:
    guest = lab.guests["vm2"]

    def passes(source: str) -> bool:
        """Does a datagram with this source leave the VM on the other side?"""
        with wire(lab.internet) as outside, wire(guest) as inside:
            for port in (5000, 5001):
                named = source if port == 5000 else VM2
                packet = udp(named, INTERNET, port)
                inside.send(ethernet(guest.mac, ROUTER_MAC, 0x0800, packet))
            came = collected(outside, is_udp(SECOND, 5001))  # an honest one, sent after it
            return any(frame[36:38] == (5000).to_bytes(2, "big") for frame in came)

    comment = next(
        row["comment"]
        for row in router.show("rules")
        if row["chain"] == "spoof-eth0" and row["rule"] == "-j DROP" and row["family"] == 4
    )
    assert passes("10.1.1.77")
    for source in ("10.9.9.9", "198.51.100.99", "203.0.113.50", "127.0.0.1"):
        before = router.count(comment)
        assert not passes(source)
        assert router.count(comment) == before + 1
    with router.changed({"firewall": {"anti_spoofing": False}}):
        assert passes("10.9.9.9")
    assert not passes("10.9.9.9")


def test_outside_cannot_speak_as_a_guest(lab: Lab, router: Router) -> None:
    internet, vm1 = lab.internet, lab.guests["vm1"]
    comment = "sysvm: 10.1.1.0/24 from eth2"
    everything = ingress(all={"protocol": "all"})
    with router.changed(everything), wire(vm1) as inside, wire(internet) as outside:
        before = router.count(comment)
        for source, port in ((VM2, 5000), (INTERNET, 5001)):
            packet = udp(source, FIRST, port)
            outside.send(ethernet("1e:00:cb:00:71:01", PUBLIC_MAC, 0x0800, packet))
        came = collected(inside, is_udp(INTERNET, 5001))
        assert not any(map(is_udp(VM2, 5000), came))
        assert router.count(comment) == before + 1


def test_routed_network_behind_a_guest_may_speak(lab: Lab, router: Router) -> None:
    guest = lab.guests["vm2"]
    guest.run(["ip", "address", "add", "192.168.50.1/24", "dev", "lo"])
    try:

        def answered() -> bool:
            argv = ["ping", "-n", "-c1", "-W1", "-I", "192.168.50.1", "10.1.1.1"]
            return guest.run(argv, check=False).returncode == 0

        assert not answered()
        with router.changed({"site": {"routes": {"192.168.50.0/24": {"via": VM2}}}}) as plan:
            assert "+ route 192.168.50.0/24 via 10.1.1.11 on eth0" in plan
            assert answered()
            # Between the guests and the network behind one of them, and from there to outside.
            assert lab.guests["vm1"].pings("192.168.50.1")
            with closing(guest.connect(WWW, 80, source="192.168.50.1")):
                pass
        assert not answered()
        assert not lab.guests["vm1"].pings("192.168.50.1", timeout=0.3)
        assert "192.168.50" not in lab.vm.run(["ip", "route"]).text
    finally:
        guest.run(["ip", "address", "del", "192.168.50.1/24", "dev", "lo"])


# -- counters ----------------------------------------------------------------------------------


def test_counts_only_grow_whatever_is_pushed(lab: Lab, router: Router) -> None:
    """Also where a whole table is replaced, and over a restart of the agent."""
    comment = f"{INGRESS}/web"
    web = {"protocol": "tcp", "ports": 80}
    with router.changed(ingress(web=web)):
        counts = [router.count(comment)]

        def visit() -> None:
            assert lab.internet.reaches(FIRST, 80)
            counts.append(router.count(comment))

        visit()
        many = {f"r{n}": {"protocol": "udp", "ports": n} for n in range(1, 501)}
        with router.changed(ingress(**many)):  # more than can be edited in place
            counts.append(router.count(comment))
            visit()
            with router.changed(ingress(r7=None)):
                visit()
        visit()
        agent = router.daemons()["sysvm-agent"]
        lab.vm.run(["systemctl", "restart", "sysvm-agent"])
        lab.vm.wait_ready()
        assert router.daemons()["sysvm-agent"] != agent
        visit()
        assert counts == [0, 1, 1, 2, 3, 4, 5]
