"""The journal, sent to another machine: syslog over TLS (RFC 5425), by rsyslog.

rsyslog reads the journal, and with it the agent's events, and keeps what it cannot send in a queue
of its own: some in memory, 32 MiB on the state partition, not more. It runs only where a document
wants it. It leaves by a control NIC, as events do.
"""

import enum
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from agent.document.types import AnyAddress, DomainName, Pem, PemKey, PortNumber
from agent.document.types import Section as Base
from agent.engine.model import (
    Artifacts,
    Command,
    File,
    Probe,
    Problem,
    Reaction,
    Unit,
    UnitActive,
    pointer,
)
from agent.roles import EVERY_ROLE
from agent.services import CURRENT, Context, fill
from agent.services.events import lint_way_out, way_out

SECTION = "remote_log"
ROLES = EVERY_ROLE
UNIT = "sysvm-remote-log.service"
UNITS: frozenset[str] = frozenset({UNIT})

FOLDER = "remote_log"
CONFIGURATION = f"{FOLDER}/rsyslog.conf"
WORK = "/var/lib/sysvm/remote-log"
OWNER = "sysvm-log:sysvm-log"


class Severity(enum.StrEnum):
    """Syslog's severities (RFC 5424, 6.2.1), from the worst to the least."""

    EMERGENCY = "emergency"
    ALERT = "alert"
    CRITICAL = "critical"
    ERROR = "error"
    WARNING = "warning"
    NOTICE = "notice"
    INFO = "info"
    DEBUG = "debug"


class Facility(enum.StrEnum):
    """Syslog's facilities (RFC 5424, 6.2.1) that there are in a system VM."""

    KERN = "kern"
    USER = "user"
    DAEMON = "daemon"
    AUTH = "auth"
    AUTHPRIV = "authpriv"
    SYSLOG = "syslog"
    CRON = "cron"
    LOCAL0 = "local0"


class Section(Base):
    """Where the journal is sent: syslog over TLS."""

    name: Annotated[
        DomainName,
        Field(
            description="The receiver's name, for which its certificate must be.",
            examples=["log.example"],
        ),
    ]
    address: Annotated[
        AnyAddress | None, Field(description="Its address; without, the name is looked up.")
    ] = None
    port: Annotated[PortNumber, Field(description="The TCP port.")] = 6514
    ca: Annotated[Pem, Field(description="Certificates that sign the receiver's, PEM.")]
    certificate: Annotated[
        Pem | None,
        Field(description="The VM's certificate with its chain, PEM; comes with its key."),
    ] = None
    key: Annotated[PemKey | None, Field(description="The certificate's private key, PEM.")] = None
    severity: Annotated[Severity, Field(description="What is at least as bad as this is sent.")] = (
        Severity.INFO
    )
    facilities: Annotated[
        tuple[Facility, ...],
        Field(max_length=8, description="Only these; all, where none is named."),
    ] = ()


ABSENT = None


def lint(section: Section, context: Context) -> Iterator[Problem]:
    where = pointer(SECTION, "name" if section.address is None else "address")
    yield from lint_way_out(context, section.address, where)
    if (section.certificate is None) is not (section.key is None):
        given, missing = ("key", "certificate") if section.key else ("certificate", "key")
        yield Problem(pointer(SECTION, missing), "is missing", f"{given} comes with it")


def render(section: Section, context: Context) -> Artifacts:
    nic = way_out(context, section.address)
    text = fill(
        "remote_log/rsyslog.conf",
        work=WORK,
        folder=f"{CURRENT}/{FOLDER}",
        certificate=section.certificate is not None,
        severity=list(Severity).index(section.severity),
        condition=_condition(section.facilities),
        host=section.address or section.name,
        port=section.port,
        nic=nic.name if nic is not None else "",
        peer=section.name,
    )

    def file(name: str, content: bytes, mode: int = 0o644, owner: str = "root:root") -> File:
        # It reads its files when it starts, and never again.
        return File(f"{FOLDER}/{name}", content, UNIT, Reaction.RESTART, mode, owner)

    files = [file("rsyslog.conf", text), file("ca.pem", section.ca.encode())]
    if section.certificate is not None and section.key is not None:
        files.append(file("client.pem", section.certificate.encode()))
        files.append(file("client.key", section.key.encode(), 0o600, OWNER))
    return Artifacts(files=tuple(files), units=(Unit(UNIT),))


def _condition(facilities: tuple[Facility, ...]) -> str:
    if not facilities:
        return ""
    names = ", ".join(f'"{facility}"' for facility in sorted(set(facilities)))
    return f" and $syslogfacility-text == [{names}]"


def check(section: Section, context: Context, artifacts: Artifacts) -> tuple[Command, ...]:
    argv = ("rsyslogd", "-N1", "-iNONE", "-f", f"{CURRENT}/{CONFIGURATION}")
    return (Command(argv, path=pointer(SECTION)),)


def probe(section: Section, context: Context, artifacts: Artifacts) -> tuple[Probe, ...]:
    return (UnitActive(UNIT),)


def inspect(section: Section, context: Context) -> tuple[Command, ...]:
    return (
        Command(("systemctl", "status", "--no-pager", "--full", UNIT)),
        Command(("cat", f"{CURRENT}/{CONFIGURATION}")),
        Command(("ls", "-l", WORK)),
    )
