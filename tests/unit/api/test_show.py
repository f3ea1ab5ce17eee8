"""Rows from values: what is joined, and in which order."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from agent.api import show
from agent.api.ports import (
    Association,
    BalancerRow,
    DhcpLease,
    FailedHandshake,
    TunnelHistory,
    UnitReport,
    Vpn,
)
from agent.document.document import Document, parse_value
from agent.engine.model import (
    Count,
    CounterKey,
    Dnat,
    Family,
    Lease,
    Link,
    Ports,
    Protocol,
    Rule,
    Table,
)
from tests.unit.api.fake import COUNTS, DESIRED, NOW, OBSERVED, RULES, value

MAC = "02:00:4c:00:01:0a"


@pytest.fixture
def document() -> Document:
    section = {
        "hosts": {MAC: {"address": "10.1.1.10", "name": "web", "address_ipv6": "2001:db8::a"}},
        "dns": {
            "upstreams": ["192.0.2.53"],
            "records": {"db.example.internal": {"addresses": ["10.1.1.20", "2001:db8::20"]}},
        },
    }
    return parse_value(value() | {"dhcp_dns": section})


def test_names_and_upstreams_with_where_they_come_from(document: Document) -> None:
    assert show.dns(document) == (
        show.DnsRow("upstream", ".", "192.0.2.53", "/dhcp_dns/dns/upstreams"),
        show.DnsRow("record", "data-server.internal", "10.1.1.1", "/dhcp_dns/dns/data_server"),
        show.DnsRow(
            "record",
            "db.example.internal",
            "10.1.1.20",
            "/dhcp_dns/dns/records/db.example.internal",
        ),
        show.DnsRow(
            "record",
            "db.example.internal",
            "2001:db8::20",
            "/dhcp_dns/dns/records/db.example.internal",
        ),
        show.DnsRow("host", "web.internal", "10.1.1.10", f"/dhcp_dns/hosts/{MAC}"),
        show.DnsRow("host", "web.internal", "2001:db8::a", f"/dhcp_dns/hosts/{MAC}"),
    )


def test_no_names_where_nothing_resolves() -> None:
    assert show.dns(parse_value(value())) == ()
    off = value() | {"dhcp_dns": {"dns": {"enabled": False, "upstreams": ["192.0.2.53"]}}}
    assert show.dns(parse_value(off)) == ()


def test_guests_are_promised_or_leased_or_of_a_range(document: Document) -> None:
    promised = [
        Lease(MAC, IPv4Address("10.1.1.10")),
        Lease("02:00:4c:00:01:0b", IPv4Address("10.1.1.9")),
    ]
    leases = [
        DhcpLease(MAC, "10.1.1.10", "liar", NOW),
        DhcpLease("02:00:4c:00:01:0c", "10.1.1.200", "visitor", None),
    ]
    rows = show.dhcp(promised, leases, document)
    assert [(row.address, row.name, row.state, row.expires) for row in rows] == [
        ("10.1.1.9", "", "promised", None),
        ("10.1.1.10", "web", "leased", "2027-01-15T08:00:00Z"),
        ("10.1.1.200", "visitor", "dynamic", None),
    ]


def test_interface_says_what_it_lacks(document: Document) -> None:
    eth0, eth2 = show.interfaces(document.site, DESIRED, OBSERVED)
    assert (eth0.role, eth0.addresses, eth0.missing) == ("guest", ("10.1.1.1/24",), ())
    assert (eth2.role, eth2.addresses, eth2.missing) == ("public", (), ("203.0.113.5/24",))


def test_interface_that_is_gone_is_down(document: Document) -> None:
    observed = replace(OBSERVED, links={})
    assert [row.up for row in show.interfaces(document.site, DESIRED, observed)] == [False, False]
    stranger = Link("eth9", "02:00:4c:00:00:99", 1500, up=True)
    observed = replace(OBSERVED, links={"eth9": stranger})
    last = show.interfaces(document.site, DESIRED, observed)[-1]
    assert (last.name, last.role, last.up) == ("eth9", "", True)


def test_routes_wanted_and_there() -> None:
    missing = replace(OBSERVED, routes=frozenset())
    assert [(r.destination, r.wanted, r.present) for r in show.routes(DESIRED, OBSERVED)] == [
        ("default", True, True),
        ("192.0.2.0/24", False, True),
    ]
    assert [(r.wanted, r.present) for r in show.routes(DESIRED, missing)] == [(True, False)]


def test_rules_are_numbered_within_their_chain_and_counted() -> None:
    first, second = show.rules(DESIRED, COUNTS)
    assert (first.number, first.packets, first.bytes) == (1, 12, 3456)
    assert first.rule == "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
    assert (second.number, second.packets) == (2, 0)
    assert second.comment == "/firewall/ingress/203.0.113.5/web"


def test_translations_name_the_address_that_was_asked_for() -> None:
    forward = Rule(
        family=Family.V4,
        table=Table.NAT,
        chain="nat4-203.0.113.5",
        target=Dnat(IPv4Address("10.1.1.10")),
        owner="nat",
        comment="/nat/static/203.0.113.5",
        protocol=Protocol.UDP,
        ports=Ports(53, 54),
        flow_destination=IPv4Network("203.0.113.5/32"),
    )
    key = CounterKey(Family.V4, Table.NAT, forward.chain, forward.comment)
    rows = show.nat(replace(DESIRED, rules=(*RULES, forward)), {key: Count(3, 4)})
    assert [(row.kind, row.original, row.translated, row.packets) for row in rows] == [
        ("destination", "203.0.113.5 port 2222", "10.1.1.10 port 22", 0),
        ("destination", "203.0.113.5 port 53-54", "10.1.1.10", 3),
        ("source", "10.1.1.0/24", "203.0.113.5", 0),
    ]


def test_listener_stands_before_its_servers() -> None:
    rows = [
        BalancerRow("b", name, "UP", 1, 0, 0, 0, 0, "") for name in ("a", "BACKEND", "FRONTEND")
    ]
    ordered = show.load_balancer(rows)
    assert [row.server for row in ordered] == ["FRONTEND", "BACKEND", "a"]


def test_services_that_are_wanted_stand_first() -> None:
    rows = show.services(["b"], {"a": UnitReport("inactive"), "b": UnitReport("active")})
    assert [(row.unit, row.wanted) for row in rows] == [("b", True), ("a", False)]


# -- tunnels -----------------------------------------------------------------------------------

BRANCH = {
    "local_address": "203.0.113.5",
    "peer_address": "192.0.2.77",
    "psk": "correct-horse-battery-staple",
    "local_subnets": ["10.1.1.0/24"],
    "remote_subnets": ["10.99.0.0/24"],
}
UP = Association(
    connection="branch",
    child="branch",
    state="INSTALLED",
    peer="192.0.2.77",
    local_identity="203.0.113.5",
    remote_identity="192.0.2.77",
    ike="IKEv2 AES_GCM_16_256",
    esp="AES_GCM_16_256",
    installed=NOW - 60,
    bytes_in=8400,
    packets_in=100,
    bytes_out=84,
    packets_out=1,
)
NOTHING = Vpn(frozenset({"branch"}), (), {}, (), {})


def tunnel(found: Vpn, **fields: object) -> show.VpnRow:
    section = {"connections": {"branch": BRANCH | fields}}
    (row,) = show.vpn(parse_value(value() | {"ipsec": section}), found)
    return row


def test_tunnel_that_is_up_has_its_traffic() -> None:
    old = replace(UP, state="DELETED", installed=NOW - 3600, packets_in=5)
    row = tunnel(replace(NOTHING, associations=(old, UP)))
    assert (row.state, row.since) == ("installed", "2027-01-15T07:59:00Z")
    assert (row.bytes_in, row.packets_in, row.bytes_out, row.packets_out) == (8400, 100, 84, 1)
    assert (row.local, row.remote) == (("10.1.1.0/24",), ("10.99.0.0/24",))
    history = TunnelHistory(up_since=NOW - 7200, rekeyed=NOW - 60)
    row = tunnel(replace(NOTHING, associations=(UP,), histories={("branch", "branch"): history}))
    assert (row.since, row.rekeyed) == ("2027-01-15T06:00:00Z", "2027-01-15T07:59:00Z")


@pytest.mark.parametrize(
    ("state", "start", "expected"),
    [
        ("CONNECTING", "start", "connecting"),
        ("ESTABLISHED", "start", "down"),
        ("", "start", "down"),
        ("", "trap", "trap"),
        ("", "passive", "down"),
    ],
)
def test_tunnel_that_is_not_up(state: str, start: str, expected: str) -> None:
    exchange = (replace(UP, child="", state=state, esp=""),) if state else ()
    failure = FailedHandshake(NOW - 1, "branch", "no answer from the peer")
    row = tunnel(replace(NOTHING, associations=exchange, failures={"branch": failure}), start=start)
    assert (row.state, row.since, row.packets_in) == (expected, None, 0)
    assert (row.reason, row.failed) == ("no answer from the peer", "2027-01-15T07:59:59Z")


def test_connection_that_charon_does_not_have() -> None:
    assert tunnel(replace(NOTHING, loaded=frozenset())).state == "not loaded"


def test_strangers_come_last_and_without_a_connection() -> None:
    stranger = FailedHandshake(NOW, "", "no connection for the peer's address: b")
    (row,) = show.vpn(parse_value(value()), replace(NOTHING, strangers=(stranger,)))
    assert (row.state, row.connection) == ("refused", "")
    assert row.reason == "no connection for the peer's address: b"
