"""A cloud as an operator has it, in a lab of the topology console.

A manager on the management node, a router, two console proxies, three VMs with their screens.
Whatever the VMs run was pushed by the manager, to which they send their events and heartbeats, and
at which the proxies register themselves.
"""

import json
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.document.document import merge
from appliance import blobs, data
from appliance.errors import ApplianceError
from appliance.lab import consoles, managed, state
from appliance.lab.cloud import Lab
from appliance.lab.managed import Managed
from appliance.lab.vm import SystemVM
from appliance.lab.wait import wait_until

TOPOLOGY = "console"
OWNER = "alice"
LOCAL = ".console.localhost"  # which every browser takes for its own machine (RFC 6761)
GUEST = {"address": "10.1.1.12", "name": "vm3"}  # the one that the example does not have
_WAIT = 90.0  # seconds


@dataclass(frozen=True, slots=True)
class Estate:
    """What was started. `port` is this machine's way to the proxies; 443 on the lab's internet."""

    managed: Managed
    port: int = 443


def start(lab: Lab, *, here: bool = False) -> Estate:
    """Make such a cloud of a lab whose agents answer. Raises ApplianceError.

    With `here`, links lead a browser of this machine to the proxies; without, one on the lab's
    internet.
    """
    if lab.topology.name != TOPOLOGY:
        raise ApplianceError(f"lab {lab.name} is not of topology {TOPOLOGY}")
    if here:
        listener, port = consoles.doorway()
        with listener:
            proxies = consoles.proxies_of(lab)
            consoles.lead(lab, listener, [consoles.public_address(lab, vm) for vm in proxies])
        made = Estate(managed.start(lab, proxies=False), port)
    else:
        made = Estate(managed.start(lab, proxies=False))
    with ThreadPoolExecutor(4) as threads:
        steps = [threads.submit(_begin, made, vm) for vm in lab.vms.values()]
        steps.append(threads.submit(_screens, made))
        for step in steps:
            step.result()
    for guest in lab.guests.values():
        guest.dhcp()
    wait_until(lambda: _heard(made.managed), _WAIT, "the manager hears proxies and VMs")
    return made


def document(made: Estate, vm: SystemVM) -> dict[str, Any]:
    """What this VM runs, before it is changed."""
    lab = made.managed.lab
    told = _telling(made.managed)
    if vm.spec.role == consoles.ROLE:
        here = made.port != 443
        suffix, port = (LOCAL, {"public_port": made.port}) if here else (managed.SUFFIX, {})
        link = managed.link(lab, vm, f"{suffix}:{made.port}" if here else suffix)
        told["events"]["registration"] = {"zone": managed.ZONE, "link": link}
        return consoles.document(lab, {"console": {"domain": f"*{suffix}", **port}} | told, vm=vm)
    value: dict[str, Any] = json.loads((data.examples() / "router.json").read_bytes())
    host = {"dhcp_dns": {"hosts": {lab.guests[GUEST["name"]].mac: GUEST}}}
    result: dict[str, Any] = merge(merge(value, host), told)
    return result


def push(made: Estate, vm: SystemVM, change: Mapping[str, Any] | None = None) -> Any:
    """Have the manager push what this VM runs, with this merge patch, in the next generation."""
    value = merge(state.read(_kept(made.managed.lab, vm)), change or {})
    path = f"/v1/vms/{vm.spec.hostname}"
    last = made.managed.must("GET", path)["generation"] or 0
    return made.managed.must("PUT", f"{path}/document", {**value, "generation": last + 1})


def take_over(made: Estate, lost: SystemVM, by: SystemVM) -> Any:
    """Have a proxy answer at the address of another one as well, as whoever moves addresses does.

    `push` gives it back, before that other one may come up again.
    """
    lab = made.managed.lab
    card = next(nic.mac for nic in by.spec.nics if nic.network == "public")
    address = f"{consoles.public_address(lab, lost)}/24"
    return push(made, by, {"site": {"nics": {card: {"addresses": {address: {}}}}}})


def _kept(lab: Lab, vm: SystemVM) -> Path:
    """The document that a VM runs, for a person to change and push."""
    return lab.folder / "manager" / f"{vm.spec.hostname}.json"


def _telling(made: Managed) -> dict[str, Any]:
    """Where events and heartbeats go."""
    url = f"https://{made.address}:{managed.EVENTS}/v1/events"
    push = {"url": url, "ca": made.lab.keys.authority.identity.certificate}
    beat = {
        "address": made.address, "port": managed.HEARTBEATS, "key": secrets.token_hex(32),
        "interval": 5,
    }  # fmt: skip
    return {"events": {"push": push, "heartbeat": beat}}


def _begin(made: Estate, vm: SystemVM) -> None:
    if vm.spec.role != consoles.ROLE:
        for path in blobs.beside(data.examples() / "router.json"):
            made.managed.upload(path.read_bytes())
    value = document(made, vm)
    state.write(_kept(made.managed.lab, vm), value)
    push(made, vm)


def _screens(made: Estate) -> None:
    """Start the guests' screens, and tell the manager where they are."""
    lab = made.managed.lab
    for guest in lab.guests:
        screen = consoles.screen_of(lab, guest)
        value = {
            "owner": OWNER, "zone": managed.ZONE, "title": guest,
            "target": {"address": screen.address, "port": screen.port},
            "credentials": screen.credentials,
        }  # fmt: skip
        made.managed.must("PUT", f"/v1/screens/{guest}", value)


def _heard(made: Managed) -> bool:
    proxies = made.must("GET", "/v1/proxies")
    vms = made.must("GET", "/v1/vms")
    running = [one["condition"] == "running" for one in proxies]
    there = len(running) == len(consoles.proxies_of(made.lab))
    return there and all(running) and all(one["running"] for one in vms)
