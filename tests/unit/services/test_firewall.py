"""The firewall: what its rules are, and what its section may not say."""

from typing import Any

import pytest

from agent.engine.model import Family, SetType, Table
from agent.services import firewall, ingress_chain
from tests.unit.services.rules import CONTEXT, lines, problems, rendered


def ingress(**rules: Any) -> dict[str, Any]:
    return {"ingress": {"203.0.113.10": rules}}


def test_everything_is_closed_but_what_is_named() -> None:
    artifacts = rendered(firewall, {})
    policies = {(c.family, c.name): c.policy for c in artifacts.chains if c.table is Table.FILTER}
    for family in Family:
        assert policies[family, "INPUT"] == "DROP"
        assert policies[family, "FORWARD"] == "DROP"
    assert lines(artifacts.rules, Table.FILTER, "in4-203.0.113.10") == [
        "-A in4-203.0.113.10 -j DROP"
    ]


def test_established_flows_come_first() -> None:
    artifacts = rendered(firewall, ingress(web={"protocol": "tcp", "ports": 80}))
    for chain in ("INPUT", "FORWARD"):
        first = lines(artifacts.rules, Table.FILTER, chain)[0]
        assert first == f"-A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"


def test_frame_does_not_grow_with_the_rules() -> None:
    few = rendered(firewall, ingress(web={"protocol": "tcp", "ports": 80}))
    many = rendered(
        firewall, ingress(**{f"r{n}": {"protocol": "tcp", "ports": 1000 + n} for n in range(500)})
    )
    for chain in ("INPUT", "FORWARD"):
        assert lines(few.rules, Table.FILTER, chain) == lines(many.rules, Table.FILTER, chain)


def test_ingress_matches_where_the_packet_was_sent() -> None:
    artifacts = rendered(
        firewall, ingress(web={"protocol": "tcp", "ports": "80-81", "sources": ["192.0.2.0/24"]})
    )
    chain = ingress_chain(CONTEXT.public_addresses()[0])
    assert lines(artifacts.rules, Table.FILTER, chain)[0] == (
        f"-A {chain} -s 192.0.2.0/24 -p tcp -m conntrack --ctorigdstport 80:81 -j ACCEPT"
    )
    assert f"-A FORWARD -m conntrack --ctstate DNAT --ctorigdst 203.0.113.10 -j {chain}" in lines(
        artifacts.rules, Table.FILTER, "FORWARD"
    )


def test_several_sources_are_one_rule_and_one_set() -> None:
    rule = {"protocol": "tcp", "ports": 80, "sources": ["192.0.2.0/24", "198.51.100.7/32"]}
    artifacts = rendered(firewall, ingress(a=rule, b={**rule, "ports": 81}))
    assert len(artifacts.sets) == 1
    address_set = artifacts.sets[0]
    assert address_set.type is SetType.NET
    assert address_set.members == {"192.0.2.0/24", "198.51.100.7"}
    chain = lines(artifacts.rules, Table.FILTER, "in4-203.0.113.10")
    assert len(chain) == 3
    assert f"--match-set {address_set.name} src" in chain[0]


def test_egress_policy_allow_has_exceptions_that_drop() -> None:
    artifacts = rendered(
        firewall, {"egress": {"policy": "allow", "rules": {"m": {"protocol": "tcp", "ports": 25}}}}
    )
    assert lines(artifacts.rules, Table.FILTER, "egress") == [
        "-A egress -p tcp -m tcp --dport 25 -j DROP",
        "-A egress -j ACCEPT",
    ]


def test_egress_policy_deny_has_exceptions_that_accept() -> None:
    rule = {"protocol": "udp", "ports": 53, "destinations": ["192.0.2.53/32"]}
    artifacts = rendered(firewall, {"egress": {"policy": "deny", "rules": {"dns": rule}}})
    assert lines(artifacts.rules, Table.FILTER, "egress") == [
        "-A egress -d 192.0.2.53/32 -p udp -m udp --dport 53 -j ACCEPT",
        "-A egress -j DROP",
    ]
    assert lines(artifacts.rules, Table.FILTER, "egress", Family.V6) == ["-A egress -j DROP"]


def test_guests_speak_with_addresses_of_their_network_only() -> None:
    artifacts = rendered(firewall, {})
    assert lines(artifacts.rules, Table.RAW, "spoof-eth0") == [
        "-A spoof-eth0 -s 10.1.1.0/24 -j RETURN",
        "-A spoof-eth0 -s 0.0.0.0/32 -j RETURN",
        "-A spoof-eth0 -j DROP",
    ]
    assert "-A PREROUTING -s 10.1.1.0/24 -i eth2 -j DROP" in lines(
        artifacts.rules, Table.RAW, "PREROUTING"
    )
    off = rendered(firewall, {"anti_spoofing": False})
    assert not [rule for rule in off.rules if rule.table is Table.RAW]


def test_ping_is_answered_to_guests_and_outside_only_if_asked() -> None:
    quiet = rendered(firewall, {})
    assert "-A INPUT -i eth0 -p icmp -m icmp --icmp-type 8 -j ACCEPT" in lines(
        quiet.rules, Table.FILTER, "INPUT"
    )
    asked = rendered(firewall, ingress(ping={"protocol": "icmp", "icmp_type": 8}))
    chain = lines(asked.rules, Table.FILTER, "in4-203.0.113.10")
    assert chain[0] == "-A in4-203.0.113.10 -p icmp -m icmp --icmp-type 8 -j ACCEPT"


def test_neighbour_discovery_is_open_or_there_is_no_ipv6() -> None:
    artifacts = rendered(firewall, {})
    text = " ".join(lines(artifacts.rules, Table.FILTER, "INPUT", Family.V6))
    for kind in (133, 134, 135, 136):
        assert f"--icmpv6-type {kind}" in text


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (ingress(a={"protocol": "icmp", "ports": 80}), "/firewall/ingress/203.0.113.10/a/ports"),
        (ingress(a={"protocol": "all", "ports": 80}), "/firewall/ingress/203.0.113.10/a/ports"),
        (
            ingress(a={"protocol": "tcp", "icmp_type": 8}),
            "/firewall/ingress/203.0.113.10/a/icmp_type",
        ),
        (
            ingress(a={"protocol": "icmp", "icmp_code": 0}),
            "/firewall/ingress/203.0.113.10/a/icmp_code",
        ),
        (ingress(a={"protocol": "icmpv6"}), "/firewall/ingress/203.0.113.10/a/protocol"),
        (
            ingress(a={"protocol": "tcp", "sources": ["2001:db8::/32"]}),
            "/firewall/ingress/203.0.113.10/a/sources",
        ),
        ({"ingress": {"192.0.2.1": {}}}, "/firewall/ingress/192.0.2.1"),
        (
            {
                "egress": {
                    "rules": {
                        "a": {
                            "protocol": "tcp",
                            "sources": ["10.1.1.0/24"],
                            "destinations": ["2001:db8::/32"],
                        }
                    }
                }
            },
            "/firewall/egress/rules/a",
        ),
    ],
)
def test_what_makes_no_sense_is_a_problem_at_its_path(value: dict[str, Any], path: str) -> None:
    assert [problem.path for problem in problems(firewall, value)] == [path]
