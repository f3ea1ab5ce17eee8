"""What listens, and what of it answers from each side."""

import base64
import json
import re

from appliance.lab.faults import example
from appliance.lab.node import Node
from appliance.qemu.bench import Bench
from appliance.qemu.cases.check import Checks, check, no_failed_units
from appliance.qemu.cases.sides import CONTROL, FORWARDED, GATEWAY, PUBLIC, SHOP, SSH, STATIC
from appliance.qemu.cloud import VM
from appliance.qemu.machine import Machine

# Sockets that are not bound to loopback, as `ss` shows them: protocol, address, port.
_MAY_LISTEN = {
    ("udp", "10.1.1.1", 53), ("tcp", "10.1.1.1", 53), ("tcp", "10.1.1.1", 80),
    ("udp", "0.0.0.0", 67),  # noqa: S104  # dnsmasq: bound to the guests' NIC
    ("tcp", SHOP, 80), ("tcp", CONTROL, 8443), ("tcp", CONTROL, SSH),
}  # fmt: skip


_ALL, _LOW = "1-65535", "1-10000"


def listeners(bench: Bench) -> Checks:
    """What listens, and what of it answers from each side: what may, and no more."""
    vm = bench.serving()
    found = _listening(vm)
    yield check("listens on nothing else", found <= _MAY_LISTEN, found - _MAY_LISTEN)
    raising = vm.run(["find", "/", "-xdev", "-type", "f", "-perm", "/6000"]).text.split()
    yield check("no file of the root raises whoever runs it", not raising, raising)
    cloud = bench.cloud
    reached = _entries(bench)
    yield check("without an operator's key, management alone gets in", reached == [8443], reached)
    yield from _push_key(bench)
    reached = _entries(bench)
    yield check("with one, operators do as well", reached == [8443, SSH], reached)
    cloud.neighbour.dhcp()
    for node, address, ports, may in (
        (cloud.internet, PUBLIC, _ALL, {FORWARDED}),
        (cloud.internet, SHOP, _LOW, {80}),
        (cloud.internet, STATIC, _LOW, set()),
        (cloud.manager, CONTROL, _ALL, {8443, SSH}),
        (cloud.neighbour, GATEWAY, _LOW, {53, 80}),
        (cloud.neighbour, CONTROL, _LOW, set()),
        (cloud.neighbour, PUBLIC, _LOW, {FORWARDED}),
    ):
        answered = scan(node, address, ports)
        what = f"from {node.name}, {address} answers on {sorted(may) or 'nothing'} at most"
        yield check(what, answered <= may, sorted(answered))
    six = _link_local(vm)
    for node, network in ((cloud.internet, "public"), (cloud.neighbour, "guest")):
        address = six.get(network, "")
        answered = scan(node, address, _LOW) if address else set()
        may = {53} if network == "guest" else set()
        yield check(
            f"from {node.name}, over IPv6, {sorted(may) or 'nothing'} at most answers",
            answered <= may,
            sorted(answered),
        )
    bench.push_example()
    reached = _entries(bench)
    yield check("without it again, management alone", reached == [8443], reached)


def _entries(bench: Bench) -> list[int]:
    """The ports by which one gets in from the control network."""
    return [port for port in (22, 8443, SSH) if bench.cloud.manager.reaches(CONTROL, port)]


def _push_key(bench: Bench) -> Checks:
    """Push the example with an operator's key, which nobody has the other half of."""
    parts = (b"ssh-ed25519", bytes(32))
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    key = f"ssh-ed25519 {base64.b64encode(blob).decode()} operator@example"
    answer = bench.cloud.push({**example(0), "ssh": {"authorized_keys": [key]}})
    yield check("takes an operator's key", answer.status in (200, 201), answer.text)


def without_ssh(bench: Bench) -> Checks:
    """An image that was built without SSH: it serves, and there is nothing to log in to."""
    vm = bench.serving()
    yield from no_failed_units("without SSH", vm)
    found = _listening(vm)
    allowed = _MAY_LISTEN - {("tcp", CONTROL, SSH)}
    yield check("listens on nothing else", found <= allowed, found - allowed)
    yield from _push_key(bench)
    yield from no_failed_units("with a key, without SSH", vm)
    reached = _entries(bench)
    yield check("management alone gets in", reached == [8443], reached)
    there = vm.run(["sh", "-c", "command -v sshd"], check=False).text
    yield check("no SSH server is in it", not there, there)


def _listening(vm: Machine) -> set[tuple[str, str, int]]:
    """What is bound to more than loopback."""
    found = set()
    for line in vm.run(["ss", "-Hlntu"]).text.splitlines():
        words = line.split()
        address, _, port = words[4].rpartition(":")
        address = address.partition("%")[0].strip("[]")
        if not address.startswith(("127.", "::1", "fe80")):
            found.add((words[0], address, int(port)))
    return found


def scan(node: Node, address: str, ports: str) -> set[int]:
    """The TCP ports of an address, of these, that answer a node."""
    # A closed VM answers nothing, so the rate is all that bounds the time.
    quick = ("-n", "-Pn", "-sS", "--min-rate", "4000", "--max-retries", "0")
    six, target = (("-6",), f"{address}%eth0") if ":" in address else ((), address)
    said = node.run(["nmap", *quick, *six, "-p", ports, "-oG", "-", target], 180).text
    return {int(port) for port in re.findall(r"(\d+)/open/", said)}


def _link_local(vm: Machine) -> dict[str, str]:
    """The link-local address of each NIC, by its network."""
    macs = {nic.mac: nic.network for nic in VM.nics}
    found = {}
    for link in json.loads(vm.run(["ip", "-j", "-6", "address"]).text):
        mac = link.get("address", "")
        shown = json.loads(vm.run(["ip", "-j", "link", "show", link["ifname"]]).text)
        mac = shown[0].get("address", mac)
        for address in link["addr_info"]:
            if address["scope"] == "link" and mac in macs:
                found[macs[mac]] = address["local"]
    return found
