"""Constrained types: what is taken, what is refused, and what the message says."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from agent.document import types
from agent.engine.model import Ports

REFUSED = [
    (types.Ipv4, "010.0.0.1", "is not an IPv4 address"),
    (types.Ipv4, "1.2.3", "is not an IPv4 address"),
    (types.Ipv4, 16909060, "is not an IPv4 address"),
    (types.Ipv4, "10.0.0.1/24", "is not an IPv4 address"),
    (types.Ipv4, " 10.0.0.1", "is not an IPv4 address"),
    (types.Ipv4, "١٠.0.0.1", "is not an IPv4 address"),  # noqa: RUF001
    (types.Ipv6, "fe80::1%eth0", "has a zone"),
    (types.AnyAddress, "::ffff:1.2.3.4", "IPv6 clothing"),
    (types.Ipv6, "2001:DB8::1", "canonical"),
    (types.Ipv4Net, "10.0.0.5/24", "host bits"),
    (types.AnyNetwork, "10.0.0.0", "is not an IP network"),
    (types.AnyNetwork, "10.0.0.0/255.255.255.0", "canonical"),
    (types.AnyInterface, "10.1.1.1", "prefix length"),
    (types.Mac, "02:00:4C:00:00:01", "canonical"),
    (types.Mac, "02-00-4c-00-00-01", "canonical"),
    (types.Mac, "01:00:5e:00:00:01", "multicast"),
    (types.Mac, "02:00:4c:00:00", "is not a MAC address"),
    (types.PortRange, 0, "is not a port"),
    (types.PortRange, 65536, "is not a port"),
    (types.PortRange, "90-80", "ends before it begins"),
    (types.PortRange, True, "is not a port"),
    (types.PortRange, "080", "is not a port"),
    (types.PortRange, "80 ", "is not a port"),
    (types.PortNumber, "80", "valid integer"),
    (types.PortNumber, True, "valid integer"),
    (types.HostName, "vm_1", "pattern"),
    (types.HostName, "vm1\n", "pattern"),
    (types.HostName, "-vm1", "pattern"),
    (types.DomainName, "example.com.", "pattern"),
    (types.Id, ".hidden", "pattern"),
]


@pytest.mark.parametrize(("kind", "value", "message"), REFUSED)
def test_refused(kind: Any, value: object, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value)
    assert message in caught.value.errors()[0]["msg"]


def test_hint_says_what_would_be_right() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(types.Ipv4Net).validate_python("10.0.0.5/24")
    assert caught.value.errors()[0]["ctx"]["hint"] == "10.0.0.0/24"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (types.Ipv4, "10.1.1.10"),
        (types.AnyAddress, "2001:db8::10"),
        (types.AnyNetwork, "0.0.0.0/0"),
        (types.AnyInterface, "10.1.1.1/24"),
        (types.Mac, "02:00:4c:00:00:01"),
        (types.HostName, "vm1"),
        (types.DomainName, "net1.example.internal"),
    ],
)
def test_taken_and_written_the_same(kind: Any, value: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    assert adapter.dump_python(adapter.validate_python(value), mode="json") == value


def test_ports() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(types.PortRange)
    assert adapter.validate_python(80) == Ports(80, 80)
    assert adapter.validate_python("8000-8100") == Ports(8000, 8100)
