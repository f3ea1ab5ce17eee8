"""Where events go by themselves, and the heartbeat: both leave by a control NIC.

Neither is a daemon of its own. What is rendered is a file of settings that the agent reads when it
changes, so that a change of this section starts, stops and reloads nothing. Events are kept and
can be asked for whatever this section says.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Annotated, Any

from pydantic import Field

from agent.document.registration import AgentUrl, ProxyRegistration
from agent.document.site import NicRole
from agent.document.types import (
    LABEL,
    AnyAddress,
    DomainName,
    Id,
    Int,
    Pem,
    PemKey,
    PortNumber,
    Secret,
    Text,
)
from agent.document.types import Section as Base
from agent.engine.model import (
    Artifacts,
    Command,
    Family,
    File,
    IPAddress,
    Probe,
    Problem,
    pointer,
)
from agent.roles import EVERY_ROLE, Role
from agent.services import CURRENT, Context, Nic

SECTION = "events"
ROLES = EVERY_ROLE
UNITS: frozenset[str] = frozenset()

FOLDER = "events"
SETTINGS = f"{FOLDER}/settings.json"
CERTIFICATE = f"{FOLDER}/client.pem"
CONTROL_PORT = 8443  # the control endpoint's, unless a document or a boot configuration says so
OWN_CERTIFICATE = f"{CURRENT}/front/server.pem"  # the control endpoint's

_HOST = rf"(?:{LABEL}(?:\.{LABEL})*|\[[0-9a-f:]{{2,39}}\])"
_URL = re.compile(rf"https://(?P<host>{_HOST})(?::(?P<port>[1-9][0-9]{{0,4}}))?(?P<path>/.*)?")

Url = Annotated[
    str,
    Text(
        rf"^https://{_HOST}(?::[1-9][0-9]{{0,4}})?(?:/[A-Za-z0-9._~/-]{{0,200}})?$", max_length=400
    ),
    Field(examples=["https://management.example:8444/v1/events"]),
]
Key = Annotated[
    str,
    Text("^[0-9a-f]{64}$", max_length=64),
    Secret(),
]


class Push(Base):
    """Where events are sent, in batches, until they are acknowledged."""

    url: Annotated[Url, Field(description="Where they are POSTed to; HTTPS alone.")]
    ca: Annotated[Pem, Field(description="Certificates that sign the receiver's, PEM.")]
    server_name: Annotated[
        DomainName | None,
        Field(
            description="Whom the receiver's certificate is for, where that is not the URL's host."
        ),
    ] = None
    certificate: Annotated[
        Pem | None,
        Field(
            description="The VM's certificate with its chain, PEM; comes with its key. By default "
            "that of the control endpoint."
        ),
    ] = None
    key: Annotated[PemKey | None, Field(description="The certificate's private key, PEM.")] = None
    batch: Annotated[Int, Field(ge=1, le=1000, description="Events in one request, at most.")] = 100


class Heartbeat(Base):
    """A UDP datagram at intervals that says how the VM is; docs/integrating.md has its format."""

    address: Annotated[AnyAddress, Field(description="Where it is sent.")]
    port: Annotated[PortNumber, Field(description="The UDP port.", examples=[8445])]
    key: Annotated[
        Key,
        Field(
            description="What it is authenticated with (HMAC-SHA256): 32 bytes in hexadecimal, "
            "this VM's alone."
        ),
    ]
    interval: Annotated[Int, Field(ge=1, le=3600, description="Seconds from one to the next.")] = 5


class Registration(ProxyRegistration):
    """A console proxy registers itself at the manager that takes its events, by mutual TLS."""

    agent: Annotated[
        AgentUrl | None,
        Field(
            description="Its control endpoint as the manager reaches it; by default the control "
            "NIC's address that leads there, port 8443."
        ),
    ] = None


class Section(Base):
    """Where events are sent, and the heartbeat. Events are kept, and can be asked for, anyway."""

    vm: Annotated[
        Id | None, Field(description="What the VM is called in both; by default its host name.")
    ] = None
    push: Annotated[Push | None, Field(description="Where events are sent.")] = None
    heartbeat: Annotated[Heartbeat | None, Field(description="Where the heartbeat is sent.")] = None
    registration: Annotated[
        Registration | None,
        Field(description="What a console proxy says of itself at the manager of `push`."),
    ] = None


ABSENT = Section()


def way_out(context: Context, address: IPAddress | None) -> Nic | None:
    """The control NIC that leads to an address; the first one where there is only a name."""
    nics = context.nics_of(NicRole.CONTROL)
    if address is None:
        return nics[0] if nics else None
    return next((nic for nic in nics if _leads_to(context, nic, address)), None)


def _leads_to(context: Context, nic: Nic, address: IPAddress) -> bool:
    gateway = nic.gateway if address.version == 4 else nic.gateway_ipv6
    routed = any(address in network for network in context.routed.get(nic.name, ()))
    return nic.reaches(address) or routed or gateway is not None


def lint_way_out(context: Context, address: IPAddress | None, path: str) -> Iterator[Problem]:
    if way_out(context, address) is None:
        where = "anywhere" if address is None else str(address)
        yield Problem(
            path, f"no control NIC leads to {where}", "site.routes has a network and a next hop"
        )


def lint(section: Section, context: Context) -> Iterator[Problem]:
    push, heartbeat = section.push, section.heartbeat
    if push is not None:
        path = pointer(SECTION, "push", "url")
        host, port, _ = parts(push.url)
        if port > 65535:
            yield Problem(path, "has no port that there is", "1 to 65535")
        try:
            yield from lint_way_out(context, literal(host), path)
        except ValueError:
            yield Problem(path, "has an address that is none", "such as 192.0.2.1 or [2001:db8::1]")
        yield from lint_pair(push.certificate, push.key, "push")
    if heartbeat is not None:
        path = pointer(SECTION, "heartbeat", "address")
        yield from lint_way_out(context, heartbeat.address, path)
    if section.registration is not None:
        yield from _lint_registration(section.registration, push, context)


def _lint_registration(
    given: Registration, push: Push | None, context: Context
) -> Iterator[Problem]:
    if context.role is not Role.CONSOLE_PROXY:
        hint = f"a VM of the role {context.role} registers nowhere"
        yield Problem(pointer(SECTION, "registration"), "is of console proxies alone", hint)
    if push is None:
        hint = "it is registered where its events go"
        yield Problem(pointer(SECTION, "push"), "is missing", hint)
    elif given.agent is None:
        with contextlib.suppress(ValueError):  # which the URL is told for
            if _own_address(context, literal(parts(push.url)[0])) is None:
                hint = "the control NIC that leads to the manager has no address of its family"
                yield Problem(pointer(SECTION, "registration", "agent"), "is missing", hint)
    if given.soft > given.hard:
        path = pointer(SECTION, "registration", "soft")
        yield Problem(path, f"is above hard, {given.hard}", "at most as many")


def lint_pair(certificate: str | None, key: str | None, *where: str) -> Iterator[Problem]:
    if (certificate is None) is not (key is None):
        given, missing = ("key", "certificate") if key else ("certificate", "key")
        yield Problem(pointer(SECTION, *where, missing), "is missing", f"{given} comes with it")


def parts(url: str) -> tuple[str, int, str]:
    """Host (without brackets), port and path."""
    found = _URL.fullmatch(url)
    assert found is not None  # noqa: S101 - the type has seen to it
    return found["host"].strip("[]"), int(found["port"] or 443), found["path"] or "/"


def literal(host: str) -> IPAddress | None:
    """The address that a URL's host is; None for a name. Raises ValueError for neither."""
    if ":" not in host and re.fullmatch("[0-9.]+", host) is None:
        return None
    return ip_address(host)


def render(section: Section, context: Context) -> Artifacts:
    if section == ABSENT:
        return Artifacts()
    files = []
    settings: dict[str, Any] = {
        "vm": section.vm or context.hostname, "role": str(context.role), "push": None,
        "heartbeat": None,
    }  # fmt: skip
    if (push := section.push) is not None:
        host, port, path = parts(push.url)
        certificate = OWN_CERTIFICATE
        if push.certificate is not None and push.key is not None:
            certificate = f"{CURRENT}/{CERTIFICATE}"
            content = f"{push.certificate.rstrip()}\n{push.key.rstrip()}\n".encode()
            files.append(File(CERTIFICATE, content, mode=0o600))
        settings["push"] = {
            "host": host,
            "port": port,
            "path": path,
            "ca": push.ca,
            "server_name": push.server_name or host,
            "certificate": certificate,
            "batch": push.batch,
            "nic": _name(way_out(context, literal(host))),
        }
        if section.registration is not None:
            address = _own_address(context, literal(host))
            settings["registration"] = _registration(section.registration, settings["vm"], address)
    if (heartbeat := section.heartbeat) is not None:
        settings["heartbeat"] = {
            "address": str(heartbeat.address),
            "port": heartbeat.port,
            "key": heartbeat.key,
            "interval": heartbeat.interval,
            "nic": _name(way_out(context, heartbeat.address)),
        }
    content = json.dumps(settings, indent=1, sort_keys=True).encode() + b"\n"
    return Artifacts(files=(File(SETTINGS, content, mode=0o600), *files))


def _own_address(context: Context, manager: IPAddress | None) -> IPAddress | None:
    """What the VM is reached by from there; an IPv4 address where both would do."""
    nic = way_out(context, manager)
    if nic is None:
        return None
    if manager is not None:
        return nic.address(Family.V6 if manager.version == 6 else Family.V4)
    return nic.address(Family.V4) or nic.address(Family.V6)


def _registration(given: Registration, vm: str, address: IPAddress | None) -> dict[str, Any]:
    """The request: what is said, and where."""
    host = f"[{address}]" if address is not None and address.version == 6 else str(address)
    body = {
        "zone": given.zone,
        "agent": given.agent or f"https://{host}:{CONTROL_PORT}",
        "link": given.link,
        "soft": given.soft,
        "hard": given.hard,
        "position": given.position,
    }
    if given.server_name is not None:
        body["server_name"] = given.server_name
    return {"path": f"/v1/proxies/{vm}", "body": body}


def _name(nic: Nic | None) -> str:
    return nic.name if nic is not None else ""


def check(section: Section, context: Context, artifacts: Artifacts) -> tuple[Command, ...]:
    return ()


def probe(section: Section, context: Context, artifacts: Artifacts) -> tuple[Probe, ...]:
    return ()


def inspect(section: Section, context: Context) -> tuple[Command, ...]:
    return (Command(("sysvmctl", "events", "-n", "1000")),)
