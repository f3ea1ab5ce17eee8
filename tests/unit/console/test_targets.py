"""Targets: hypervisors' networks and ports, and never the guest's own."""

from ipaddress import ip_address, ip_network

import pytest

from agent.console.targets import PortSpan, Target, TargetKind, TargetRules, objection

RULES = TargetRules(
    networks=(ip_network("10.0.0.0/8"), ip_network("fd00:1::/32"), ip_network("0.0.0.0/0")),
    ports=(PortSpan(5900, 6900), PortSpan(443, 443)),
    forbidden=(ip_network("10.1.1.0/24"), ip_network("10.0.9.9/32")),
)


def target(address: str, port: int = 5901) -> Target:
    return Target(kind=TargetKind.VNC, address=ip_address(address), port=port)


@pytest.mark.parametrize("address", ["10.2.0.7", "fd00:1::7", "10.1.2.1", "192.0.2.1"])
def test_a_hypervisor_may_be_reached(address: str) -> None:
    assert objection(target(address), RULES) is None


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.1.1.10", "guest network"),
        ("10.0.9.9", "the VM's own"),
        ("127.0.0.1", "loopback"),
        ("127.8.8.8", "loopback"),
        ("::1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("0.0.0.0", "no address"),  # noqa: S104 - a value, nothing listens
        ("::", "no address"),
        ("::ffff:10.2.0.7", "IPv6 clothing"),
        ("2002:0a02:0007::1", "IPv6 clothing"),
        ("fd00:2::1", "none of the hypervisors'"),
    ],
)
def test_what_is_never_reached(address: str, why: str) -> None:
    assert why in str(objection(target(address), RULES))


@pytest.mark.parametrize("port", [22, 5899, 6901, 8443, 444])
def test_other_ports_are_refused(port: int) -> None:
    assert "port" in str(objection(target("10.2.0.7", port), RULES))


def test_hyper_v_is_named_for_what_it_is() -> None:
    for port in (2179, 3389):
        assert "RDP's (Hyper-V), which is not built" in str(
            objection(target("10.2.0.7", port), RULES)
        )
    listed = TargetRules(networks=(ip_network("10.2.0.0/24"),), ports=(PortSpan(3389, 3389),))
    assert objection(target("10.2.0.7", 3389), listed) is None  # VNC, at an unusual port


def test_without_networks_nothing_may_be_reached() -> None:
    nothing = TargetRules(networks=(), ports=(PortSpan(1, 65535),))
    assert objection(target("10.2.0.7"), nothing) is not None
