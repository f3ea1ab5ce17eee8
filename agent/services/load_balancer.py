"""The load balancer: TCP and HTTP listeners on the VM's own addresses, by haproxy.

One unit and one configuration. A change is a reload by the master's socket, which hands the
listening sockets over, so that no connection is lost; connections that are open go on in the old
worker. The witness is `description` in `show info`: haproxy answers "reloaded" before it knows
whether the new worker could bind, and goes on with the old one if it could not.

A listener on a public address opens nothing by itself: the address's ingress rules decide.
"""

import enum
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Annotated

from pydantic import Field

from agent.document.site import NicRole
from agent.document.types import AnyAddress, Bool, DomainName, Id, Int, PortNumber, Text
from agent.document.types import Section as Base
from agent.engine.model import (
    AddressSet,
    Artifacts,
    Bind,
    Claim,
    Command,
    Family,
    File,
    HaproxyRuns,
    IPAddress,
    Keep,
    Opening,
    Ports,
    Probe,
    Problem,
    Protocol,
    Reaction,
    Reload,
    SetMatch,
    SetType,
    TcpAccepts,
    Unit,
    UnitActive,
    pointer,
)
from agent.roles import BALANCERS
from agent.services import CURRENT, Context, fill, ingress_chain

SECTION = "load_balancer"
ROLES = BALANCERS
UNIT = "haproxy.service"
UNITS: frozenset[str] = frozenset({UNIT})

CONFIGURATION = "haproxy/haproxy.cfg"
MASTER_SOCKET = "/run/haproxy/master.sock"
STATS_SOCKET = "/run/haproxy/admin.sock"
# Counters and servers' health outlive a reload in these files, which haproxy reads when it starts.
# It would take a server's port from there too, before its own configuration's: what is kept is
# the health of servers that are still the same (management guide, "show servers state").
STATS_FILE = "/run/haproxy/stats"
STATE_FILE = "/run/haproxy/state"
_STATE_COLUMNS = (1, 3, 4, 18)  # be_name, srv_name, srv_addr, srv_port
_WITNESS = b"@witness@"

Milliseconds = Annotated[Int, Field(ge=1, le=86_400_000, examples=[5000])]
# The path and query of a URL; nothing that means anything in haproxy's configuration.
UrlPath = Annotated[
    str,
    Text(r"^/[A-Za-z0-9._~!*+,;=:@%/?&-]{0,255}$", max_length=256),
    Field(examples=["/health"]),
]
StatusRange = Annotated[
    str,
    Text(r"^[1-5][0-9][0-9](?:-[1-5][0-9][0-9])?$", max_length=7),
    Field(examples=["200-399"]),
]


class Mode(enum.StrEnum):
    """What the listener understands of what passes."""

    TCP = "tcp"
    HTTP = "http"


class Balance(enum.StrEnum):
    """Which server gets a connection: in turn, the least busy, or always the same for a client."""

    ROUNDROBIN = "roundrobin"
    LEASTCONN = "leastconn"
    SOURCE = "source"


class ServerState(enum.StrEnum):
    """`drain` finishes what it has and gets nothing new; `maintenance` is not used or checked."""

    READY = "ready"
    DRAIN = "drain"
    MAINTENANCE = "maintenance"


class CheckType(enum.StrEnum):
    """How a server is found to be alive."""

    TCP = "tcp"
    HTTP = "http"
    NONE = "none"


class BalancedServer(Base):
    """One server behind a listener."""

    address: Annotated[AnyAddress, Field(description="The server's address.")]
    port: Annotated[PortNumber, Field(description="The server's TCP port.")]
    weight: Annotated[
        Int,
        Field(ge=0, le=256, description="Its share, relative to the others; 0 gets nothing new."),
    ] = 1
    state: Annotated[ServerState, Field(description="Whether it is in use.")] = ServerState.READY


class HealthCheck(Base):
    """How servers are found to be alive."""

    type: Annotated[
        CheckType,
        Field(description="A connection is accepted; a page has the right status; or no check."),
    ] = CheckType.TCP
    path: Annotated[UrlPath, Field(description="The page, for http.")] = "/"
    host: Annotated[
        DomainName | None,
        Field(description="The Host header of the check, for http; HTTP/1.0 without one."),
    ] = None
    expect: Annotated[
        StatusRange, Field(description="HTTP status, or range of them, of a server that is alive.")
    ] = "200-399"
    interval_ms: Annotated[
        Milliseconds, Field(description="Time between two checks, in milliseconds.")
    ] = 5000
    rise: Annotated[
        Int, Field(ge=1, le=100, description="Good checks until a dead server is used again.")
    ] = 2
    fall: Annotated[
        Int, Field(ge=1, le=100, description="Failed checks until a server is not used.")
    ] = 3


class Timeouts(Base):
    """After how long a silent connection is closed, in milliseconds."""

    client_ms: Annotated[Milliseconds, Field(description="Nothing from the client.")] = 50_000
    server_ms: Annotated[Milliseconds, Field(description="Nothing from the server.")] = 50_000
    connect_ms: Annotated[
        Milliseconds, Field(description="The server has not accepted the connection.")
    ] = 5000


class Listener(Base):
    """An address and port of the VM, and the servers that share what comes in."""

    address: Annotated[
        AnyAddress, Field(description="An address of one of the VM's public or guest NICs.")
    ]
    port: Annotated[PortNumber, Field(description="TCP port.")]
    mode: Annotated[Mode, Field(description="`http` looks at requests, `tcp` at nothing.")] = (
        Mode.TCP
    )
    balance: Annotated[Balance, Field(description="Which server gets a connection.")] = (
        Balance.ROUNDROBIN
    )
    servers: Annotated[
        Mapping[Id, BalancedServer],
        Field(
            description="Servers by id. A listener without any accepts and closes at once.",
            examples=[{"vm1": {"address": "10.1.1.10", "port": 8080}}],
        ),
    ] = {}
    check: Annotated[HealthCheck, Field(description="Health checks.")] = HealthCheck()
    timeouts: Annotated[Timeouts, Field(description="Time-outs.")] = Timeouts()
    max_connections: Annotated[
        Int,
        Field(
            ge=1,
            le=1_000_000,
            description="Connections at once; more wait in the kernel's queue.",
        ),
    ] = 4096
    x_forwarded_for: Annotated[
        Bool,
        Field(description="Tell servers the client's address in X-Forwarded-For, for mode http."),
    ] = True


class Section(Base):
    """Listeners that spread connections over servers, by haproxy."""

    listeners: Annotated[
        Mapping[Id, Listener],
        Field(
            description="Listeners by id. One on a public address is reached by whom the "
            "firewall's ingress rules of that address let in; one on a guest address by the "
            "guests of that network.",
            examples=[
                {
                    "web": {
                        "address": "203.0.113.10",
                        "port": 80,
                        "servers": {"vm1": {"address": "10.1.1.10", "port": 8080}},
                    }
                }
            ],
        ),
    ] = {}


ABSENT = None


def lint(section: Section, context: Context) -> Iterator[Problem]:
    usable = {
        interface.ip
        for nic in context.nics
        if nic.role in {NicRole.PUBLIC, NicRole.GUEST}
        for interface in nic.addresses
    }
    own = {interface.ip for nic in context.nics for interface in nic.addresses}
    for name, listener in section.listeners.items():
        path = (SECTION, "listeners", name)
        if listener.address not in usable:
            hint = ", ".join(map(str, sorted(usable, key=lambda a: (a.version, a))))
            yield Problem(
                pointer(*path, "address"),
                f"{listener.address} is not an address of a public or guest NIC",
                f"one of {hint}" if hint else "there is none",
            )
        for key, server in listener.servers.items():
            where = pointer(*path, "servers", key, "address")
            if server.address.is_multicast or server.address.is_unspecified:
                yield Problem(where, f"{server.address} is not a host's address")
            elif server.address.is_loopback:
                yield Problem(where, f"{server.address} is the VM itself")
            elif server.address in own:
                yield Problem(where, f"{server.address} is the VM's own address")
        low, _, high = listener.check.expect.partition("-")
        if high and int(low) > int(high):
            yield Problem(pointer(*path, "check", "expect"), "ends before it begins")


def render(section: Section, context: Context) -> Artifacts:
    if not section.listeners:
        return Artifacts()
    text = fill(
        "load_balancer/haproxy.cfg",
        witness=_WITNESS.decode(),
        stats_socket=STATS_SOCKET,
        stats_file=STATS_FILE,
        state_file=STATE_FILE,
        listeners=[_block(name, item) for name, item in sorted(section.listeners.items())],
    )
    digest = hashlib.sha256(text).hexdigest().encode()
    return Artifacts(
        files=(File(CONFIGURATION, text.replace(_WITNESS, digest, 1), UNIT, Reaction.RELOAD),),
        units=(Unit(UNIT, Reload.HAPROXY_MASTER, MASTER_SOCKET, _keeps(section), _binds(section)),),
        sets=tuple(_sets(section)),
        openings=tuple(_openings(section, context)),
        claims=tuple(
            Claim(
                item.address,
                Protocol.TCP,
                Ports(item.port, item.port),
                _path(name),
            )
            for name, item in sorted(section.listeners.items())
        ),
    )


def _binds(section: Section) -> tuple[Bind, ...]:
    return tuple(
        Bind(item.address, item.port, _path(name))
        for name, item in sorted(section.listeners.items())
    )


def _keeps(section: Section) -> tuple[Keep, ...]:
    servers = frozenset(
        (name, key, str(server.address), str(server.port))
        for name, listener in section.listeners.items()
        for key, server in listener.servers.items()
    )
    return (
        Keep(STATS_SOCKET, "dump stats-file", STATS_FILE),
        Keep(STATS_SOCKET, "show servers state", STATE_FILE, _STATE_COLUMNS, servers),
    )


def _path(name: str) -> str:
    return f"/{SECTION}/listeners/{name}"  # an id has nothing that a JSON pointer escapes


def _host(address: IPAddress) -> str:
    return f"[{address}]" if isinstance(address, IPv6Address) else str(address)


@dataclass(frozen=True, slots=True)
class _Block:
    """A listener as the template lays it out, flat: there may be a thousand of them."""

    path: str
    name: str
    bind: str
    listener: Listener
    request: str
    check: str
    servers: Sequence[str]
    source: bool
    forwarded: bool


def _block(name: str, listener: Listener) -> _Block:
    check = listener.check
    http = check.type is CheckType.HTTP
    return _Block(
        path=_path(name),
        name=name,
        bind=f"{_host(listener.address)}:{listener.port}",
        listener=listener,
        request=_request(check) if http else "",
        check=""
        if check.type is CheckType.NONE
        else f"inter {check.interval_ms}ms rise {check.rise} fall {check.fall}",
        servers=[_server(name, *pair) for pair in sorted(listener.servers.items())],
        source=listener.balance is Balance.SOURCE,
        forwarded=listener.mode is Mode.HTTP and listener.x_forwarded_for,
    )


def _request(check: HealthCheck) -> str:
    request = f"meth GET uri {check.path}"
    return f"{request} ver HTTP/1.1 hdr Host {check.host}" if check.host else request


def _server(listener: str, name: str, server: BalancedServer) -> str:
    # A colon stands in no id, so that no two servers or listeners have one identifier.
    where = f"{_host(server.address)}:{server.port}"
    # Weight 0 is what draining means: existing connections stay, new ones go elsewhere.
    weight = 0 if server.state is ServerState.DRAIN else server.weight
    state = " disabled" if server.state is ServerState.MAINTENANCE else ""
    return f"{name} {where} guid {listener}:{name} weight {weight}{state}"


def _set_name(family: int) -> str:
    return f"lb{family}"


def _sets(section: Section) -> Iterator[AddressSet]:
    members: dict[Family, set[str]] = {family: set() for family in Family}
    for item in section.listeners.values():
        address = item.address
        family = Family.V6 if isinstance(address, IPv6Address) else Family.V4
        members[family].add(f"{address},tcp:{item.port}")
    for family, found in members.items():
        if found:
            name, kind = _set_name(family), SetType.IP_PORT
            yield AddressSet(name, family, kind, frozenset(found), SECTION)


def _openings(section: Section, context: Context) -> Iterator[Opening]:
    """One for each address: the set says which ports, so that listeners cost no rules."""
    for address in sorted(
        {item.address for item in section.listeners.values()}, key=lambda a: (a.version, a)
    ):
        nic = context.nic_of_address(address)
        if nic is None:
            continue
        public = nic.role is NicRole.PUBLIC
        yield Opening(
            # Guests too may come by the public address, if its ingress rules let them in.
            nic=None if public else nic.name,
            protocol=Protocol.TCP,
            ports=None,
            owner=SECTION,
            comment=f"sysvm: listeners on {address}",
            families=(Family(address.version),),
            destination=address,
            sets=(SetMatch(_set_name(address.version), "dst,dst"),),
            gate=ingress_chain(address) if public else "",
        )


def check(section: Section, context: Context, artifacts: Artifacts) -> tuple[Command, ...]:
    if not artifacts.units:
        return ()
    argv = ("haproxy", "-c", "-f", f"{CURRENT}/{CONFIGURATION}")
    return (Command(argv, path=pointer(SECTION)),)


def probe(section: Section, context: Context, artifacts: Artifacts) -> tuple[Probe, ...]:
    """A worker starts with all its listeners or not at all, so its witness speaks for each.

    Connecting to all would reach the servers behind, as a client. One that waits for a request
    first is connected to now and then.
    """
    if not artifacts.units:
        return ()
    http = (one for _, one in sorted(section.listeners.items()) if one.mode is Mode.HTTP)
    return (
        UnitActive(UNIT),
        HaproxyRuns(UNIT, STATS_SOCKET, _description(artifacts.files[0])),
        *(TcpAccepts(UNIT, one.address, one.port) for one in itertools.islice(http, 1)),
    )


def _description(file: File) -> str:
    line = next(x for x in file.content.decode().splitlines() if x.startswith("    description "))
    return line.split()[1]


def inspect(section: Section, context: Context) -> tuple[Command, ...]:
    return (
        Command(("systemctl", "status", "--no-pager", "--full", UNIT)),
        Command(("cat", f"{CURRENT}/{CONFIGURATION}")),
    )
