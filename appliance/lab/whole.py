"""What traffic could notice of a system VM, as a value: equal before and after, or not."""

import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from agent.system.run import Completed
from appliance.errors import ApplianceError
from appliance.lab.node import Node

UNITS = ("dnsmasq.service", "haproxy.service", "apache2.service", "sysvm-front.service")


class Runs(Protocol):
    """A system VM that programs can be run in: the lab's, or a virtual machine."""

    def run(self, argv: Sequence[str], timeout: float = ..., *, check: bool = ...) -> Completed: ...


@dataclass(frozen=True, slots=True)
class Whole:
    """A revision as the machine holds it."""

    firewall: str
    sets: frozenset[str]
    addresses: frozenset[str]
    routes: frozenset[str]
    units: frozenset[str]
    files: str


def whole(vm: Runs) -> Whole:
    """The machine as it is now."""

    def said(*argv: str) -> str:
        return vm.run(list(argv), check=False).text

    firewall = "".join(
        f"IPv{version}\n{tables(said(program))}"
        for version, program in ((4, "iptables-nft-save"), (6, "ip6tables-nft-save"))
    )
    links: list[dict[str, Any]] = json.loads(said("ip", "-j", "address"))
    addresses = frozenset(
        f"{link['ifname']} {address['local']}/{address['prefixlen']} mtu {link['mtu']}"
        for link in links
        for address in link["addr_info"]
        if address["scope"] == "global"
    )
    states = said("systemctl", "is-active", *UNITS).split()
    files = said("sh", "-c", "cd /run/sysvm/current/ && find . -type f | sort | xargs sha256sum")
    return Whole(
        firewall=firewall,
        sets=frozenset(re.sub(r" initval \S+", "", said("ipset", "save")).splitlines()),
        addresses=addresses,
        routes=frozenset(line.strip() for line in said("ip", "route").splitlines()),
        units=frozenset(u for u, s in zip(UNITS, states, strict=True) if s == "active"),
        files=files,
    )


def tables(saved: str) -> str:
    """What iptables-save prints, without counters and tables that do nothing, tables in order."""
    text = re.sub(r"^#.*\n", "", re.sub(r"\[\d+:\d+\]", "", saved), flags=re.MULTILINE)
    found = re.findall(r"^\*\w+$.*?^COMMIT$\n", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(sorted(table for table in found if "-A " in table or " DROP" in table))


@contextmanager
def knocking(node: Node, address: str, port: int) -> Iterator[list[str]]:
    """Knock from a node, TCP and UDP, as fast as one thread can; what got in is listed.

    Raises ApplianceError where it could not go on to the end: nothing would have been noticed.
    """
    entered: list[str] = []
    failed: list[Exception] = []
    stop = threading.Event()

    def knock() -> None:
        try:
            while not stop.is_set():
                if node.reaches(address, port, timeout=0.05):
                    entered.append("tcp")
                node.ask(address, port, timeout=0.005)
        except Exception as error:  # noqa: BLE001 - told below, by another thread
            failed.append(error)

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    try:
        yield entered
    finally:
        stop.set()
        thread.join()
    if failed:
        raise ApplianceError(f"{node.name} could not knock to the end: {failed[0]}")
