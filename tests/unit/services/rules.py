"""What tests of the firewall and of NAT need: a router's context, and its rules as text."""

from collections.abc import Sequence
from ipaddress import IPv4Address, ip_interface
from typing import Any

from pydantic import TypeAdapter

from agent.document.site import NicRole
from agent.engine import firewall as text
from agent.engine.model import Artifacts, Family, Problem, Rule, Table
from agent.roles import Role
from agent.services import Context, Nic, Service

CONTEXT = Context(
    role=Role.ROUTER,
    hostname="r-1",
    domain="net1.example.internal",
    nics=(
        Nic("eth0", "02:00:00:00:00:01", NicRole.GUEST, (ip_interface("10.1.1.1/24"),)),
        Nic("eth1", "02:00:00:00:00:02", NicRole.CONTROL, (ip_interface("169.254.10.2/16"),)),
        Nic(
            "eth2",
            "02:00:00:00:00:03",
            NicRole.PUBLIC,
            (
                ip_interface("203.0.113.10/24"),
                ip_interface("203.0.113.11/24"),
                ip_interface("2001:db8::10/64"),
            ),
            gateway=IPv4Address("203.0.113.1"),
        ),
    ),
)


def section(service: Service, value: dict[str, Any]) -> Any:
    return TypeAdapter(service.Section).validate_python(value)


def rendered(service: Service, value: dict[str, Any]) -> Artifacts:
    parsed = section(service, value)
    problems = list(service.lint(parsed, CONTEXT))
    assert not problems, problems
    return service.render(parsed, CONTEXT)


def problems(service: Service, value: dict[str, Any]) -> list[Problem]:
    return sorted(service.lint(section(service, value), CONTEXT))


def lines(rules: Sequence[Rule], table: Table, chain: str, family: Family = Family.V4) -> list[str]:
    """The chain's rules as iptables-restore would read them, without comments."""
    found = []
    for rule in rules:
        if (rule.table, rule.chain, rule.family) == (table, chain, family):
            words = text.line(rule)
            if rule.comment:
                words = words.replace(f' -m comment --comment "{rule.comment}"', "")
            found.append(words)
    return found
