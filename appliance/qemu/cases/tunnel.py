"""IPsec in the kernel between two system VMs."""

import json
import re
from typing import Any

from appliance.lab.node import Guest
from appliance.lab.topologies import SITES, SystemVm
from appliance.lab.wait import wait_until
from appliance.qemu.bench import READY, Bench
from appliance.qemu.cases.check import Checks, check, same
from appliance.qemu.cloud import GUEST, Cloud, cloud
from appliance.qemu.disk import overlay
from appliance.qemu.image import image_format
from appliance.qemu.machine import Machine

_SITES = {"vm": ("10.1", "203.0.113.10", "branch"), "vmb": ("10.2", "203.0.113.20", "head")}
_NEAR, _FAR = "10.1.1.10", "10.2.1.10"


def tunnel(bench: Bench) -> Checks:
    """IPsec in the kernel between two system VMs: traffic, untranslated, through a rekey."""
    bench.discard()
    bench.cloud.scrap(GUEST)
    with cloud(bench.image, f"{bench.cloud.name}-two", SITES) as sites:
        for node in _SITES:
            disk = overlay(bench.image, image_format(bench.image), sites.folder / f"{node}.qcow2")
            vm = sites.machine(sites.system_vm(disk, node=node))
            vm.start()
            vm.wait_shell(READY)
            vm.wait_success(["sysvmctl", "status"], READY, f"the agent of {node}")
        for node in reversed(_SITES):
            document = json.dumps(site(sites, node)).encode()
            sites.machines[node].run(["sh", "-c", "cat >/run/site.json"], stdin=document)
            pushed = sites.machines[node].run(["sysvmctl", "apply", "/run/site.json"], 180)
            yield check(f"{node} takes its document", pushed.returncode == 0, pushed.text)
        near, far = sites.guests["vm1"], sites.guests["vm3"]
        settle(near, _NEAR, "10.1.1.1")
        settle(far, _FAR, "10.2.1.1")
        wait_until(lambda: near.pings(_FAR), 120, "a packet through the tunnel", every=1)
        yield check("the tunnel carries packets", True)  # noqa: FBT003
        with far.serve(80):
            seen = near.get(f"http://{_FAR}/").text.strip()
        yield same("and does not translate them", f"vm3 sees {_NEAR}", seen)
        first = sites.machines["vm"]
        before = spis(first)
        yield check("ESP is the kernel's", len(before) >= 2, before)
        with near.popen(["ping", "-n", "-q", "-i", "0.2", "-c", "100", "-W", "2", _FAR]) as ping:
            first.run(["swanctl", "--rekey", "--child", "branch"], 120)
            said = ping.communicate(timeout=120)[0].decode()
        received = int((re.findall(r"(\d+) received", said) or ["0"])[0])
        yield check(
            "no more than one packet of 100 is lost while keys change", received >= 99, said
        )
        wait_until(lambda: not spis(first) & before, 60, "the old keys being gone", every=1)
        yield check("the keys have changed", True)  # noqa: FBT003
        yield check("the tunnel carries packets with the new ones", near.pings(_FAR, count=3))


def site(sites: Cloud, node: str) -> dict[str, Any]:
    net, own, name = _SITES[node]
    far_net, far, _ = next(value for key, value in _SITES.items() if key != node)
    described = sites.topology.nodes[node]
    if not isinstance(described, SystemVm):
        raise TypeError(f"{node} is no system VM")
    inner, control, outer = (nic.mac for nic in described.nics)
    public = {"role": "public", "addresses": {f"{own}/24": {}}, "gateway": "203.0.113.1"}
    return {
        "schema": 1,
        "generation": 1,
        "role": "router",
        "site": {
            "hostname": described.hostname,
            "nics": {
                inner: {"role": "guest", "addresses": {f"{net}.1.1/24": {}}},
                control: {"role": "control", "addresses": {described.control_address: {}}},
                outer: public,
            },
        },
        "nat": {"source_address": own},
        "ipsec": {
            "connections": {
                name: {
                    "local_address": own,
                    "peer_address": far,
                    "psk": "correct-horse-battery-staple",
                    "local_subnets": [f"{net}.1.0/24"],
                    "remote_subnets": [f"{far_net}.1.0/24"],
                    **({"start": "passive"} if name == "head" else {}),
                }
            }
        },
    }


def settle(node: Guest, address: str, gateway: str) -> None:
    """Give a guest what DHCP would give it."""
    node.run(["ip", "address", "replace", f"{address}/24", "dev", node.nic.name])
    node.run(["ip", "route", "replace", "default", "via", gateway])


def spis(vm: Machine) -> set[str]:
    """The numbers (SPI) of the kernel's security associations."""
    return set(re.findall(r"spi (0x[0-9a-f]+)", vm.run(["ip", "xfrm", "state"]).text))
