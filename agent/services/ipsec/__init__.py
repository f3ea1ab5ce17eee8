"""Site-to-site IPsec: tunnels between subnets here and subnets behind a peer, by strongSwan.

There are no files of strongSwan's: each connection is one message to charon, over vici, and the
same messages are kept in the revision for charon to be told again whenever it starts. A changed
connection ends and begins anew; the others are not touched.

Traffic of a tunnel is not translated and not subject to the egress rules: what a connection names
may pass between its subnets, both ways, and nothing else comes out of the tunnel. What is for a
remote subnet and has no tunnel is dropped, never sent in clear.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence

from agent.engine.model import (
    Artifacts,
    CharonAnswers,
    Claim,
    Command,
    Connection,
    File,
    IPAddress,
    Probe,
    Protocol,
    Unit,
    UnitActive,
    pointer,
)
from agent.roles import Role
from agent.services import Context
from agent.services.ipsec.messages import Child, children, message
from agent.services.ipsec.problems import lint
from agent.services.ipsec.rules import IKE, NAT_T, Rules
from agent.services.ipsec.section import (
    SECTION,
    Certificates,
    Section,
    Start,
    Tunnel,
    identities,
)

__all__ = [
    "ABSENT", "FILE", "ROLES", "SECTION", "UNIT", "UNITS", "Child", "Section", "Start", "Tunnel",
    "check", "children", "expiry", "identities", "inspect", "lint", "probe", "render",
]  # fmt: skip

ROLES = frozenset({Role.ROUTER})
UNIT = "strongswan.service"
UNITS: frozenset[str] = frozenset({UNIT})
ABSENT = None

# What charon is told when it starts (agent.system.vici); nobody else may read the secrets.
FILE = "ipsec/connections.json"


def render(section: Section, context: Context) -> Artifacts:
    if not section.connections:
        return Artifacts()
    connections = tuple(_connection(*item) for item in sorted(section.connections.items()))
    rules = Rules(section, context)
    rules.render()
    return Artifacts(
        files=(File(FILE, _file(connections), UNIT, mode=0o600),),
        units=(Unit(UNIT, process="charon"),),
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


def check(section: Section, context: Context, artifacts: Artifacts) -> tuple[Command, ...]:
    return ()  # charon judges when it is told; a connection that it refuses rolls the push back


def probe(section: Section, context: Context, artifacts: Artifacts) -> tuple[Probe, ...]:
    """charon runs. That it has these very connections, the reading back proves by their digests.

    Whether a tunnel is up is the peer's affair as much as ours, and no reason to undo a push.
    """
    return (UnitActive(UNIT), CharonAnswers(UNIT)) if artifacts.units else ()


def inspect(section: Section, context: Context) -> tuple[Command, ...]:
    return (
        Command(("systemctl", "status", "--no-pager", "--full", UNIT)),
        Command(("swanctl", "--list-sas")),
        Command(("swanctl", "--list-conns")),
        Command(("ip", "-s", "xfrm", "policy")),
    )


def expiry(certificates: Certificates) -> float:
    """When the VM's own certificate ends to be valid, in seconds since the epoch."""
    from cryptography import x509

    own = x509.load_pem_x509_certificates(certificates.certificate.encode())[0]
    return own.not_valid_after_utc.timestamp()
