"""Links, addresses, routes, policy rules, announcements, in a network of the test's own."""

import json
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_network
from typing import Any

import pytest

from agent.engine.host import StepFailed
from agent.engine.model import Address, Family, Link, PolicyRule, Route
from agent.system import announce
from agent.system.namespaces import Scratch
from agent.system.netlink import Netlink
from agent.system.run import run

NIC = "eth0.7"  # a dot, as VLANs have
FOUR = Address(NIC, IPv4Interface("10.1.1.1/24"))
FOUR_TOO = Address(NIC, IPv4Interface("10.1.1.2/24"))
SIX = Address(NIC, IPv6Interface("2001:db8::1/64"))
DEFAULT = Route(ip_network("0.0.0.0/0"), ip_address("10.1.1.254"), NIC)
DEFAULT_SIX = Route(ip_network("::/0"), ip_address("2001:db8::fe"), NIC)


@pytest.fixture
def here() -> Iterator[Scratch]:
    """A network with one NIC, up, and its peer."""
    scratch = Scratch("test")

    def wire() -> None:
        ip("link add", NIC, "type veth peer name peer")
        ip("link set", NIC, "up")
        ip("link set peer up")

    scratch.do(wire)
    yield scratch
    scratch.close()


@pytest.fixture
def kernel(here: Scratch) -> Iterator[Netlink]:
    netlink = Netlink()
    yield netlink
    here.do(netlink.close)


def ip(*words: str) -> str:
    return run(["ip", *" ".join(words).split()], timeout=5).text


def listed(*words: str) -> list[Any]:
    rows: list[Any] = json.loads(ip("-json", *words) or "[]")
    return rows


def test_links_are_all_but_loopback(here: Scratch, kernel: Netlink) -> None:
    links = {link.name: link for link in here.do(kernel.links)}
    assert links.keys() == {NIC, "peer"}
    assert links[NIC].up
    assert links[NIC].mtu == 1500
    assert links[NIC].mac == here.do(lambda: listed("link show", NIC))[0]["address"]


def test_link_is_set_and_set_again(here: Scratch, kernel: Netlink) -> None:
    def check() -> None:
        (before,) = (link for link in kernel.links() if link.name == NIC)
        for up in (False, True):
            wanted = Link(NIC, before.mac, 1400, up)
            for _ in range(2):
                kernel.set_link(wanted)
            assert wanted in kernel.links()

    here.do(check)


def test_link_that_is_not_there_cannot_be_set(here: Scratch, kernel: Netlink) -> None:
    with pytest.raises(StepFailed, match="there is no NIC eth9"):
        here.do(lambda: kernel.set_link(Link("eth9", "", 1500, up=True)))


def test_addresses_come_twice_and_go_twice(here: Scratch, kernel: Netlink) -> None:
    def check() -> None:
        for address in (FOUR, SIX, FOUR, SIX):
            kernel.add_address(address)
        assert kernel.addresses({NIC}) == {FOUR, SIX}
        for address in (FOUR, SIX, FOUR, SIX):
            kernel.remove_address(address)
        assert kernel.addresses({NIC}) == frozenset()

    here.do(check)


def test_ipv6_address_is_usable_at_once(here: Scratch, kernel: Netlink) -> None:
    def check() -> None:
        kernel.add_address(SIX)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as local:
            local.bind((str(SIX.interface.ip), 0))

    here.do(check)


def test_addresses_of_other_nics_and_scopes_are_not_seen(here: Scratch, kernel: Netlink) -> None:
    def check() -> None:
        ip("addr add 10.9.9.9/24 dev peer")
        ip("addr add 169.254.1.1/16 scope link dev", NIC)
        ip("addr add 10.8.8.8/24 valid_lft 100 preferred_lft 100 dev", NIC)
        assert kernel.addresses({NIC}) == frozenset()

    here.do(check)


def test_second_address_of_a_network_is_seen(here: Scratch, kernel: Netlink) -> None:
    def check() -> None:
        kernel.add_address(FOUR)
        kernel.add_address(FOUR_TOO)
        assert kernel.addresses({NIC}) == {FOUR, FOUR_TOO}

    here.do(check)


def test_address_of_a_nic_that_is_gone_is_removed_already(here: Scratch, kernel: Netlink) -> None:
    here.do(lambda: kernel.remove_address(Address("eth9", IPv4Interface("10.1.1.1/24"))))
    with pytest.raises(StepFailed):
        here.do(lambda: kernel.add_address(Address("eth9", IPv4Interface("10.1.1.1/24"))))


@pytest.mark.parametrize(
    "route",
    [
        DEFAULT,
        DEFAULT_SIX,
        Route(ip_network("172.16.0.0/12"), ip_address("10.1.1.9"), NIC, table=101),
        Route(ip_network("172.16.0.0/12"), None, NIC, table=1000),
        Route(ip_network("2001:db8:1::/48"), ip_address("2001:db8::9"), NIC, table=1000),
        Route(ip_network("2001:db8:1::/48"), None, NIC),
    ],
    ids=str,
)
def test_routes_come_twice_and_go_twice(here: Scratch, kernel: Netlink, route: Route) -> None:
    def check() -> None:
        kernel.add_address(FOUR)
        kernel.add_address(SIX)
        for _ in range(2):
            kernel.add_route(route)
        assert kernel.routes() == {route}
        for _ in range(2):
            kernel.remove_route(route)
        assert kernel.routes() == frozenset()

    here.do(check)


@pytest.mark.parametrize("route", [DEFAULT, DEFAULT_SIX], ids=str)
def test_route_is_replaced_by_one_with_another_gateway(
    here: Scratch, kernel: Netlink, route: Route
) -> None:
    assert route.via is not None
    other = Route(route.destination, route.via - 1, NIC)

    def check() -> None:
        kernel.add_address(FOUR)
        kernel.add_address(SIX)
        kernel.add_route(route)
        kernel.add_route(other)
        assert kernel.routes() == {other}
        kernel.remove_route(other)
        assert kernel.routes() == frozenset()

    here.do(check)


def test_routes_of_others_are_neither_seen_nor_replaced(here: Scratch, kernel: Netlink) -> None:
    def check() -> None:
        kernel.add_address(FOUR)
        ip("route add 172.16.0.0/12 via 10.1.1.7")
        foreign = Route(ip_network("172.16.0.0/12"), ip_address("10.1.1.9"), NIC)
        assert kernel.routes() == frozenset()
        with pytest.raises(StepFailed, match="not ours"):
            kernel.add_route(foreign)
        with pytest.raises(StepFailed, match="not ours"):
            kernel.add_route(Route(ip_network("10.1.1.0/24"), ip_address("10.1.1.9"), NIC))
        kernel.remove_route(Route(ip_network("172.16.0.0/12"), ip_address("10.1.1.7"), NIC))
        assert "via 10.1.1.7" in ip("route show 172.16.0.0/12")

    here.do(check)


def test_gateway_that_cannot_be_reached_fails_in_words(here: Scratch, kernel: Netlink) -> None:
    with pytest.raises(StepFailed, match=r"add route to 0\.0\.0\.0/0: .*unreachable"):
        here.do(lambda: kernel.add_route(DEFAULT))


@pytest.mark.parametrize(
    "rule",
    [
        PolicyRule(1000, Family.V4, 100, source=ip_network("10.1.1.0/24")),
        PolicyRule(1001, Family.V4, 1000, mark=0x64),
        PolicyRule(1002, Family.V6, 100, source=ip_network("2001:db8::/64"), in_nic=NIC),
        PolicyRule(1003, Family.V6, 100),
    ],
    ids=str,
)
def test_policy_rules_come_twice_and_go_twice(
    here: Scratch, kernel: Netlink, rule: PolicyRule
) -> None:
    def check() -> None:
        before = listed("rule"), listed("-6 rule")
        for _ in range(2):
            kernel.add_policy_rule(rule)
        assert kernel.policy_rules() == {rule}
        for _ in range(2):
            kernel.remove_policy_rule(rule)
        assert kernel.policy_rules() == frozenset()
        assert (listed("rule"), listed("-6 rule")) == before

    here.do(check)


def test_policy_rules_of_others_are_neither_seen_nor_removed(
    here: Scratch, kernel: Netlink
) -> None:
    def check() -> None:
        ip("rule add priority 1000 from 10.1.1.0/24 table 100")
        theirs = listed("rule")
        assert kernel.policy_rules() == frozenset()
        rule = PolicyRule(1000, Family.V4, 100, source=ip_network("10.1.1.0/24"))
        kernel.add_policy_rule(rule)
        assert kernel.policy_rules() == {rule}
        kernel.remove_policy_rule(rule)
        assert listed("rule") == theirs

    here.do(check)


def test_broken_socket_is_replaced(here: Scratch, kernel: Netlink) -> None:
    def check() -> None:
        before = kernel.links()
        kernel.close()
        assert kernel.links() == before

    here.do(check)


def test_new_addresses_are_announced_to_the_neighbours(here: Scratch, kernel: Netlink) -> None:
    def check() -> None:
        kernel.add_address(FOUR)
        kernel.add_address(SIX)
        (mac,) = (bytes.fromhex(li.mac.replace(":", "")) for li in kernel.links() if li.name == NIC)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as peer:
            peer.bind(("peer", 3))
            peer.settimeout(5)
            wanted = [
                announce.arp(mac, IPv4Address("10.1.1.1"), 1),
                announce.arp(mac, IPv4Address("10.1.1.1"), 2),
                announce.advertisement(mac, IPv6Address("2001:db8::1")),
            ]
            announce.announce([FOUR, SIX])
            while wanted:
                frame = peer.recv(2048)
                wanted = [one for one in wanted if one != frame]

    here.do(check)


def test_neighbour_learns_the_new_place_of_an_address(here: Scratch, kernel: Netlink) -> None:
    def check() -> None:
        ip("addr add 10.1.1.50/24 dev peer nodad")
        ip("-6 addr add 2001:db8::50/64 dev peer nodad")
        for known in (FOUR, SIX):
            ip("neigh replace", str(known.interface.ip), "lladdr 02:00:00:00:00:99 dev peer")
            ip("neigh change", str(known.interface.ip), "nud stale dev peer")
        # Both ends are in one network here: ARP would find the address local.
        announce.announce([FOUR, SIX])
        (mac,) = (link.mac for link in kernel.links() if link.name == NIC)
        learned = {row["dst"]: row["lladdr"] for row in listed("neigh show dev peer")}
        assert learned[str(FOUR.interface.ip)] == mac
        assert learned[str(SIX.interface.ip)] == mac

    here.do(check)


def test_nic_that_is_down_has_nobody_to_tell(here: Scratch) -> None:
    def check() -> None:
        ip("link set", NIC, "down")
        announce.announce([FOUR, SIX, Address("eth9", FOUR.interface)])

    here.do(check)


# -- hostile case 28: more was told to a socket than it could keep ------------------------------

_ADD_MEMBERSHIP, _GROUP_LINK = 1, 1  # NETLINK_ADD_MEMBERSHIP, RTNLGRP_LINK


def test_socket_that_was_overrun_is_replaced_and_the_answer_whole(
    here: Scratch, kernel: Netlink
) -> None:
    """A tiny buffer, and a flood of what nobody reads: the next answer is ENOBUFS (netlink(7))."""

    def overrun() -> None:
        before = kernel.links()
        channel = kernel._kernel()._socket  # noqa: SLF001 - the fault is in there
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        channel.setsockopt(270, _ADD_MEMBERSHIP, _GROUP_LINK)
        for number in range(64):
            ip("link set peer mtu", str(1300 + number % 2))
        ip("link set peer mtu 1500")
        assert kernel.links() == before
        assert kernel._kernel()._socket is not channel  # noqa: SLF001
        kernel.add_address(FOUR)
        assert kernel.addresses([NIC]) == {FOUR}

    here.do(overrun)
