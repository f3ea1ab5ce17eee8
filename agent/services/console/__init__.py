"""The console proxy: guests' screens in browsers (`agent.console`), on the public NICs.

What is here is how the proxy is; the sessions are pushed one by one (`/v1/console/sessions`) and
are no part of the document. Certificates are given piece by piece under names of management's own,
so that one can be replaced or removed by a merge patch; which is whose is found out here, and
every fault is told at once. That a certificate has run out is no fault of the document: a VM that
boots with one comes up as it was.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Annotated, Any

from pydantic import Field

from agent.console.certificates import Pair
from agent.console.names import name
from agent.document.site import NicRole
from agent.document.types import (
    LABEL,
    AnyNetwork,
    Bool,
    Id,
    Int,
    PortNumber,
    PortRange,
    Secret,
    Text,
)
from agent.document.types import Section as Base
from agent.engine.model import (
    Artifacts,
    Claim,
    Command,
    Family,
    File,
    HttpReturns,
    IPAddress,
    IPNetwork,
    Opening,
    Ports,
    Probe,
    Problem,
    Protocol,
    Reaction,
    Unit,
    UnitActive,
    pointer,
)
from agent.roles import Role
from agent.services import CURRENT, Context, Nic
from agent.services.console.wall import Wall

SECTION = "console"
ROLES = frozenset({Role.CONSOLE_PROXY})
UNIT = "sysvm-console-proxy.service"
UNITS: frozenset[str] = frozenset({UNIT})

FOLDER = "console"
LISTEN = f"{FOLDER}/listen.json"
CONSOLE = f"{FOLDER}/console.json"
CHAIN = f"{FOLDER}/chain.pem"
KEY = f"{FOLDER}/key.pem"
USER = "sysvm-console-proxy"
OWNER = f"{USER}:nogroup"
STATUS = IPv4Address("127.0.0.1")
STATUS_PORT = 8447
NOVNC = "/usr/share/novnc"

# PEM is parsed and written anew: a mistake in it is named, rather than the pattern that it breaks.
_PemText = Text(r"^[\n\r\t\u0020-\u007e]{1,131072}$", max_length=131072)
PemPiece = Annotated[str, _PemText]
PemKeyPiece = Annotated[str, _PemText, Secret()]
Passphrase = Annotated[str, Text(r"^[\u0020-\u007e]{1,256}$", max_length=256), Secret()]
ProxyDomain = Annotated[
    str,
    Text(rf"^(?:\*\.)?{LABEL}(?:\.{LABEL})+$", max_length=253),
    Field(examples=["*.console.example"]),
]
Origin = Annotated[
    str,
    Text(rf"^https?://{LABEL}(?:\.{LABEL})*(?::[1-9][0-9]{{0,4}})?$", max_length=270),
    Field(examples=["https://cloud.example"]),
]
ClassPath = Annotated[
    str,
    Text(r"^[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)+$", max_length=200),
    Field(examples=["websockify.token_plugins.TokenFile"]),
]
PluginSource = Annotated[str, Text(r"^[\u0020-\u007e]{0,1024}$", max_length=1024), Secret()]


class ConsolePlugin(Base):
    """One of websockify's plug-ins, as `--token-plugin` or `--auth-plugin` takes it."""

    path: Annotated[ClassPath, Field(description="The class, with its module.")]
    source: Annotated[
        PluginSource, Field(description="What it is made with; it may have passwords in it.")
    ] = ""


class Section(Base):
    """Guests' screens in browsers, on the public NICs."""

    networks: Annotated[
        tuple[AnyNetwork, ...],
        Field(
            min_length=1,
            max_length=256,
            description="Hypervisors' networks: no screen lies anywhere else.",
            examples=[["10.2.0.0/24"]],
        ),
    ]
    ports: Annotated[
        tuple[PortRange, ...],
        Field(
            min_length=1,
            max_length=64,
            description="Ports of hypervisors' screens.",
            # As it is written, not as it is kept.
            json_schema_extra={"default": ["5900-6900", 443]},
        ),
    ] = (Ports(5900, 6900), Ports(443, 443))
    guest_networks: Annotated[
        tuple[AnyNetwork, ...],
        Field(
            max_length=1024,
            description="Guests' networks, where no screen is whatever `networks` says, and where "
            "nothing goes that the VM opens. Those of its own guest NICs are added.",
        ),
    ] = ()
    domain: Annotated[
        ProxyDomain | None,
        Field(
            description="How browsers call the proxy: one name, or `*.` and a domain in which each "
            "address has a name of its own (203.0.113.7 is 203-0-113-7; an IPv6 address is written "
            "in full). Without, by its address."
        ),
    ] = None
    port: Annotated[PortNumber, Field(description="TCP port of the page and of the consoles.")] = (
        443
    )
    plain_port: Annotated[
        PortNumber | None,
        Field(
            description="TCP port without TLS: it leads to `port`, or serves where there are no "
            "certificates."
        ),
    ] = 80
    public_port: Annotated[
        PortNumber | None,
        Field(description="The port that browsers use, where a load balancer has another one."),
    ] = None
    balancer_does_tls: Annotated[
        Bool, Field(description="A load balancer does TLS; the proxy serves without, on `port`.")
    ] = False
    balancers: Annotated[
        tuple[AnyNetwork, ...],
        Field(
            max_length=64,
            description="Load balancers, which say by the PROXY protocol (1 or 2) who comes.",
        ),
    ] = ()
    certificates: Annotated[
        Mapping[Id, PemPiece],
        Field(
            max_length=64,
            description="Certificates in PEM, one or more in each, in any order: the server's own, "
            "intermediate ones, the root.",
        ),
    ] = {}
    key: Annotated[
        PemKeyPiece | None,
        Field(description="The server's private key, PEM: PKCS#8, PKCS#1 or EC, also encrypted."),
    ] = None
    passphrase: Annotated[
        Passphrase | None, Field(description="What the private key is encrypted with.")
    ] = None
    framed_by: Annotated[
        tuple[Origin, ...],
        Field(max_length=16, description="Pages that may show a console in a frame of theirs."),
    ] = ()
    native_clients: Annotated[
        Bool, Field(description="Let in WebSocket clients that are no browser (no Origin).")
    ] = False
    max_sessions: Annotated[
        Int, Field(ge=1, le=20000, description="Sessions at once; no more are let in.")
    ] = 50
    max_half_open: Annotated[
        Int,
        Field(ge=8, le=20000, description="Connections that have no session yet, in each worker."),
    ] = 512
    max_half_open_per_source: Annotated[
        Int, Field(ge=1, le=20000, description="The same, of one address (IPv6: of one /64).")
    ] = 64
    connections_per_second: Annotated[
        Int, Field(ge=1, le=10000, description="New connections of one source, in the long run.")
    ] = 20
    connections_burst: Annotated[
        Int, Field(ge=1, le=10000, description="New connections of one source at once.")
    ] = 200
    report_interval: Annotated[
        Int, Field(ge=1, le=300, description="Seconds between two reports of the sessions.")
    ] = 5
    token_plugin: Annotated[
        ConsolePlugin | None,
        Field(description="Knows targets by tokens (`/socket?token=`), beside the sessions."),
    ] = None
    auth_plugin: Annotated[
        ConsolePlugin | None, Field(description="Is asked before a WebSocket is opened.")
    ] = None


ABSENT = None


def _listening(context: Context) -> tuple[tuple[Nic, IPAddress], ...]:
    return tuple(
        (nic, interface.ip)
        for nic in context.nics_of(NicRole.PUBLIC)
        for interface in nic.addresses
        if not interface.is_link_local or interface.version == 4
    )


def names(section: Section, context: Context) -> tuple[str, ...]:
    """What browsers call the proxy, without the port."""
    addresses = [address for _, address in _listening(context)]
    if section.domain is None:
        return tuple(f"[{a}]" if a.version == 6 else str(a) for a in addresses)
    return tuple(dict.fromkeys(name(address, section.domain) for address in addresses))


def untimely(section: Section, now: float) -> Iterator[Problem]:
    """What of new certificates has run out, or is for later."""
    if not section.certificates:
        return
    from datetime import UTC, datetime

    from agent.console.certificates import check as examine

    given = (section.certificates, section.key or "", section.passphrase or "")
    known = examine(*given).faults
    for fault in examine(*given, now=datetime.fromtimestamp(now, UTC)).faults:
        if fault.grave and fault not in known:
            yield Problem(_where(fault.piece), fault.message, fault.hint)


def _pair(section: Section, context: Context) -> Pair | None:
    if not section.certificates and section.key is None:
        return None
    from agent.console.certificates import check as examine

    wanted = [name.strip("[]") for name in names(section, context)]
    return examine(section.certificates, section.key or "", section.passphrase or "", wanted=wanted)


def lint(section: Section, context: Context) -> Iterator[Problem]:
    if not _listening(context):
        yield Problem("/site/nics", "the VM has no public address, where consoles would be")
    if section.plain_port == section.port:
        yield Problem(pointer(SECTION, "plain_port"), f"is {section.port}, as port is")
    for index, network in enumerate(section.networks):
        if network.prefixlen == 0:
            hint = "the networks in which hypervisors are"
            yield Problem(pointer(SECTION, "networks", index), "is everything", hint)
    if section.certificates and section.key is None:
        yield Problem(pointer(SECTION, "key"), "is missing", "certificates come with their key")
    elif (pair := _pair(section, context)) is not None:
        if section.balancer_does_tls:
            hint = "leave the certificates to the load balancer"
            yield Problem(
                pointer(SECTION, "balancer_does_tls"), "there are certificates, too", hint
            )
        for fault in pair.faults:
            if fault.grave:
                yield Problem(_where(fault.piece), fault.message, fault.hint)


def _where(piece: str) -> str:
    if piece in {"key", "passphrase"}:
        return pointer(SECTION, piece)
    return pointer(SECTION, "certificates", piece) if piece else pointer(SECTION, "certificates")


def render(section: Section, context: Context) -> Artifacts:
    listening = _listening(context)
    pair = _pair(section, context)
    tls = pair is not None
    ports = _ports(section, tls=tls)
    listen = {
        "listen": [
            {
                "address": str(address),
                "port": port,
                "service": service,
                "to": _origin_of(section, host),
            }
            for (_, address), host in zip(
                listening, _hosts_by_address(section, context), strict=True
            )
            for port, service in ports
        ]
        + [{"address": str(STATUS), "port": STATUS_PORT, "service": "status"}]
    }
    value = _console(section, context, secure=tls or section.balancer_does_tls)
    secret = (pair.chain, pair.key) if pair is not None else ("", "")
    text = json.dumps([listen, value, secret], sort_keys=True).encode()
    value["witness"] = hashlib.sha256(text).hexdigest()
    files = [
        File(LISTEN, _json(listen), UNIT, Reaction.RELOAD),
        File(CONSOLE, _json(value), UNIT, Reaction.RELOAD, 0o600, OWNER),
    ]
    if pair is not None:
        files += [
            File(CHAIN, pair.chain.encode(), UNIT, Reaction.RELOAD),
            File(KEY, pair.key.encode(), UNIT, Reaction.RELOAD, 0o600, OWNER),
        ]
    wall = Wall(SECTION, USER, section.networks, section.ports, _guest_networks(section, context))
    return Artifacts(
        files=tuple(files),
        chains=wall.chains,
        rules=wall.rules,
        sets=wall.sets,
        units=(Unit(UNIT),),
        openings=tuple(
            Opening(
                nic.name,
                Protocol.TCP,
                Ports(port, port),
                SECTION,
                f"sysvm: consoles at {address}",
                families=(Family(address.version),),
                destination=address,
            )
            for nic, address in listening
            for port, _ in ports
        ),
        claims=(
            *(
                Claim(address, Protocol.TCP, Ports(port, port), pointer(SECTION))
                for _, address in listening
                for port, _ in ports
            ),
            Claim(STATUS, Protocol.TCP, Ports(STATUS_PORT, STATUS_PORT), pointer(SECTION)),
        ),
    )


def _guest_networks(section: Section, context: Context) -> tuple[IPNetwork, ...]:
    """Guests' networks, where no screen is."""
    own = (a.network for nic in context.nics_of(NicRole.GUEST) for a in nic.addresses)
    return (*section.guest_networks, *own)


def _ports(section: Section, *, tls: bool) -> tuple[tuple[int, str], ...]:
    """Where there is what, at each address."""
    if section.balancer_does_tls:
        return ((section.port, "plain"),)
    if tls:
        redirect = () if section.plain_port is None else ((section.plain_port, "redirect"),)
        return ((section.port, "tls"), *redirect)
    return ((section.plain_port or section.port, "plain"),)


def _hosts_by_address(section: Section, context: Context) -> Iterator[str]:
    """The name of the place that a listener without TLS leads to."""
    for _, address in _listening(context):
        if section.domain is not None:
            yield name(address, section.domain)
        else:
            yield f"[{address}]" if address.version == 6 else str(address)


def _origin_of(section: Section, host: str) -> str:
    port = section.public_port or section.port
    return f"https://{host}" if port == 443 else f"https://{host}:{port}"


def _console(section: Section, context: Context, *, secure: bool) -> dict[str, Any]:
    """What `agent.console.configuration` reads."""
    usual, scheme = (443, "https") if secure else (80, "http")
    inner = section.port if secure else section.plain_port or section.port
    port = section.public_port or inner
    hosts = [n if port == usual else f"{n}:{port}" for n in names(section, context)]
    own = [IPv4Network(a.ip) if a.version == 4 else IPv6Network(a.ip) for a in _all(context)]

    def plugin(one: ConsolePlugin | None) -> dict[str, str] | None:
        return None if one is None else {"class": one.path, "source": one.source}

    return {
        "hosts": hosts,
        "origins": [f"{scheme}://{host}" for host in hosts],
        "native": section.native_clients,
        "framed_by": list(section.framed_by),
        "networks": [str(one) for one in section.networks],
        "ports": [[one.first, one.last] for one in section.ports],
        "forbidden": [str(one) for one in (*_guest_networks(section, context), *own)],
        "cap": section.max_sessions,
        "half_open": section.max_half_open,
        "half_open_each": section.max_half_open_per_source,
        "handshakes_per_second": section.connections_per_second,
        "handshakes_burst": section.connections_burst,
        "balancers": [str(one) for one in section.balancers],
        "report_every": section.report_interval,
        "novnc": NOVNC,
        "token_plugin": plugin(section.token_plugin),
        "auth_plugin": plugin(section.auth_plugin),
    }


def _all(context: Context) -> list[Any]:
    return [address for nic in context.nics for address in nic.addresses]


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"


def check(section: Section, context: Context, artifacts: Artifacts) -> tuple[Command, ...]:
    """None: `lint` has looked at the certificates, and the rest is numbers."""
    return ()


def probe(section: Section, context: Context, artifacts: Artifacts) -> tuple[Probe, ...]:
    console = next(file for file in artifacts.files if file.path == CONSOLE)
    path = f"/witness/{json.loads(console.content)['witness']}"
    return (UnitActive(UNIT), HttpReturns(UNIT, STATUS, STATUS_PORT, path, status=204))


def inspect(section: Section, context: Context) -> tuple[Command, ...]:
    return (
        Command(("systemctl", "status", "--no-pager", "--full", UNIT)),
        Command(("cat", f"{CURRENT}/{LISTEN}")),
    )
