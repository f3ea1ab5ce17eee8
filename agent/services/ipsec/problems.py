"""What is wrong with a section that its types cannot say."""

from collections.abc import Callable, Iterator
from typing import Any

from agent.document.site import NicRole
from agent.engine.model import IPNetwork, Problem, pointer
from agent.services import Context
from agent.services.ipsec.section import (
    AEAD,
    SECTION,
    WEAK,
    Certificates,
    EspProposal,
    IkeProposal,
    IkeVersion,
    Section,
    Start,
    Tunnel,
    identities,
    pairs,
)

_SHORT_SECRET = 8  # characters

Path = tuple[object, ...]


def lint(section: Section, context: Context) -> Iterator[Problem]:
    """Every problem of every connection, and of each two together."""
    for name, tunnel in section.connections.items():
        path = (SECTION, "connections", name)
        yield from _lint_ends(tunnel, context, path)
        yield from _lint_subnets(tunnel, context, path)
        yield from _lint_authentication(tunnel, path)
        yield from _lint_algorithms(tunnel, path)
    yield from _lint_together(section)


def _lint_ends(tunnel: Tunnel, context: Context, path: Path) -> Iterator[Problem]:
    public = context.public_addresses()
    if tunnel.local_address not in public:
        known = ", ".join(sorted(map(str, public)))
        yield Problem(
            pointer(*path, "local_address"),
            f"{tunnel.local_address} is not an address of a public NIC",
            f"one of {known}" if known else "there is none",
        )
    peer = tunnel.peer_address
    if peer is None:
        if tunnel.peer_identity is None:
            yield Problem(
                pointer(*path, "peer_identity"),
                "is missing: without an address, only its identity says who the peer is",
            )
        if tunnel.peer_name is None and tunnel.start is not Start.PASSIVE:
            yield Problem(pointer(*path, "start"), "needs a peer_address or a peer_name", "passive")
        return
    where = pointer(*path, "peer_address")
    if tunnel.peer_name is not None:
        yield Problem(pointer(*path, "peer_name"), "has a peer_address beside it", "one of them")
    if peer.version != tunnel.local_address.version:
        yield Problem(where, f"{peer} is not of the local address's family")
    elif peer.is_unspecified or peer.is_multicast or peer.is_loopback:
        yield Problem(where, f"{peer} is not a host's address", "leave it out for any")
    elif context.nic_of_address(peer) is not None:
        yield Problem(where, f"{peer} is the VM's own address")


def _lint_subnets(tunnel: Tunnel, context: Context, path: Path) -> Iterator[Problem]:
    here = [
        network
        for nic in context.nics_of(NicRole.GUEST)
        for network in (*(a.network for a in nic.addresses), *context.routed.get(nic.name, ()))
    ]
    for subnet in tunnel.local_subnets:
        if not any(_overlap(subnet, network) for network in here):
            yield Problem(
                pointer(*path, "local_subnets"),
                f"{subnet} is no network that the VM routes",
                ", ".join(map(str, here)) or "there is no guest network",
            )
    taken = [*here, *(a.network for n in context.nics_of(NicRole.CONTROL) for a in n.addresses)]
    where = pointer(*path, "remote_subnets")
    for subnet in tunnel.remote_subnets:
        for network in (*taken, *tunnel.local_subnets):
            if _overlap(subnet, network):
                yield Problem(where, f"{subnet} overlaps {network}, which is here")
                break
    families = {subnet.version for subnet in tunnel.local_subnets}
    if families != {subnet.version for subnet in tunnel.remote_subnets}:
        yield Problem(where, "are not of the same families as the local ones")


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    if one.version != other.version:
        return False
    return one.network_address in other or other.network_address in one


def _lint_authentication(tunnel: Tunnel, path: Path) -> Iterator[Problem]:
    if (tunnel.psk is None) is (tunnel.certificates is None):
        what = "is missing" if tunnel.psk is None else "has certificates beside it"
        yield Problem(pointer(*path, "psk"), what, "either psk or certificates")
    elif tunnel.psk is not None and len(tunnel.psk) < _SHORT_SECRET and not tunnel.allow_weak:
        yield Problem(
            pointer(*path, "psk"), f"has fewer than {_SHORT_SECRET} characters", "allow_weak"
        )
    elif tunnel.certificates is not None:
        yield from _lint_certificates(tunnel.certificates, (*path, "certificates"))


def _lint_certificates(given: Certificates, path: Path) -> Iterator[Problem]:
    """What charon would refuse. Whether they are valid now is shown and not judged here: the
    clock of a VM may be years off."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    found: dict[str, Any] = {}
    readers: dict[str, Callable[[bytes], Any]] = {
        "certificate": x509.load_pem_x509_certificates,
        "ca": x509.load_pem_x509_certificates,
        "key": lambda data: serialization.load_pem_private_key(data, None),
        "crl": x509.load_pem_x509_crl,
    }
    for name, read in readers.items():
        text = getattr(given, name)
        if text is None:
            continue
        try:
            found[name] = read(text.encode())
        except (ValueError, TypeError):
            yield Problem(pointer(*path, name), "cannot be read", "PEM, keys not encrypted")
    if (
        "certificate" in found
        and "key" in found
        and (found["certificate"][0].public_key() != found["key"].public_key())
    ):
        yield Problem(pointer(*path, "key"), "is not that of the certificate")
    if "ca" in found and not _is_ca(found["ca"][0]):
        yield Problem(pointer(*path, "ca"), "is not a CA's certificate", "CA:TRUE, RFC 5280")
    if (
        "ca" in found
        and "crl" in found
        and not any(found["crl"].is_signature_valid(ca.public_key()) for ca in found["ca"])
    ):
        yield Problem(pointer(*path, "crl"), "is not signed by the CA")


def _is_ca(certificate: Any) -> bool:
    from cryptography import x509

    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return bool(constraints.value.ca)


def _lint_algorithms(tunnel: Tunnel, path: Path) -> Iterator[Problem]:
    proposals: tuple[tuple[str, tuple[IkeProposal | EspProposal, ...]], ...] = (
        ("ike", tunnel.ike),
        ("esp", tunnel.esp),
    )
    for kind, several in proposals:
        for number, proposal in enumerate(several):
            where = (*path, kind, number)
            aead = proposal.encryption in AEAD
            if aead and proposal.integrity is not None:
                yield Problem(
                    pointer(*where, "integrity"),
                    f"{proposal.encryption} authenticates by itself",
                    "leave it out",
                )
            elif not aead and proposal.integrity is None:
                yield Problem(
                    pointer(*where, "integrity"), f"is missing: {proposal.encryption} needs one"
                )
            if tunnel.allow_weak:
                continue
            for field in ("encryption", "integrity", "prf", "dh"):
                algorithm = getattr(proposal, field, None)
                if algorithm in WEAK:
                    yield Problem(pointer(*where, field), f"{algorithm} is weak", "allow_weak")


def _lint_together(section: Section) -> Iterator[Problem]:
    """Two connections that charon, or a packet, could not tell apart."""
    before: list[tuple[str, Tunnel]] = []
    for name, tunnel in section.connections.items():
        path = (SECTION, "connections", name)
        for other_name, other in before:
            both = [
                (local, remote)
                for local, remote in pairs(tunnel)
                if any(_overlap(local, a) and _overlap(remote, b) for a, b in pairs(other))
            ]
            if both:
                yield Problem(
                    pointer(*path, "remote_subnets"),
                    f"{both[0][0]} to {both[0][1]} is {other_name}'s already",
                )
            yield from _lint_pair(tunnel, path, other, other_name)
        before.append((name, tunnel))


def _lint_pair(tunnel: Tunnel, path: Path, other: Tunnel, other_name: str) -> Iterator[Problem]:
    """What a peer says first must tell which connection it means, and which secret."""
    same = identities(tunnel) == identities(other)
    others_secret = None not in {tunnel.psk, other.psk} and tunnel.psk != other.psk
    if same and _same_ends(tunnel, other):
        yield Problem(
            pointer(*path, "peer_identity"),
            f"cannot be told from {other_name}: both have the same ends and identities",
            "one connection with all the subnets, or other identities",
        )
    elif same and others_secret:
        yield Problem(
            pointer(*path, "psk"),
            f"is another than {other_name}'s, which has the same two identities",
        )
    elif others_secret and _by_address_alone(tunnel) and _by_address_alone(other):
        yield Problem(
            pointer(*path, "psk"),
            f"is another than {other_name}'s: IKEv1 finds a pre-shared key by the peer's "
            "address, which both leave open",
            "one key for both, a peer_address, or ikev2",
        )


def _same_ends(one: Tunnel, other: Tunnel) -> bool:
    """Could one peer be at the other end of both?"""
    peers = {one.peer_address, other.peer_address}
    return one.local_address == other.local_address and (len(peers) == 1 or None in peers)


def _by_address_alone(tunnel: Tunnel) -> bool:
    return tunnel.version is not IkeVersion.IKEV2 and tunnel.peer_address is None
