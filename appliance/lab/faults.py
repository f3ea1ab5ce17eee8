"""The points at which an apply can be told to fail, and documents whose push passes all of them."""

import copy
import json
from typing import Any

from appliance import data

POINTS = (
    "received",
    "staged",
    "checked",
    "rehearsed",
    "journaled",
    "put-set",
    "put-table",
    "set-sysctl",
    "set-link",
    "add-address",
    "add-route",
    "flip",
    "start-unit",
    "forget-flows",
    "announce",
    "verified",
    "probed",
    "kept",
)
"""Before the commit, in order: whatever happens there leaves the old revision."""

AFTER_COMMIT = "committed"

# A forward that leads in, and that no ingress rule lets anybody use.
FORBIDDEN = {
    "address": "203.0.113.10", "protocol": "tcp", "ports": 9090, "to": "10.1.1.10", "to_ports": 80,
}  # fmt: skip


def example(generation: int) -> dict[str, Any]:
    """The example's router, with forwards that nobody may use."""
    document: dict[str, Any] = json.loads((data.examples() / "router.json").read_bytes())
    document["generation"] = generation
    document["nat"]["forwards"]["forbidden"] = FORBIDDEN
    document["nat"]["forwards"]["forbidden-udp"] = {**FORBIDDEN, "protocol": "udp"}
    return document


def bare(generation: int) -> dict[str, Any]:
    """The example's NICs on their first address alone, without guests and services."""
    document = copy.deepcopy(example(generation))
    for name in ("dhcp_dns", "load_balancer", "user_data", "nat", "firewall"):
        document.pop(name, None)
    nics = document["site"]["nics"]
    for nic in nics.values():
        if nic["role"] == "public":
            nic["addresses"] = {"203.0.113.10/24": {}}
            nic.pop("gateway")
    guests = [mac for mac, nic in nics.items() if nic["role"] == "guest"]
    for mac in guests:
        del nics[mac]
    return document
