"""The network as text, for a boot in which nothing of ours has started yet."""

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

from agent.engine.ahead import files, network
from agent.engine.model import Address, Family, File, Link, PolicyRule, Route, Sysctl, Unit
from tests.unit.engine.memory import NOTHING

NIC = Link("eth0", "02:00:0a:01:01:01", 1450, up=True)


def test_text_has_nics_settings_links_addresses_and_routes_in_the_order_of_a_plan() -> None:
    desired = replace(
        NOTHING,
        links={"eth0": NIC, "eth1": replace(NIC, name="eth1", up=False)},
        sysctls={
            key: Sysctl(key, value)
            for key, value in (
                ("kernel.hostname", "r-1"),
                ("net.ipv4.conf.eth0/7.rp_filter", "2"),
                ("net.ipv4.ip_forward", "1"),
            )
        },
        addresses=frozenset(
            Address("eth0", ip_interface(text))
            for text in ("10.1.1.1/24", "10.9.9.1/31", "fd00::1/64")
        ),
        routes=frozenset(
            {
                Route(ip_network("0.0.0.0/0"), ip_address("10.1.1.254"), "eth0"),
                Route(ip_network("10.7.0.0/16"), None, "eth0", table=7),
            }
        ),
    )
    assert network(desired).splitlines() == [
        "nic eth0 02:00:0a:01:01:01",
        "set /proc/sys/net/ipv4/ip_forward 1",
        "set /proc/sys/net/ipv4/conf/eth0.7/rp_filter 2",
        "ip link set dev eth0 mtu 1450 up",
        "ip address add 10.1.1.1/24 dev eth0 broadcast 10.1.1.255",
        "ip address add 10.9.9.1/31 dev eth0",
        "ip address add fd00::1/64 dev eth0 nodad",
        "ip route add 0.0.0.0/0 via 10.1.1.254 dev eth0 protocol 77",
        "ip route add 10.7.0.0/16 dev eth0 protocol 77 table 7",
    ]


def test_where_packets_are_routed_by_more_than_their_destination_the_restore_is_waited_for() -> (
    None
):
    rule = PolicyRule(100, Family.V4, 7)
    assert network(replace(NOTHING, policy_rules=frozenset({rule}))) == ""


def test_files_are_those_of_daemons_that_start_ahead() -> None:
    desired = replace(
        NOTHING,
        units={unit.name: unit for unit in (Unit("a.service", ahead=True), Unit("b.service"))},
        files={
            path: File(path, content, unit)
            for path, content, unit in (
                ("a/two", b"2", "a.service"),
                ("a/one", b"1", "a.service"),
                ("b/secret", b"3", "b.service"),
                ("c/nobodys", b"4", None),
            )
        },
    )
    assert files(desired) == {"a/one": b"1", "a/two": b"2"}
    assert network(desired).splitlines() == ["file a/one", "file a/two"]
    alone = replace(desired, units={"b.service": Unit("b.service")})
    assert files(alone) == {}
    assert network(alone) == ""
