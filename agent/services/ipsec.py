"""Site-to-site IPsec: tunnels between subnets here and subnets behind a peer, by strongSwan.

There are no files of strongSwan's: each connection is one message to charon, over vici, and the
same messages are kept in the revision for charon to be told again whenever it starts. A changed
connection ends and begins anew; the others are not touched.

Traffic of a tunnel is not translated and not subject to the egress rules: what a connection names
may pass between its subnets, both ways, and nothing else comes out of the tunnel. What is for a
remote subnet and has no tunnel is dropped, never sent in clear.
"""

import enum
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Unpack

from pydantic import Field

from agent.document.site import NicRole
from agent.document.types import (
    AnyAddress,
    AnyNetwork,
    Bool,
    DomainName,
    Id,
    Int,
    Pem,
    PemKey,
    Secret,
    Text,
)
from agent.document.types import Section as Base
from agent.engine.model import (
    ACCEPT,
    DROP,
    RETURN,
    AddressSet,
    Artifacts,
    Chain,
    Claim,
    ClampMss,
    Command,
    Connection,
    Family,
    File,
    IPAddress,
    IPNetwork,
    IpsecPolicy,
    Jump,
    Ports,
    Probe,
    Problem,
    Protocol,
    Rule,
    RuleMatch,
    SetMatch,
    Table,
    Target,
    Unit,
    UnitActive,
    pointer,
)
from agent.roles import Role
from agent.services import TUNNELS_CHAIN, Context, Nic, host_network, sources
from agent.services.firewall import SERVICES_CHAIN

SECTION = "ipsec"
ROLES = frozenset({Role.ROUTER})
UNIT = "strongswan.service"
UNITS: frozenset[str] = frozenset({UNIT})

# What charon is told when it starts (agent.system.vici); nobody else may read the secrets.
FILE = "ipsec/connections.json"

IKE, NAT_T = Ports(500, 500), Ports(4500, 4500)
_CLEAR, _MSS = "tunnels-clear", "tunnels-mss"
_IN, _OUT = "tunnels-in", "tunnels-out"

# The most that a tunnel adds to a packet, bytes, besides an IP header: UDP 8, ESP 8,
# initialisation vector 16, padding and trailer 17, integrity check value 32 (RFC 4303).
_OVERHEAD = 8 + 8 + 16 + 17 + 32
# A tunnel is keyed anew when this much of its time or volume has passed.
_REKEY_PERCENT = 90
_SHORT_SECRET = 8  # characters


class IkeVersion(enum.StrEnum):
    """`any` begins with IKEv2 and answers both."""

    IKEV2 = "ikev2"
    IKEV1 = "ikev1"
    ANY = "any"


class Encryption(enum.StrEnum):
    """Ciphers; those with `gcm` and `poly1305` authenticate what they encrypt (AEAD)."""

    AES128 = "aes128"
    AES192 = "aes192"
    AES256 = "aes256"
    AES128GCM = "aes128gcm16"
    AES192GCM = "aes192gcm16"
    AES256GCM = "aes256gcm16"
    CHACHA20POLY1305 = "chacha20poly1305"
    TRIPLE_DES = "3des"


class Integrity(enum.StrEnum):
    """Hashes that authenticate what a cipher encrypts."""

    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"
    SHA1 = "sha1"
    MD5 = "md5"


class Prf(enum.StrEnum):
    """Hashes that keys are derived with."""

    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"
    SHA1 = "sha1"
    MD5 = "md5"


class DhGroup(enum.StrEnum):
    """Diffie-Hellman groups."""

    MODP2048 = "modp2048"
    MODP3072 = "modp3072"
    MODP4096 = "modp4096"
    MODP6144 = "modp6144"
    MODP8192 = "modp8192"
    ECP256 = "ecp256"
    ECP384 = "ecp384"
    ECP521 = "ecp521"
    CURVE25519 = "curve25519"
    CURVE448 = "curve448"
    MODP1024 = "modp1024"
    MODP1536 = "modp1536"


class DpdAction(enum.StrEnum):
    """What becomes of a tunnel whose peer is dead."""

    RESTART = "restart"
    TRAP = "trap"
    CLEAR = "clear"


class Start(enum.StrEnum):
    """When a tunnel comes up: at once, with the first packet for it, or when the peer begins."""

    START = "start"
    TRAP = "trap"
    PASSIVE = "passive"


_AEAD = frozenset(
    {
        Encryption.AES128GCM,
        Encryption.AES192GCM,
        Encryption.AES256GCM,
        Encryption.CHACHA20POLY1305,
    }
)
_WEAK: frozenset[enum.StrEnum] = frozenset(
    {
        Encryption.TRIPLE_DES,
        Integrity.SHA1,
        Integrity.MD5,
        Prf.SHA1,
        Prf.MD5,
        DhGroup.MODP1024,
        DhGroup.MODP1536,
    }
)

# An address, a name, user@host, or a distinguished name (C=…, O=…, CN=…); no wildcard.
Identity = Annotated[
    str,
    Text(r"^[A-Za-z0-9@:](?:[A-Za-z0-9 @._:,=/+-]{0,253}[A-Za-z0-9])?$", max_length=255),
    Field(examples=["vpn.example.net"]),
]
# Printable ASCII. Blanks are part of it, but neither its first nor its last character.
PreSharedKey = Annotated[
    str,
    Text(r"^[\x21-\x7e](?:[\x20-\x7e]{0,254}[\x21-\x7e])?$", max_length=256),
    Secret(),
    Field(examples=["correct-horse-battery-staple"]),
]
Seconds = Annotated[Int, Field(ge=30, le=2_592_000, examples=[3600])]


class IkeProposal(Base):
    """Algorithms of the key exchange (IKE)."""

    encryption: Annotated[Encryption, Field(description="Cipher.")]
    integrity: Annotated[
        Integrity | None, Field(description="Authentication, for ciphers that are not AEAD.")
    ] = None
    prf: Annotated[
        Prf | None,
        Field(description="Key derivation; by default that of `integrity`, or sha256 with AEAD."),
    ] = None
    dh: Annotated[DhGroup, Field(description="Diffie-Hellman group.")]


class EspProposal(Base):
    """Algorithms of the traffic (ESP)."""

    encryption: Annotated[Encryption, Field(description="Cipher.")]
    integrity: Annotated[
        Integrity | None, Field(description="Authentication, for ciphers that are not AEAD.")
    ] = None
    dh: Annotated[
        DhGroup | None,
        Field(description="Diffie-Hellman group when keys are renewed (perfect forward secrecy)."),
    ] = None


class Certificates(Base):
    """Authentication of both ends by certificates."""

    certificate: Annotated[
        Pem,
        Field(description="The VM's own certificate, with intermediate ones after it, PEM."),
    ]
    key: Annotated[PemKey, Field(description="Its private key, not encrypted, PEM.")]
    ca: Annotated[Pem, Field(description="The CA that the peer's certificate is signed by, PEM.")]
    crl: Annotated[
        Pem | None,
        Field(description="That CA's revocation list, PEM. A certificate on it is refused."),
    ] = None


class DeadPeerDetection(Base):
    """How a dead peer is found out."""

    delay: Annotated[
        Int, Field(ge=1, le=3600, description="Seconds of silence until the peer is asked.")
    ] = 30
    timeout: Annotated[
        Int,
        Field(
            ge=2,
            le=86400,
            description="Seconds without an answer until it is dead, for IKEv1. IKEv2 gives up "
            "after about a minute of repeated requests.",
        ),
    ] = 120
    action: Annotated[DpdAction, Field(description="What becomes of the tunnel.")] = (
        DpdAction.RESTART
    )


class Tunnel(Base):
    """A connection to one peer."""

    version: Annotated[IkeVersion, Field(description="The key exchange's version.")] = (
        IkeVersion.IKEV2
    )
    local_address: Annotated[AnyAddress, Field(description="One of the VM's public addresses.")]
    local_identity: Annotated[
        Identity | None, Field(description="Who the VM says it is. Its address by default.")
    ] = None
    peer_address: Annotated[
        AnyAddress | None,
        Field(description="The peer's address. Without one and without a name, any may be it."),
    ] = None
    peer_name: Annotated[
        DomainName | None, Field(description="The peer's DNS name, instead of an address.")
    ] = None
    peer_identity: Annotated[
        Identity | None,
        Field(description="Who the peer has to be. Its address by default; needed without one."),
    ] = None
    psk: Annotated[
        PreSharedKey | None, Field(description="The pre-shared key; or `certificates`.")
    ] = None
    certificates: Annotated[
        Certificates | None, Field(description="Certificates, instead of a pre-shared key.")
    ] = None
    local_subnets: Annotated[
        tuple[AnyNetwork, ...],
        Field(min_length=1, max_length=64, description="Networks here, such as the guests'."),
    ]
    remote_subnets: Annotated[
        tuple[AnyNetwork, ...],
        Field(min_length=1, max_length=64, description="Networks behind the peer."),
    ]
    split_connections: Annotated[
        Bool,
        Field(
            description="A tunnel (CHILD_SA) for each pair of subnets, for peers that take one "
            "pair only. Always so with ikev1, which knows nothing else."
        ),
    ] = False
    ike: Annotated[
        tuple[IkeProposal, ...],
        Field(min_length=1, max_length=16, description="Proposals for IKE, the best first."),
    ] = (
        IkeProposal(encryption=Encryption.AES256GCM, prf=Prf.SHA384, dh=DhGroup.ECP384),
        IkeProposal(encryption=Encryption.AES256, integrity=Integrity.SHA256, dh=DhGroup.MODP3072),
    )
    esp: Annotated[
        tuple[EspProposal, ...],
        Field(min_length=1, max_length=16, description="Proposals for ESP, the best first."),
    ] = (
        EspProposal(encryption=Encryption.AES256GCM, dh=DhGroup.ECP384),
        EspProposal(encryption=Encryption.AES256, integrity=Integrity.SHA256, dh=DhGroup.MODP3072),
    )
    ike_lifetime: Annotated[
        Seconds, Field(description="Seconds that keys of IKE live at most; renewed before.")
    ] = 86_400
    esp_lifetime: Annotated[
        Seconds, Field(description="Seconds that keys of ESP live at most; renewed before.")
    ] = 3600
    esp_lifetime_bytes: Annotated[
        Int | None,
        Field(ge=1_000_000, le=2**62, description="Bytes that keys of ESP may protect at most."),
    ] = None
    esp_lifetime_packets: Annotated[
        Int | None,
        Field(ge=1000, le=2**62, description="Packets that keys of ESP may protect at most."),
    ] = None
    dpd: Annotated[
        DeadPeerDetection | None, Field(description="Dead peer detection; null for none.")
    ] = DeadPeerDetection()
    start: Annotated[
        Start,
        Field(
            description="`start` brings the tunnel up at once and, where it is lost, with the "
            "next packet; `trap` with the first packet; `passive` leaves it to the peer."
        ),
    ] = Start.START
    force_encapsulation: Annotated[
        Bool, Field(description="ESP within UDP 4500 also where no NAT is found on the way.")
    ] = False
    mss: Annotated[
        Int | None,
        Field(
            ge=500,
            le=9000,
            description="TCP's largest segment through the tunnel, bytes. By default what fits "
            "the public NIC with every algorithm.",
        ),
    ] = None
    allow_weak: Annotated[
        Bool,
        Field(
            description="Let 3des, md5, sha1, modp1024, modp1536 and pre-shared keys of fewer "
            "than 8 characters be used, for a peer that knows no better."
        ),
    ] = False


class Section(Base):
    """Site-to-site IPsec, by strongSwan."""

    connections: Annotated[
        Mapping[Id, Tunnel],
        Field(
            description="Connections by id.",
            examples=[
                {
                    "branch": {
                        "local_address": "203.0.113.10",
                        "peer_address": "192.0.2.77",
                        "psk": "correct-horse-battery-staple",
                        "local_subnets": ["10.1.1.0/24"],
                        "remote_subnets": ["10.99.0.0/24"],
                    }
                }
            ],
        ),
    ] = {}


ABSENT = None


# -- what is wrong -----------------------------------------------------------------------------


def lint(section: Section, context: Context) -> Iterator[Problem]:
    for name, tunnel in section.connections.items():
        path = (SECTION, "connections", name)
        yield from _lint_ends(tunnel, context, path)
        yield from _lint_subnets(tunnel, context, path)
        yield from _lint_authentication(tunnel, path)
        yield from _lint_algorithms(tunnel, path)
    yield from _lint_together(section)


Path = tuple[object, ...]


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
            aead = proposal.encryption in _AEAD
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
                if algorithm in _WEAK:
                    yield Problem(pointer(*where, field), f"{algorithm} is weak", "allow_weak")


def _lint_together(section: Section) -> Iterator[Problem]:
    """Two connections that charon, or a packet, could not tell apart."""
    before: list[tuple[str, Tunnel]] = []
    for name, tunnel in section.connections.items():
        path = (SECTION, "connections", name)
        for other_name, other in before:
            pairs = [
                (local, remote)
                for local, remote in _pairs(tunnel)
                if any(_overlap(local, a) and _overlap(remote, b) for a, b in _pairs(other))
            ]
            if pairs:
                yield Problem(
                    pointer(*path, "remote_subnets"),
                    f"{pairs[0][0]} to {pairs[0][1]} is {other_name}'s already",
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


def identities(tunnel: Tunnel) -> tuple[str, str]:
    """Who we are, and who the peer has to be."""
    peer = tunnel.peer_identity or str(tunnel.peer_address)
    return tunnel.local_identity or str(tunnel.local_address), peer


def expiry(certificates: Certificates) -> float:
    """When the VM's own certificate ends to be valid, in seconds since the epoch."""
    from cryptography import x509

    own = x509.load_pem_x509_certificates(certificates.certificate.encode())[0]
    return own.not_valid_after_utc.timestamp()


def _pairs(tunnel: Tunnel) -> Iterator[tuple[IPNetwork, IPNetwork]]:
    for local in tunnel.local_subnets:
        for remote in tunnel.remote_subnets:
            if local.version == remote.version:
                yield local, remote


# -- what charon is told -----------------------------------------------------------------------


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
    pairs = tuple(_pairs(tunnel))
    if len(pairs) == 1:
        return (Child(name, (pairs[0][0],), (pairs[0][1],)),)
    return tuple(
        Child(f"{name}-{number}", (local,), (remote,))
        for number, (local, remote) in enumerate(pairs, 1)
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


# -- what has to be there ----------------------------------------------------------------------


def render(section: Section, context: Context) -> Artifacts:
    if not section.connections:
        return Artifacts()
    connections = tuple(_connection(*item) for item in sorted(section.connections.items()))
    rules = _Rules(section, context)
    rules.render()
    return Artifacts(
        files=(File(FILE, _file(connections), UNIT, mode=0o600),),
        units=(Unit(UNIT),),
        connections=connections,
        chains=tuple(rules.chains),
        rules=tuple(rules.rules),
        sets=tuple(rules.sets.values()),
        claims=tuple(_claims(section)),
    )


def _connection(name: str, tunnel: Tunnel) -> Connection:
    content = json.dumps(message(name, tunnel), sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()[:32]
    path = pointer(SECTION, "connections", name)
    return Connection(name, digest, content, UNIT, path, SECTION)


def _file(connections: Sequence[Connection]) -> bytes:
    rows = [
        {"name": one.name, "digest": one.digest, "content": json.loads(one.content)}
        for one in connections
    ]
    return json.dumps(rows, indent=1, sort_keys=True).encode() + b"\n"


def _claims(section: Section) -> Iterator[Claim]:
    """The ports of key exchange, once for each address."""
    first: dict[IPAddress, str] = {}
    for name, tunnel in section.connections.items():
        first.setdefault(tunnel.local_address, name)
    for address, name in first.items():
        for ports in (IKE, NAT_T):
            path = pointer(SECTION, "connections", name, "local_address")
            yield Claim(address, Protocol.UDP, ports, path)


class _Rules:
    """The firewall's part of all connections."""

    def __init__(self, section: Section, context: Context) -> None:
        self._section = section
        self._context = context
        self.chains: list[Chain] = []
        self.rules: list[Rule] = []
        self.sets: dict[str, AddressSet] = {}

    def render(self) -> None:
        for family in Family:
            self._frame(family)
            for name, tunnel in sorted(self._section.connections.items()):
                path = pointer(SECTION, "connections", name)
                if tunnel.local_address.version == family:
                    self._exchange(family, tunnel, path)
                for number, remote in enumerate(tunnel.remote_subnets):
                    if remote.version == family:
                        where = f"{path}/remote_subnets/{number}"
                        self._passage(family, tunnel, remote, where)

    def _rule(
        self,
        family: Family,
        table: Table,
        chain: str,
        target: Target,
        comment: str,
        **match: Unpack[RuleMatch],
    ) -> None:
        self.rules.append(
            Rule(
                family=family,
                table=table,
                chain=chain,
                target=target,
                owner=SECTION,
                comment=comment,
                **match,
            )
        )

    def _frame(self, family: Family) -> None:
        """What came out of a tunnel, and what goes into one; and what would leave without one."""
        for chain in (_IN, _OUT):
            self.chains.append(Chain(family, Table.FILTER, chain, SECTION))
        for chain in (_CLEAR, _MSS):
            self.chains.append(Chain(family, Table.MANGLE, chain, SECTION))
        self.chains.append(Chain(family, Table.MANGLE, "POSTROUTING", SECTION, "ACCEPT"))
        filtered = family, Table.FILTER, TUNNELS_CHAIN
        self._rule(*filtered, Jump(_IN), "sysvm: out of a tunnel", policy=IpsecPolicy.CAME_IN)
        self._rule(*filtered, Jump(_OUT), "sysvm: into a tunnel", policy=IpsecPolicy.GOES_OUT)
        mangled = family, Table.MANGLE, "POSTROUTING"
        self._rule(
            *mangled, Jump(_MSS), "sysvm: clamp MSS of tunnels", protocol=Protocol.TCP, syn=True
        )
        for nic in self._context.nics_of(NicRole.PUBLIC):
            self._rule(
                *mangled,
                Jump(_CLEAR),
                f"sysvm: not in clear by {nic.name}",
                out_nic=nic.name,
                policy=IpsecPolicy.GOES_OUT_CLEAR,
            )
        # A peer may stand in a network that it has a tunnel for.
        clear = family, Table.MANGLE, _CLEAR
        self._rule(*clear, RETURN, "sysvm: ESP itself", protocol=Protocol.ESP)
        for ports in (IKE, NAT_T):
            self._rule(*clear, RETURN, f"sysvm: IKE to {ports}", protocol=Protocol.UDP, ports=ports)

    def _exchange(self, family: Family, tunnel: Tunnel, path: str) -> None:
        """IKE and ESP, from the peer alone where its address is known."""
        nic = self._context.nic_of_address(tunnel.local_address)
        peer = tunnel.peer_address
        match = RuleMatch(
            in_nic=nic.name if nic else None,
            source=host_network(peer) if peer else None,
            destination=host_network(tunnel.local_address),
        )
        services = family, Table.FILTER, SERVICES_CHAIN
        for ports in (IKE, NAT_T):
            exchange = match | RuleMatch(protocol=Protocol.UDP, ports=ports)
            self._rule(*services, ACCEPT, f"{path} UDP {ports}", **exchange)
        traffic = match | RuleMatch(protocol=Protocol.ESP)
        self._rule(*services, ACCEPT, f"{path} ESP", **traffic)

    def _passage(self, family: Family, tunnel: Tunnel, remote: IPNetwork, path: str) -> None:
        """What one remote subnet and the local ones say to each other."""
        own = tuple(network for network in tunnel.local_subnets if network.version == family)
        network, address_set = sources(own, family, SECTION) or (None, None)
        if address_set is not None:
            self.sets[address_set.name] = address_set
        incoming = RuleMatch(source=remote, destination=network, flow_sources=(remote,))
        outgoing = RuleMatch(source=network, destination=remote, flow_sources=own)
        if address_set is not None:
            incoming["sets"] = (SetMatch(address_set.name, "dst"),)
            outgoing["sets"] = (SetMatch(address_set.name, "src"),)
        clear = RuleMatch(destination=remote, flow_sources=own)
        self._rule(family, Table.FILTER, _IN, ACCEPT, path, **incoming)
        self._rule(family, Table.FILTER, _OUT, ACCEPT, path, **outgoing)
        self._pings(family, remote, path)
        self._rule(family, Table.MANGLE, _CLEAR, DROP, path, **clear)
        size = ClampMss(tunnel.mss or self._mss(family, tunnel))
        out = RuleMatch(protocol=Protocol.TCP, syn=True, destination=remote)
        back = RuleMatch(protocol=Protocol.TCP, syn=True, source=remote)
        self._rule(family, Table.MANGLE, _MSS, size, f"{path} out", **out)
        self._rule(family, Table.MANGLE, _MSS, size, f"{path} in", **back)
        if family is Family.V4:
            self._rule(family, Table.NAT, TUNNELS_CHAIN, ACCEPT, path, **outgoing)

    def _pings(self, family: Family, remote: IPNetwork, path: str) -> None:
        """The VM's own addresses in guest networks answer who looks whether a tunnel works."""
        six = family is Family.V6
        for nic in self._context.nics_of(NicRole.GUEST):
            for address in nic.addresses:
                if address.version == family:
                    self._rule(
                        family,
                        Table.FILTER,
                        SERVICES_CHAIN,
                        ACCEPT,
                        f"{path} ping to {address.ip}",
                        source=remote,
                        destination=host_network(address.ip),
                        protocol=Protocol.ICMPV6 if six else Protocol.ICMP,
                        icmp_type=128 if six else 8,
                        policy=IpsecPolicy.CAME_IN,
                    )

    def _mss(self, inner: Family, tunnel: Tunnel) -> int:
        nic: Nic | None = self._context.nic_of_address(tunnel.local_address)
        mtu = nic.mtu if nic else 1500
        outer = tunnel.local_address.version
        headers = {Family.V4: 40, Family.V6: 60}[inner]
        return mtu - {4: 20, 6: 40}[outer] - _OVERHEAD - headers


def check(section: Section, context: Context, artifacts: Artifacts) -> tuple[Command, ...]:
    return ()  # charon judges when it is told; a connection that it refuses rolls the push back


def probe(section: Section, context: Context, artifacts: Artifacts) -> tuple[Probe, ...]:
    """charon runs. That it has these very connections, the reading back proves by their digests.

    Whether a tunnel is up is the peer's affair as much as ours, and no reason to undo a push.
    """
    return (UnitActive(UNIT),) if artifacts.units else ()


def inspect(section: Section, context: Context) -> tuple[Command, ...]:
    return (
        Command(("systemctl", "status", "--no-pager", "--full", UNIT)),
        Command(("swanctl", "--list-sas")),
        Command(("swanctl", "--list-conns")),
        Command(("ip", "-s", "xfrm", "policy")),
    )
