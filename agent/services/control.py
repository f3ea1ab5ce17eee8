"""The control endpoint from the network: mutual TLS before the agent's socket, by sysvm-front.

sysvm-front is a second haproxy with a user of its own. It stands on the control NICs and on
loopback only, believes clients whose certificate the CA signed, has not revoked, and whose common
name is on the list, and tells the agent who they are in X-Sysvm-Client. What the boot
configuration says holds until the document says otherwise, so that certificates rotate by a push.
"""

import hashlib
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from agent.document.boot import ControlSettings
from agent.document.types import DomainName, Pem, PemKey, PortNumber
from agent.document.types import Section as Base
from agent.engine.model import (
    Artifacts,
    Command,
    File,
    HaproxyRuns,
    Probe,
    Problem,
    Reaction,
    Reload,
    Unit,
    UnitActive,
    pointer,
)
from agent.roles import EVERY_ROLE
from agent.services import CURRENT, Context, claims, control_addresses, fill, openings

SECTION = "control"
ROLES = EVERY_ROLE
UNIT = "sysvm-front.service"
UNITS: frozenset[str] = frozenset({UNIT})

FOLDER = "front"
CONFIGURATION = f"{FOLDER}/haproxy.cfg"
MASTER_SOCKET = "/run/sysvm-front/master.sock"
STATS_SOCKET = "/run/sysvm-front/admin.sock"
AGENT_SOCKET = "/run/sysvm/control.sock"
OWNER = "sysvm-front:sysvm"
LARGEST_BODY = 16 * 1024 * 1024  # bytes, by Content-Length: as much as the agent takes at most
_WITNESS = b"@witness@"
PORT = 8443


class Section(Base):
    """Mutual TLS of the control endpoint; what is not given is as the boot configuration says."""

    port: Annotated[
        PortNumber | None,
        Field(description="TCP port on the control NICs and on loopback."),
    ] = None
    ca: Annotated[Pem | None, Field(description="Certificates that sign the clients', PEM.")] = None
    crl: Annotated[
        Pem | None, Field(description="Revocation lists of those CAs, one for each, PEM.")
    ] = None
    certificate: Annotated[
        Pem | None,
        Field(description="The VM's own certificate with its chain, PEM; comes with its key."),
    ] = None
    key: Annotated[PemKey | None, Field(description="The VM's own private key, PEM.")] = None
    allowed_names: Annotated[
        tuple[DomainName, ...] | None,
        Field(
            min_length=1,
            max_length=64,
            description="Common names of the clients that may come in.",
            examples=[["management.example"]],
        ),
    ] = None


ABSENT = Section()


def _settings(section: Section, context: Context) -> ControlSettings | None:
    """What holds: the document's, else the boot configuration's; None where neither is enough."""
    boot = context.boot.control if context.boot is not None else None
    ca = section.ca or (boot.ca if boot else None)
    names = section.allowed_names or (boot.allowed_names if boot else None)
    # A key goes with its certificate, and a list with its CA.
    pair = section if section.certificate else boot
    crl = section.crl or (boot.crl if boot and not section.ca else None)
    if ca is None or names is None or pair is None or not pair.certificate or not pair.key:
        return None
    return ControlSettings(
        port=section.port or (boot.port if boot else PORT),
        ca=ca,
        crl=crl,
        certificate=pair.certificate,
        key=pair.key,
        allowed_names=names,
    )


def lint(section: Section, context: Context) -> Iterator[Problem]:
    if (section.certificate is None) is not (section.key is None):
        given, missing = ("key", "certificate") if section.key else ("certificate", "key")
        yield Problem(pointer(SECTION, missing), "is missing", f"{given} comes with it")
    elif section != ABSENT and _settings(section, context) is None:
        boot = context.boot.control if context.boot is not None else None
        if boot is None:
            for field in ("ca", "certificate", "key", "allowed_names"):
                if getattr(section, field) is None:
                    yield Problem(
                        pointer(SECTION, field),
                        "is missing",
                        "the boot configuration has none either",
                    )


def render(section: Section, context: Context) -> Artifacts:
    settings = _settings(section, context)
    if settings is None:
        return Artifacts()
    listening = control_addresses(context)
    text = fill(
        "control/haproxy.cfg",
        witness=_WITNESS.decode(),
        stats_socket=STATS_SOCKET,
        agent_socket=AGENT_SOCKET,
        folder=f"{CURRENT}/{FOLDER}",
        largest_body=LARGEST_BODY,
        binds=[
            f"127.0.0.1:{settings.port}",
            *(
                f"[{address}]:{settings.port}"
                if address.version == 6
                else f"{address}:{settings.port}"
                for _, address in listening
            ),
        ],
        revocation=settings.crl is not None,
        names=settings.allowed_names,
    )
    ca = settings.ca.encode()
    server = f"{settings.certificate.rstrip()}\n{settings.key.rstrip()}\n".encode()
    crl = settings.crl.encode() if settings.crl is not None else b""
    digest = hashlib.sha256(b"\0".join((text, ca, server, crl))).hexdigest().encode()

    def file(name: str, content: bytes, mode: int = 0o644, owner: str = "root:root") -> File:
        return File(f"{FOLDER}/{name}", content, UNIT, Reaction.RELOAD, mode, owner)

    return Artifacts(
        files=(
            file("haproxy.cfg", text.replace(_WITNESS, digest, 1)),
            file("ca.pem", ca),
            file("server.pem", server, 0o600, OWNER),
            *((file("crl.pem", crl),) if crl else ()),
        ),
        units=(Unit(UNIT, Reload.HAPROXY_MASTER, MASTER_SOCKET, process="front"),),
        openings=openings(listening, settings.port, SECTION, "control"),
        claims=claims(listening, settings.port, SECTION),
    )


def check(section: Section, context: Context, artifacts: Artifacts) -> tuple[Command, ...]:
    """haproxy loads the certificates, and refuses a key that is not the certificate's."""
    if not artifacts.units:
        return ()
    argv = ("haproxy", "-c", "-f", f"{CURRENT}/{CONFIGURATION}")
    return (Command(argv, path=pointer(SECTION)),)


def probe(section: Section, context: Context, artifacts: Artifacts) -> tuple[Probe, ...]:
    if not artifacts.units:
        return ()
    lines = artifacts.files[0].content.decode().splitlines()
    description = next(x for x in lines if x.startswith("    description ")).split()[1]
    return UnitActive(UNIT), HaproxyRuns(UNIT, STATS_SOCKET, description)


def inspect(section: Section, context: Context) -> tuple[Command, ...]:
    return (
        Command(("systemctl", "status", "--no-pager", "--full", UNIT)),
        Command(("cat", f"{CURRENT}/{CONFIGURATION}")),
    )
