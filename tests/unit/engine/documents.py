"""Documents for tests of the engine: the smallest router, and ways to change it."""

import copy
import json
from typing import Any

from tests.unit.engine.memory import CONTROL, GUEST, PUBLIC

ROUTER: dict[str, Any] = {
    "schema": 1,
    "generation": 1,
    "role": "router",
    "site": {
        "hostname": "r-1",
        "domain": "net1.example.internal",
        "nics": {
            GUEST: {"role": "guest", "addresses": {"10.1.1.1/24": {}}},
            CONTROL: {"role": "control", "addresses": {"169.254.10.2/16": {}}},
            PUBLIC: {
                "role": "public",
                "addresses": {"203.0.113.10/24": {}, "203.0.113.11/24": {}},
                "gateway": "203.0.113.1",
            },
        },
    },
    "nat": {"source_address": "203.0.113.10"},
    "firewall": {"ingress": {}},
}

BOOT = {
    "schema": 1,
    "role": "router",
    "hostname": "r-1",
    "nics": {CONTROL: {"role": "control", "addresses": {"169.254.10.2/16": {}}}},
}


def router(generation: int = 1, **sections: Any) -> bytes:
    """The smallest router with these sections replaced."""
    return json.dumps({**ROUTER, "generation": generation, **sections}).encode()


def with_forward(generation: int, port: int = 80) -> bytes:
    """A router with one port forward, and the rule that lets it be used."""
    value = copy.deepcopy(ROUTER)
    value["generation"] = generation
    value["nat"]["forwards"] = {
        "web": {"address": "203.0.113.10", "protocol": "tcp", "ports": port, "to": "10.1.1.10"}
    }
    value["firewall"]["ingress"] = {
        "203.0.113.10": {"web": {"protocol": "tcp", "ports": port, "sources": []}}
    }
    return json.dumps(value).encode()


def with_services(generation: int, name: str = "vm1") -> bytes:
    """A router whose guests have addresses, names and a load balancer."""
    value = copy.deepcopy(ROUTER)
    value["generation"] = generation
    value["dhcp_dns"] = {
        "hosts": {"02:00:00:00:01:01": {"address": "10.1.1.10", "name": name}},
    }
    value["load_balancer"] = {
        "listeners": {
            "web": {
                "address": "203.0.113.11",
                "port": 80,
                "mode": "http",
                "servers": {"vm1": {"address": "10.1.1.10", "port": 8080}},
            }
        }
    }
    return json.dumps(value).encode()


def with_tunnels(generation: int, **secrets: str) -> bytes:
    """A router with a tunnel of each of these names, and its pre-shared key."""
    value = copy.deepcopy(ROUTER)
    value["generation"] = generation
    value["ipsec"] = {
        "connections": {
            name: {
                "local_address": "203.0.113.10",
                "peer_address": f"192.0.2.{number}",
                "psk": secret,
                "local_subnets": ["10.1.1.0/24"],
                "remote_subnets": [f"10.99.{number}.0/24"],
            }
            for number, (name, secret) in enumerate(sorted(secrets.items()), 1)
        }
    }
    return json.dumps(value).encode()
