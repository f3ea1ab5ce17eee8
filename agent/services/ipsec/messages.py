"""What charon is told of a connection: one message over vici, in the words of swanctl.conf(5)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.engine.model import IPNetwork
from agent.services.ipsec.section import (
    EspProposal,
    IkeProposal,
    IkeVersion,
    Prf,
    Start,
    Tunnel,
    identities,
    pairs,
)

# A tunnel is keyed anew when this much of its time or volume has passed.
_REKEY_PERCENT = 90


@dataclass(frozen=True, slots=True)
class Child:
    """A CHILD_SA that a connection has: its name, and what it connects."""

    name: str
    local: tuple[IPNetwork, ...]
    remote: tuple[IPNetwork, ...]


def children(name: str, tunnel: Tunnel) -> tuple[Child, ...]:
    """One for all subnets, named as the connection; or one for each pair, numbered from 1."""
    if not tunnel.split_connections and tunnel.version is not IkeVersion.IKEV1:
        return (Child(name, tunnel.local_subnets, tunnel.remote_subnets),)
    each = tuple(pairs(tunnel))
    if len(each) == 1:
        return (Child(name, (each[0][0],), (each[0][1],)),)
    return tuple(
        Child(f"{name}-{number}", (local,), (remote,))
        for number, (local, remote) in enumerate(each, 1)
    )


_VERSION = {IkeVersion.IKEV1: "1", IkeVersion.IKEV2: "2", IkeVersion.ANY: "0"}
# A trap is left in place beside what is started at once: the next packet tries again.
_START = {Start.START: "trap|start", Start.TRAP: "trap", Start.PASSIVE: "none"}


def message(name: str, tunnel: Tunnel) -> Mapping[str, Any]:
    """What charon is told: the connection (as in swanctl.conf(5)), secret, key and CRL."""
    version = _VERSION[tunnel.version]
    me, peer = identities(tunnel)
    local: dict[str, Any] = {"auth": "psk", "id": me}
    remote: dict[str, Any] = {"auth": "psk", "id": peer}
    certificates = tunnel.certificates
    if certificates is not None:
        local |= {"auth": "pubkey", "certs": _blocks(certificates.certificate)}
        remote |= {
            "auth": "pubkey",
            "cacerts": _blocks(certificates.ca),
            "revocation": "relaxed",  # a list that is too old still tells who is revoked
        }
    connection: dict[str, Any] = {
        "version": version,
        "local_addrs": [str(tunnel.local_address)],
        "remote_addrs": [str(tunnel.peer_address or tunnel.peer_name or "%any")],
        "proposals": [_ike(one) for one in tunnel.ike],
        "encap": _yes(tunnel.force_encapsulation),
        "mobike": "no",  # neither end moves
        "fragmentation": "yes",
        "keyingtries": "0" if tunnel.start is Start.START else "1",
        "rekey_time": f"{_soon(tunnel.ike_lifetime)}s",
        "over_time": f"{tunnel.ike_lifetime - _soon(tunnel.ike_lifetime)}s",
        "local": local,
        "remote": remote,
        "children": {child.name: _child(tunnel, child) for child in children(name, tunnel)},
    }
    if tunnel.dpd is not None:
        connection["dpd_delay"] = f"{tunnel.dpd.delay}s"
        connection["dpd_timeout"] = f"{tunnel.dpd.timeout}s"
    return {
        "connection": connection,
        "secret": _secret(tunnel, me, peer),
        "key": certificates.key if certificates else None,
        "crl": certificates.crl if certificates else None,
    }


def _child(tunnel: Tunnel, child: Child) -> Mapping[str, Any]:
    settings: dict[str, Any] = {
        "local_ts": [str(network) for network in child.local],
        "remote_ts": [str(network) for network in child.remote],
        "esp_proposals": [_esp(one) for one in tunnel.esp],
        "mode": "tunnel",
        "start_action": _START[tunnel.start],
        "rekey_time": f"{_soon(tunnel.esp_lifetime)}s",
        "life_time": f"{tunnel.esp_lifetime}s",
    }
    if tunnel.dpd is not None:
        settings["dpd_action"] = str(tunnel.dpd.action)
    for unit, most in (
        ("bytes", tunnel.esp_lifetime_bytes),
        ("packets", tunnel.esp_lifetime_packets),
    ):
        if most is not None:
            settings[f"rekey_{unit}"] = str(_soon(most))
            settings[f"life_{unit}"] = str(most)
    return settings


def _secret(tunnel: Tunnel, me: str, peer: str) -> Mapping[str, Any]:
    """The pre-shared key and whose it is; for certificates, one that nobody can use.

    charon tells a connection's digest back as a secret's name, so that each has a secret.
    """
    if tunnel.psk is None:
        return {"type": "PPK", "data": "none", "owners": ["sysvm.invalid"]}
    owners = [me, peer]
    if tunnel.version is not IkeVersion.IKEV2:  # whose main mode knows no identities yet
        owners += [str(tunnel.local_address), str(tunnel.peer_address or "%any")]
    return {"type": "IKE", "data": tunnel.psk, "owners": list(dict.fromkeys(owners))}


def _blocks(pem: str) -> list[str]:
    """PEM blocks one by one, as vici takes them."""
    end = "-----END "
    parts = pem.split(end)
    tails = [part.partition("-----\n" if "-----\n" in part else "-----") for part in parts[1:]]
    bodies = [parts[0], *(tail[2] for tail in tails[:-1])]
    return [f"{body}{end}{tail[0]}-----\n" for body, tail in zip(bodies, tails, strict=True)]


def _ike(proposal: IkeProposal) -> str:
    words = [str(proposal.encryption)]
    if proposal.integrity is not None:
        words.append(str(proposal.integrity))
    if proposal.prf is not None or proposal.integrity is None:
        words.append(f"prf{proposal.prf or Prf.SHA256}")
    return "-".join([*words, str(proposal.dh)])


def _esp(proposal: EspProposal) -> str:
    words = (proposal.encryption, proposal.integrity, proposal.dh)
    return "-".join(str(word) for word in words if word is not None)


def _soon(most: int) -> int:
    return most * _REKEY_PERCENT // 100


def _yes(value: object) -> str:
    return "yes" if value else "no"
