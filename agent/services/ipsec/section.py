"""The section of a document: connections to peers, of constrained and described types."""

import enum
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

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
from agent.engine.model import IPNetwork

SECTION = "ipsec"


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


AEAD = frozenset(
    {
        Encryption.AES128GCM,
        Encryption.AES192GCM,
        Encryption.AES256GCM,
        Encryption.CHACHA20POLY1305,
    }
)
WEAK: frozenset[enum.StrEnum] = frozenset(
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
        # libreswan renews keys with the cipher that there is, and the group of IKE.
        EspProposal(encryption=Encryption.AES256GCM, dh=DhGroup.MODP3072),
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


def identities(tunnel: Tunnel) -> tuple[str, str]:
    """Who we are, and who the peer has to be."""
    peer = tunnel.peer_identity or str(tunnel.peer_address)
    return tunnel.local_identity or str(tunnel.local_address), peer


def pairs(tunnel: Tunnel) -> Iterator[tuple[IPNetwork, IPNetwork]]:
    """Each subnet here with each one behind the peer that is of its family."""
    for local in tunnel.local_subnets:
        for remote in tunnel.remote_subnets:
            if local.version == remote.version:
                yield local, remote
