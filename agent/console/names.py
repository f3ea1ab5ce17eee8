"""What browsers call a proxy under `*.domain`: each address has a name of its own.

203.0.113.7 is 203-0-113-7. An IPv6 address is written in full, in eight groups of four digits:
shortened it could begin or end with a dash, or have two where a name may not (RFC 952, RFC 5891).
"""

from agent.console.targets import Address


def label(address: Address) -> str:
    """The first label of the address's name."""
    return address.exploded.replace(".", "-").replace(":", "-")


def name(address: Address, domain: str) -> str:
    """The name of the proxy at this address; a plain domain is the name of all."""
    return f"{label(address)}.{domain[2:]}" if domain.startswith("*.") else domain
