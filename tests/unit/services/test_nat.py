"""NAT: what its rules are, and what its section may not say."""

from typing import Any

import pytest

from agent.engine.model import Claim, Ports, Protocol, Table
from agent.services import nat
from tests.unit.services.rules import lines, problems, rendered


def forward(**fields: Any) -> dict[str, Any]:
    value = {"address": "203.0.113.10", "protocol": "tcp", "ports": 80, "to": "10.1.1.10", **fields}
    return {"forwards": {"web": value}}


def test_guests_go_out_with_the_chosen_address() -> None:
    artifacts = rendered(nat, {"source_address": "203.0.113.11"})
    assert lines(artifacts.rules, Table.NAT, "POSTROUTING")[-1] == (
        "-A POSTROUTING -s 10.1.1.0/24 -o eth2 -j SNAT --to-source 203.0.113.11"
    )


@pytest.mark.parametrize(
    ("fields", "target"),
    [
        ({}, "10.1.1.10"),
        ({"to_ports": 8080}, "10.1.1.10:8080"),
        ({"ports": "8000-8009"}, "10.1.1.10"),
        ({"ports": "8000-8009", "to_ports": "9000-9009"}, "10.1.1.10:9000-9009/8000"),
        ({"ports": "8000-8009", "to_ports": 9000}, "10.1.1.10:9000"),
    ],
)
def test_forward_leads_to_the_guest(fields: dict[str, Any], target: str) -> None:
    artifacts = rendered(nat, forward(**fields))
    chain = lines(artifacts.rules, Table.NAT, "to4-203.0.113.10")
    assert chain[0].endswith(f"-j DNAT --to-destination {target}")
    assert "-A PREROUTING -d 203.0.113.10/32 -j to4-203.0.113.10" in lines(
        artifacts.rules, Table.NAT, "PREROUTING"
    )


def test_forward_for_some_matches_its_sources() -> None:
    artifacts = rendered(nat, forward(sources=["192.0.2.0/24", "198.51.100.0/24"]))
    assert "--match-set" in lines(artifacts.rules, Table.NAT, "to4-203.0.113.10")[0]
    assert len(artifacts.sets) == 1


def test_static_nat_leads_in_and_out_before_source_nat() -> None:
    artifacts = rendered(
        nat,
        {"source_address": "203.0.113.10", "static": {"203.0.113.11": {"to": "10.1.1.12"}}},
    )
    assert lines(artifacts.rules, Table.NAT, "POSTROUTING")[2:] == [
        "-A POSTROUTING -s 10.1.1.12/32 -o eth2 -j SNAT --to-source 203.0.113.11",
        "-A POSTROUTING -s 10.1.1.0/24 -o eth2 -j SNAT --to-source 203.0.113.10",
    ]
    assert lines(artifacts.rules, Table.NAT, "to4-203.0.113.11") == [
        "-A to4-203.0.113.11 -j DNAT --to-destination 10.1.1.12"
    ]


def test_guests_reach_their_own_public_address() -> None:
    artifacts = rendered(nat, forward())
    assert lines(artifacts.rules, Table.NAT, "POSTROUTING")[:1] == ["-A POSTROUTING -j tunnels"]
    assert lines(artifacts.rules, Table.NAT, "POSTROUTING")[1] == (
        "-A POSTROUTING -s 10.1.1.0/24 -d 10.1.1.0/24 -o eth0 -m conntrack --ctstate DNAT "
        "-j SNAT --to-source 10.1.1.1"
    )


def test_nat_opens_nothing() -> None:
    artifacts = rendered(nat, forward())
    assert {rule.table for rule in artifacts.rules} == {Table.NAT}


def test_ports_are_claimed() -> None:
    artifacts = rendered(nat, forward())
    assert artifacts.claims == (
        Claim(artifacts.claims[0].address, Protocol.TCP, Ports(80, 80), "/nat/forwards/web"),
    )


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"source_address": "192.0.2.1"}, "/nat/source_address"),
        (forward(address="192.0.2.1"), "/nat/forwards/web/address"),
        (forward(to="192.0.2.1"), "/nat/forwards/web/to"),
        (forward(to="10.1.1.1"), "/nat/forwards/web/to"),
        (forward(ports="80-89", to_ports="90-91"), "/nat/forwards/web/to_ports"),
        ({"static": {"192.0.2.1": {"to": "10.1.1.12"}}}, "/nat/static/192.0.2.1"),
        ({"static": {"203.0.113.11": {"to": "192.0.2.1"}}}, "/nat/static/203.0.113.11/to"),
        (
            {"source_address": "203.0.113.11", "static": {"203.0.113.11": {"to": "10.1.1.12"}}},
            "/nat/static/203.0.113.11",
        ),
        (
            {
                "static": {
                    "203.0.113.10": {"to": "10.1.1.12"},
                    "203.0.113.11": {"to": "10.1.1.12"},
                }
            },
            "/nat/static/203.0.113.11/to",
        ),
    ],
)
def test_what_makes_no_sense_is_a_problem_at_its_path(value: dict[str, Any], path: str) -> None:
    assert [problem.path for problem in problems(nat, value)] == [path]
