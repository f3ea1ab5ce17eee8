"""What goes out of a console proxy, as iptables reads it."""

from typing import Any

from agent.engine.model import Family, Table
from agent.services import console
from agent.services.console.wall import CHAIN
from tests.unit.services.rules import lines
from tests.unit.services.sites import rendered

USER = "-m owner --uid-owner sysvm-console-proxy"


def out(section: dict[str, Any], chain: str, family: Family = Family.V4) -> list[str]:
    return lines(rendered("console", section).rules, Table.FILTER, chain, family)


def test_what_the_proxy_opens_goes_to_screens_and_nowhere_else() -> None:
    section = {"networks": ["10.2.0.0/24"], "ports": ["5900-6900", "443"]}
    assert out(section, CHAIN) == [
        f"-A {CHAIN} -d 10.2.0.0/24 -p tcp -m tcp --dport 5900:6900 -j ACCEPT",
        f"-A {CHAIN} -d 10.2.0.0/24 -p tcp -m tcp --dport 443 -j ACCEPT",
        f"-A {CHAIN} -j DROP",
    ]
    assert out(section, CHAIN, Family.V6) == [f"-A {CHAIN} -j DROP"]


def test_answers_pass_and_guests_are_reached_by_nobody() -> None:
    section = {"networks": ["10.0.0.0/8"], "guest_networks": ["10.9.0.0/16", "fd00:9::/64"]}
    established = "-A OUTPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    four, six = out(section, "OUTPUT"), out(section, "OUTPUT", Family.V6)
    assert four[0] == six[0] == established
    # The guest NIC's own network with those that are named.
    assert "-m set --match-set list4-" in four[1]
    assert four[1].endswith(" dst -j DROP")
    (members,) = (s.members for s in rendered("console", section).sets if s.family is Family.V4)
    assert members == {"10.9.0.0/16", "10.1.1.0/24"}
    assert "-m set --match-set list6-" in six[1]
    assert four[2] == six[2] == f"-A OUTPUT {USER} -j {CHAIN}"
    assert len(four) == len(six) == 3


def test_several_networks_are_a_set() -> None:
    section = {"networks": ["10.2.0.0/24", "10.3.0.0/24"], "ports": ["5900-6900"]}
    first, last = out(section, CHAIN)
    assert "-p tcp" in first
    assert "--dport 5900:6900 -m set --match-set list4-" in first
    assert first.endswith(" dst -j ACCEPT")
    assert last == f"-A {CHAIN} -j DROP"


def test_the_user_is_that_of_the_unit() -> None:
    assert console.OWNER.partition(":")[0] == console.USER
