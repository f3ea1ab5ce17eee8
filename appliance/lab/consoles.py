"""A console proxy in a lab: made one, told of a session, and reached from this machine's browser.

What management does, in small: the document with a certificate, a one-time secret of which the
proxy gets the SHA-256, the link that has the secret behind its `#`.
"""

import hashlib
import json
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from agent.document.document import merge
from appliance import data
from appliance.errors import ApplianceError
from appliance.lab.cloud import Lab
from appliance.lab.http import Response
from appliance.lab.hypervisor import Screen
from appliance.lab.process import spawn
from appliance.lab.vm import SystemVM

ROLE = "console-proxy"
NAME = "console.localhost"  # which every browser takes for its own machine (RFC 6761)
PORT = 6443  # of this machine, where it is free
VALID = 600  # seconds that a link waits for its browser


@dataclass(frozen=True, slots=True)
class Link:
    """A console's link, which opens once."""

    session: str
    url: str


def proxy_of(lab: Lab) -> SystemVM:
    """The lab's console proxy. Raises ApplianceError where there is none."""
    found = next((vm for vm in lab.vms.values() if vm.spec.role == ROLE), None)
    if found is None or not lab.hypervisors:
        raise ApplianceError(
            f"lab {lab.name} has no console proxy",
            "sysvm lab up --topology proxy --name another",
        )
    return found


def proxies_of(lab: Lab) -> tuple[SystemVM, ...]:
    """The lab's console proxies."""
    return tuple(vm for vm in lab.vms.values() if vm.spec.role == ROLE)


def document(
    lab: Lab, change: Mapping[str, Any] | None = None, *, vm: SystemVM | None = None
) -> dict[str, Any]:
    """The example with a certificate of the lab's own CA, and this merge patch over it.

    It is for this VM, or for the lab's first console proxy.
    """
    value: dict[str, Any] = json.loads((data.examples() / f"{ROLE}.json").read_bytes())
    if vm is not None:
        value["site"] = _site(value["site"], vm, proxies_of(lab).index(vm))
    merged: dict[str, Any] = merge(value, change or {})
    authority = lab.keys.authority
    identity = authority.issue(merged["console"]["domain"])
    certificates = {"server": identity.certificate, "root": authority.identity.certificate}
    own = {"console": {"certificates": certificates, "key": identity.key}}
    result: dict[str, Any] = merge(merged, own)
    return result


def _site(example: Mapping[str, Any], vm: SystemVM, number: int) -> dict[str, Any]:
    """The example's site for another of the lab's proxies: its cards, and the addresses after."""
    nics = {}
    for card, (_, nic) in zip(vm.spec.nics, example["nics"].items(), strict=True):
        shifted: dict[str, Any] = {_shifted(address, number): {} for address in nic["addresses"]}
        control = card.name == vm.spec.control_nic
        nics[card.mac] = {**nic, "addresses": {vm.spec.control_address: {}} if control else shifted}
    return {**example, "hostname": vm.spec.hostname, "nics": nics}


def _shifted(address: str, number: int) -> str:
    interface = ip_interface(address)
    return f"{interface.ip + number}/{interface.network.prefixlen}"


def request(lab: Lab, method: str, path: str, body: bytes) -> Response:
    """Ask the proxy's agent as management does, over mutual TLS."""
    address = proxy_of(lab).spec.control_address.partition("/")[0]
    headers = {"Content-Type": "application/json"}
    return lab.manager.request(method, path, body=body, headers=headers, address=address)


def push(lab: Lab, value: Mapping[str, Any]) -> Response:
    """Push a document to the proxy, in the generation after the last. Raises ApplianceError."""
    listed = request(lab, "GET", "/v1/revisions", b"").json()["revisions"]
    generation = 1 + max((one["generation"] for one in listed), default=0)
    answer = request(
        lab, "PUT", "/v1/document", json.dumps({**value, "generation": generation}).encode()
    )
    if answer.status >= 400:
        raise ApplianceError(f"the proxy refuses the document: {answer.text}")
    return answer


def offer(lab: Lab, host: str, screen: Screen, vm: str, **more: Any) -> Link:
    """A session at the proxy, and its link at this host (with a port, where it is not 443).

    `more` are further fields of a session, or others than usual. Raises ApplianceError.
    """
    secret = secrets.token_urlsafe(32)
    name = f"{vm}-{secrets.token_hex(4)}"
    value = session(secret, screen, vm)
    answer = request(lab, "PUT", f"/v1/console/sessions/{name}", json.dumps(value | more).encode())
    if answer.status >= 400:
        raise ApplianceError(f"the proxy refuses the session: {answer.text}")
    return Link(name, f"https://{host}/#s={secret}")


def session(secret: str, screen: Screen, vm: str) -> dict[str, Any]:
    """What the proxy is told of a session; of the secret, what does not open anything."""
    return {
        "secret_sha256": hashlib.sha256(secret.encode()).hexdigest(),
        "vm": vm,
        "user": "operator",
        "title": vm,
        "target": {"address": screen.address, "port": screen.port},
        "credentials": screen.credentials,
        "valid": VALID,
    }


def show(lab: Lab, guest: str) -> Link:
    """Everything up to a link to a guest's screen that a browser on this machine can open."""
    if guest not in lab.guests:
        raise ApplianceError(
            f"no guest {guest} in lab {lab.name}", f"one of {', '.join(lab.guests)}"
        )
    port = reachable(lab)
    screen = screen_of(lab, guest)
    return offer(lab, f"{NAME}:{port}", screen, guest)


def reachable(lab: Lab) -> int:
    """The port of this machine that leads to the proxy, which becomes one if it is none yet."""
    proxy_of(lab)
    note = lab.folder / "console-port"
    if note.exists():
        return int(note.read_text())
    listener, port = doorway()
    with listener:
        push(lab, document(lab, {"console": {"domain": NAME, "public_port": port}}))
        lead(lab, listener, [public_address(lab)])
    note.write_text(str(port))
    return port


def public_address(lab: Lab, vm: SystemVM | None = None) -> str:
    """Where browsers on the lab's internet find this proxy, or the lab's first."""
    nics = document(lab, vm=vm or proxy_of(lab))["site"]["nics"].values()
    (address,) = (a for nic in nics if nic["role"] == "public" for a in nic["addresses"])
    return str(ip_interface(address).ip)


def screen_of(lab: Lab, guest: str) -> Screen:
    """That guest's desktop at the hypervisor, started if it is not there."""
    hypervisor = lab.hypervisor
    port = 5901 + sorted(lab.guests).index(guest)
    folder = hypervisor.folder / f"desktop-{port}"
    if (folder / "display").exists() and hypervisor.reaches(hypervisor.address, port):
        ca = lab.keys.authority.identity.certificate
        return Screen(hypervisor.address, port, {"ca": ca}, folder, ())
    return hypervisor.desktop(lab.guests[guest], port)


def doorway() -> tuple[socket.socket, int]:
    """A socket on this machine's loopback: at the usual port, or at a free one."""
    for port in (PORT, 0):
        try:
            listener = socket.create_server(("127.0.0.1", port), backlog=64)
        except OSError:
            continue
        return listener, int(listener.getsockname()[1])
    raise ApplianceError("this machine has no free port")


def lead(lab: Lab, listener: socket.socket, addresses: Sequence[str]) -> None:
    """Have this socket lead to the proxies at these addresses of the lab's internet."""
    program = Path(__file__).with_name("forward.py")
    handle = listener.fileno()
    argv = [sys.executable, "-I", "-S", str(program), str(handle), "443", *addresses]
    spawn(lab.internet.argv(argv), keep=(handle,))
