"""The topologies fit into what the kernel and the lab can hold."""

import ipaddress
import re

import pytest

from appliance.lab import network
from appliance.lab.topologies import TOPOLOGIES, Management, SystemVm, Topology

_LONGEST_INTERFACE = 15  # IFNAMSIZ, less its zero byte

every = pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)


@every
def test_names_fit_the_kernel(topology: Topology) -> None:
    for name in topology.networks:
        assert len(f"br-{name}") <= _LONGEST_INTERFACE
    for node, spec in topology.nodes.items():
        assert re.fullmatch(r"[a-z][a-z0-9]*", node)
        assert node != network.SWITCH
        assert all(len(f"{node}-{nic.name}") <= _LONGEST_INTERFACE for nic in spec.nics)


@every
def test_every_mac_is_unicast_and_used_once(topology: Topology) -> None:
    macs = [nic.mac for spec in topology.nodes.values() for nic in spec.nics]
    assert len(set(macs)) == len(macs)
    assert not [mac for mac in macs if int(mac[:2], 16) & 1]


@every
def test_every_nic_is_on_a_network_that_there_is(topology: Topology) -> None:
    used = {nic.network for spec in topology.nodes.values() for nic in spec.nics}
    assert used == set(topology.networks)


@every
def test_management_reaches_the_control_address(topology: Topology) -> None:
    (management,) = (spec for spec in topology.nodes.values() if isinstance(spec, Management))
    own = ipaddress.ip_interface(management.nics[0].addresses[0])
    for spec in topology.nodes.values():
        if isinstance(spec, SystemVm):
            assert ipaddress.ip_interface(spec.control_address).network == own.network
            assert spec.control_nic in {nic.name for nic in spec.nics}
