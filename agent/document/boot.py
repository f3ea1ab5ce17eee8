"""The boot configuration: what a VM knows before the first push.

It says on which NIC management will come, and whom to believe. Everything else is the
document's. Where the bytes come from (a systemd credential, a labelled drive …) is not known
here; see `agent.document.boot_source`.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import pydantic
from pydantic import Field, TypeAdapter

from agent.document import json as strict_json
from agent.document.problems import validation_problems
from agent.document.site import NicRole, NicSection, RouteSection
from agent.document.types import (
    LABEL,
    AnyAddress,
    AnyNetwork,
    AuthorizedKey,
    DomainName,
    HostName,
    Int,
    Mac,
    Pem,
    PemKey,
    PortNumber,
    Section,
    Text,
)
from agent.engine.model import Problem, pointer
from agent.roles import Role

# A name or an address. What looks like an IPv6 address and is none will not answer.
NtpServer = Annotated[
    str,
    Text(rf"^(?:{LABEL}(?:\.{LABEL})*|[0-9a-f:]{{2,39}})$", max_length=253),
    Field(examples=["ntp.example.internal"]),
]


class ControlSettings(Section):
    """The mutual TLS of the control endpoint."""

    port: Annotated[PortNumber, Field(description="TCP port on the control NICs.")] = 8443
    ca: Annotated[Pem, Field(description="Certificates that sign management's, PEM.")]
    crl: Annotated[Pem | None, Field(description="What that CA has revoked, PEM.")] = None
    certificate: Annotated[Pem, Field(description="The VM's own certificate with its chain, PEM.")]
    key: Annotated[PemKey, Field(description="The VM's own private key, PEM.")]
    allowed_names: Annotated[
        tuple[DomainName, ...],
        Field(min_length=1, description="Common names of the clients that may come in."),
    ]


class TimeSettings(Section):
    """Whom the VM asks for the time, where the hypervisor's clock is not enough."""

    ntp_servers: Annotated[
        tuple[NtpServer, ...],
        Field(min_length=1, max_length=8, description="NTP servers, names or addresses."),
    ]


class ResolverSettings(Section):
    """Whom the VM itself asks for names; guests' names are the document's."""

    servers: Annotated[
        tuple[AnyAddress, ...],
        Field(
            min_length=1,
            max_length=6,
            description="DNS servers in the order in which they are asked; the first three are.",
        ),
    ]


class BootConfig(Section):
    """What a VM is told when it is started."""

    schema_: Annotated[
        Int, Field(alias="schema", ge=1, le=1, description="The version of this form.")
    ] = 1
    role: Annotated[Role, Field(description="What this VM is for.")]
    hostname: Annotated[HostName, Field(description="The VM's own name.")]
    domain: Annotated[
        DomainName | None, Field(description="The domain of the VM's name, until the first push.")
    ] = None
    nics: Annotated[
        Mapping[Mac, NicSection],
        Field(
            description="NICs by MAC address, at least the control NIC. Until the first push the "
            "control NICs alone are up."
        ),
    ]
    routes: Annotated[
        Mapping[AnyNetwork, RouteSection],
        Field(description="Static routes by destination, by way of a control network."),
    ] = {}
    control: Annotated[
        ControlSettings | None,
        Field(description="Mutual TLS of the control endpoint; without, it is local only."),
    ] = None
    authorized_keys: Annotated[
        tuple[AuthorizedKey, ...],
        Field(max_length=64, description="Who may log in as root by SSH, on the control NICs."),
    ] = ()
    resolver: Annotated[
        ResolverSettings | None, Field(description="Whom the VM itself asks for names.")
    ] = None
    time: Annotated[TimeSettings | None, Field(description="Whom it asks for the time.")] = None

    def control_nics(self) -> Mapping[str, NicSection]:
        """The NICs by which management comes, by MAC address."""
        return {mac: nic for mac, nic in self.nics.items() if nic.role is NicRole.CONTROL}


class InvalidBootConfig(ValueError):
    """The boot configuration cannot be used; the VM stays closed and says why."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


class NoSuchNic(InvalidBootConfig):
    """It names NICs that the machine does not have, or does not have yet."""


_ADAPTER = TypeAdapter(BootConfig)


def parse(data: bytes) -> BootConfig:
    """The boot configuration that these bytes are. Raises InvalidBootConfig."""
    try:
        return parse_value(strict_json.loads(data))
    except strict_json.NotJson as error:
        raise InvalidBootConfig((error.problem,)) from error


def parse_value(value: Any) -> BootConfig:
    """The boot configuration that this JSON value is. Raises InvalidBootConfig."""
    try:
        config = _ADAPTER.validate_python(value)
    except pydantic.ValidationError as error:
        raise InvalidBootConfig(tuple(sorted(set(validation_problems(error, value))))) from error
    if problems := tuple(_lint(config)):
        raise InvalidBootConfig(problems)
    return config


def _lint(config: BootConfig) -> Iterator[Problem]:
    nics = config.control_nics()
    if not nics:
        yield Problem(pointer("nics"), "has no control NIC", 'one with "role": "control"')
    for network, route in config.routes.items():
        if not any(route.via in a.network for nic in nics.values() for a in nic.addresses):
            yield Problem(
                pointer("routes", network, "via"), f"{route.via} is not in a control network"
            )


def serialize(config: BootConfig) -> bytes:
    """A boot configuration as JSON, which `parse` reads back as the same one."""
    value = _ADAPTER.dump_python(config, mode="json", by_alias=True, exclude_none=True)
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def schema() -> Mapping[str, Any]:
    """The JSON Schema (2020-12) of a boot configuration."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_ADAPTER.json_schema(),
    }
