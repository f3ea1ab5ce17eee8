"""What the tests of the router share: a router to push to, and packets made and seen by hand."""

import copy
import itertools
import json
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import IPv4Address
from operator import itemgetter
from pathlib import Path
from typing import Any

from agent.document.document import merge
from appliance.lab import Lab
from appliance.lab.http import Response
from appliance.lab.node import Guest, Node
from appliance.lab.wait import wait_until

EXAMPLE = Path(__file__).parents[2] / "examples/router.json"

ROUTER_MAC = "02:00:0a:01:01:01"  # of the VM's NIC in the guests' network
CONTROL_MAC = "0e:00:a9:fe:0a:02"
PUBLIC_MAC = "1e:00:cb:00:71:02"
VM1_MAC, VM2_MAC = "02:00:0a:01:01:0a", "02:00:0a:01:01:0b"
VM1, VM2 = "10.1.1.10", "10.1.1.11"
INTERNET = "203.0.113.1"
WWW = "198.51.100.10"

# Of the whole machine, which others use as well: what it is must not fail a test.
CALM = {"monitoring": {"thresholds": {"cpu_percent": 100, "memory_percent": 100}}}
DAEMONS = ("haproxy", "dnsmasq", "apache2", "sysvm-front", "sysvm-agent")

Document = dict[str, Any]


def example() -> Document:
    """The example's document."""
    value: Document = json.loads(EXAMPLE.read_text())
    return value


class Router:
    """The system VM of a lab, pushed to with generations that grow."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.document: Document = example()
        self._generations = itertools.count(1)

    # -- pushing --------------------------------------------------------------------------

    def next(self, document: Mapping[str, Any]) -> Document:
        """This document with a generation that has not been."""
        return {**copy.deepcopy(dict(document)), "generation": next(self._generations)}

    def put(self, document: Mapping[str, Any], **options: Any) -> Response:
        """Push this very document."""
        return self.lab.vm.request("PUT", "/v1/document", json=document, **options)

    def push(self, document: Mapping[str, Any]) -> tuple[str, ...]:
        """Have this document applied, in the next generation; the plan that was done."""
        document = self.next(document)
        answer = self.put(document)
        assert answer.status in {200, 201}, answer.text
        self.document = document
        assert answer.json()["warnings"] == []
        return tuple(answer.json()["plan"])

    def change(self, change: Mapping[str, Any]) -> tuple[str, ...]:
        """Push what this merge patch (RFC 7396) makes of the document that runs."""
        return self.push(merge(self.document, change))

    @contextmanager
    def changed(self, change: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
        """Push a changed document, and at the end the one before."""
        before = self.document
        plan = self.change(change)
        try:
            yield plan
        finally:
            self.push(before)

    def refused(self, document: Mapping[str, Any], status: int = 422) -> dict[str, str]:
        """Push what is refused; messages by path. Nothing of the machine has changed then."""
        before = self.everything()
        answer = self.put(self.next(document))
        assert answer.status == status, answer.text
        assert self.everything() == before
        return {p["path"]: p["message"] for p in answer.json().get("problems", [])}

    # -- looking --------------------------------------------------------------------------

    def show(self, what: str) -> list[dict[str, Any]]:
        """Rows of GET /v1/show/…"""
        answer = self.lab.vm.request("GET", f"/v1/show/{what}")
        assert answer.status == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()
        return rows

    def count(self, comment: str) -> int:
        """Packets that the rules with this comment have counted since they first were."""
        rows = [*self.show("rules"), *self.show("nat")]
        found = [row["packets"] for row in rows if row["comment"] == comment]
        assert found, f"no rule {comment}"
        return sum(found)

    def drift(self) -> list[str]:
        """How the machine differs from what was asked for."""
        answer = self.lab.vm.request("GET", "/v1/drift")
        assert answer.status == 200, answer.text
        plan: list[str] = answer.json()["plan"]
        return plan

    def current(self) -> int:
        """The revision that runs."""
        number: int = self.lab.vm.request("GET", "/v1/revisions").json()["current"]
        return number

    def daemons(self) -> Mapping[str, frozenset[tuple[int, int]]]:
        """The processes of each daemon: their numbers, and when they were started.

        Of the agent's only itself, for what it runs comes and goes.
        """
        script = (
            "cd /sys/fs/cgroup/system.slice; for unit; do "
            "for pid in $(cat $unit.service/cgroup.procs 2>/dev/null); do "
            'echo "$unit $pid $(cut -d" " -f22 /proc/$pid/stat)"; done; done; true'
        )
        listed = self.lab.vm.run(["sh", "-c", script, "sh", *DAEMONS]).text.splitlines()
        words = [line.split() for line in listed]
        found = {
            name: frozenset((int(w[1]), int(w[2])) for w in words if len(w) == 3 and w[0] == name)
            for name in DAEMONS
        }
        agent = sorted(found["sysvm-agent"], key=itemgetter(1))[:1]
        return found | {"sysvm-agent": frozenset(agent)}

    def firewall(self) -> tuple[str, ...]:
        """Both families' rules and policies, without counters."""
        script = "iptables-save; ip6tables-save; ipset save -sorted"
        text = self.lab.vm.run(["sh", "-c", script]).text
        return tuple(
            line.partition(" [" if line.startswith(":") else " hashsize ")[0]
            for line in text.splitlines()
            if not line.startswith("#")
        )

    def everything(self) -> object:
        """What a refusal leaves as it is: daemons, firewall, addresses, routes, files, revision."""
        script = (
            "ip -o address | sed 's/ tentative//'; ip route; ip -6 route; "
            "readlink /run/sysvm/current; "
            "cd /run/sysvm/current/ && find . -type f | sort | xargs -r sha256sum"
        )
        machine = self.lab.vm.run(["sh", "-c", script]).text
        return self.daemons(), self.firewall(), machine, self.current()


# -- guests ------------------------------------------------------------------------------------


def settle(guest: Guest, address: str, gateway: str = "10.1.1.1") -> None:
    """Give a guest what DHCP would give it."""
    guest.run(["ip", "address", "replace", f"{address}/24", "dev", guest.nic.name])
    guest.run(["ip", "route", "replace", "default", "via", gateway])


@contextmanager
def with_mac(guest: Guest, mac: str) -> Iterator[None]:
    """The guest with another MAC address, and what it knew of the network forgotten."""

    def become(new: str) -> None:
        guest.forget()
        guest.run(["ip", "link", "set", guest.nic.name, "address", new])
        guest.run(["ip", "neighbour", "flush", "all"])

    become(mac)
    try:
        yield
    finally:
        become(guest.mac)


def reached(
    node: Node, address: str, *, tcp: Iterable[int] = (), udp: Iterable[int] = ()
) -> set[str]:
    """Which of these ports answer a node, and `ping` if that is answered; all asked at once."""

    def ask(probe: tuple[str, int]) -> bool:
        match probe:
            case ("tcp", port):
                return node.reaches(address, port)
            case ("udp", port):
                return node.ask(address, port, b"") is not None
            case _:
                return node.pings(address)

    probes = [*(("tcp", port) for port in tcp), *(("udp", port) for port in udp), ("ping", 0)]
    with ThreadPoolExecutor(len(probes)) as threads:
        answers = list(threads.map(ask, probes))
    return {
        f"{kind} {port}" if port else kind
        for (kind, port), answered in zip(probes, answers, strict=True)
        if answered
    }


# -- packets -----------------------------------------------------------------------------------


@contextmanager
def wire(node: Node, nic: str = "eth0") -> Iterator[socket.socket]:
    """Every frame that passes a node's NIC, both ways; what is sent goes out as it is."""
    with node.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((nic, 3))  # ETH_P_ALL
        sock.settimeout(0.05)
        yield sock


def frames(sock: socket.socket) -> Iterator[bytes]:
    """What has come so far, until nothing comes for a moment."""
    while True:
        try:
            yield sock.recv(65535)
        except TimeoutError:
            return


def seen(
    sock: socket.socket, wanted: Callable[[bytes], bool], what: str, timeout: float = 5
) -> bytes:
    """The first frame that is wanted."""
    return wait_until(lambda: next(filter(wanted, frames(sock)), b""), timeout, what)


def collected(sock: socket.socket, last: Callable[[bytes], bool]) -> list[bytes]:
    """All frames up to one that is sent last."""
    came: list[bytes] = []

    def complete() -> bool:
        came.extend(frames(sock))
        return any(map(last, came))

    wait_until(complete, 10, "the last frame")
    return came


def ethernet(source: str, destination: str, kind: int, payload: bytes) -> bytes:
    """A frame."""
    macs = (bytes.fromhex(mac.replace(":", "")) for mac in (destination, source))
    return b"".join(macs) + struct.pack("!H", kind) + payload


def ipv4(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """An IPv4 packet."""
    ends = IPv4Address(source).packed + IPv4Address(destination).packed
    length = 20 + len(payload)
    header = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0, 64, protocol, 0) + ends
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + ends + payload


def udp(source: str, destination: str, port: int, content: bytes = b"?") -> bytes:
    """An IPv4 packet with a datagram (without a checksum, RFC 768)."""
    head = struct.pack("!HHHH", 40000, port, 8 + len(content), 0)
    return ipv4(source, destination, 17, head + content)


def is_udp(source: str, port: int) -> Callable[[bytes], bool]:
    """Is a frame a datagram from this address to this port?"""
    address = IPv4Address(source).packed

    def test(frame: bytes) -> bool:
        return (
            frame[12:14] == b"\x08\x00"
            and frame[23] == 17
            and frame[26:30] == address
            and frame[36:38] == struct.pack("!H", port)
        )

    return test


def mss(frame: bytes) -> int | None:
    """The maximum segment size that a TCP SYN over IPv4 offers; None for any other frame."""
    if frame[12:14] != b"\x08\x00" or frame[23] != 6:
        return None
    segment = frame[14 + (frame[14] & 15) * 4 :]
    if not segment[13] & 2:
        return None
    options = segment[20 : (segment[12] >> 4) * 4]
    while options and options[0]:
        if options[0] == 1:
            options = options[1:]
            continue
        if options[0] == 2:
            return int.from_bytes(options[2:4], "big")
        options = options[options[1] :]
    return None
