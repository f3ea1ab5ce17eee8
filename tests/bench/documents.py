"""Routers of any size, for the lab's `router` topology."""

from typing import Any

GUEST, CONTROL, PUBLIC = "02:00:0a:01:01:01", "0e:00:a9:fe:0a:02", "1e:00:cb:00:71:02"
PUBLIC_ADDRESS, LISTENER_ADDRESS = "203.0.113.10", "203.0.113.11"
FIRST_LISTENER = 10000  # port


def guest_address(number: int) -> str:
    """The address of guest `number`, counted from 0, in 10.1.0.0/16."""
    return f"10.1.{1 + number // 250}.{1 + number % 250}"


def guest_mac(number: int) -> str:
    return f"02:00:0b:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"


def router(size: int, generation: int = 1, *, listeners: int | None = None) -> dict[str, Any]:
    """A router with `size` guests, forwards, firewall rules and user data; and listeners."""
    listeners = size if listeners is None else listeners
    return {
        "schema": 1,
        "generation": generation,
        "role": "router",
        "site": {
            "hostname": "r-1-vm",
            "domain": "net1.example.internal",
            "nics": {
                GUEST: {"role": "guest", "addresses": {"10.1.0.1/16": {}}},
                CONTROL: {"role": "control", "addresses": {"169.254.10.2/16": {}}},
                PUBLIC: {
                    "role": "public",
                    "addresses": {f"{PUBLIC_ADDRESS}/24": {}, f"{LISTENER_ADDRESS}/24": {}},
                    "gateway": "203.0.113.1",
                },
            },
        },
        "dhcp_dns": {
            "hosts": {guest_mac(n): host(n) for n in range(size)},
            "dns": {"upstreams": ["198.51.100.53"]},
        },
        "nat": {
            "source_address": PUBLIC_ADDRESS,
            "forwards": {f"f{n}": forward(n) for n in range(size)},
        },
        "firewall": {
            "ingress": {
                PUBLIC_ADDRESS: {f"r{n}": rule(n) for n in range(size)},
                LISTENER_ADDRESS: {"listeners": {"protocol": "tcp", "ports": "10000-19999"}},
            },
        },
        "load_balancer": {
            "listeners": {f"l{n}": listener(n) for n in range(listeners)},
        },
        "user_data": {
            "guests": {guest_address(n): guest_data(n) for n in range(size)},
        },
    }


def host(number: int) -> dict[str, Any]:
    return {"address": guest_address(number), "name": f"vm{number}"}


def forward(number: int) -> dict[str, Any]:
    return {
        "address": PUBLIC_ADDRESS,
        "protocol": "tcp",
        "ports": 20000 + number,
        "to": guest_address(number),
        "to_ports": 22,
    }


def rule(number: int) -> dict[str, Any]:
    return {"protocol": "tcp", "ports": 20000 + number, "sources": ["198.51.100.0/24"]}


def listener(number: int) -> dict[str, Any]:
    return {
        "address": LISTENER_ADDRESS,
        "port": FIRST_LISTENER + number,
        "servers": {"a": {"address": guest_address(number), "port": 80}},
        "check": {"type": "none"},
    }


def guest_data(number: int) -> dict[str, Any]:
    return {
        "mac": guest_mac(number),
        "metadata": {
            "instance-id": f"i-{number}",
            "local-hostname": f"vm{number}",
            "service-offering": "small",
            "availability-zone": "zone1",
        },
    }
