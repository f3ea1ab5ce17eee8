"""The boot configuration: what a VM knows before the first push.

It says on which NIC management will come, and whom to believe. Everything else is the
document's. Where the bytes come from (a systemd credential, a labelled drive …) is not known
here.
"""

from collections.abc import Mapping
from typing import Annotated

import pydantic
from pydantic import Field, TypeAdapter

from agent.document import json as strict_json
from agent.document.site import NicSection
from agent.document.types import (
    AuthorizedKey,
    DomainName,
    HostName,
    Int,
    Mac,
    Pem,
    PortNumber,
    Section,
)
from agent.engine.model import Problem, pointer
from agent.roles import Role


class ControlSettings(Section):
    """The mutual TLS of the control endpoint."""

    port: Annotated[PortNumber, Field(description="TCP port on the control NICs.")] = 8443
    ca: Annotated[Pem, Field(description="Certificates that sign management's, PEM.")]
    crl: Annotated[Pem | None, Field(description="What that CA has revoked, PEM.")] = None
    certificate: Annotated[Pem, Field(description="The VM's own certificate with its chain, PEM.")]
    key: Annotated[Pem, Field(description="The VM's own private key, PEM.")]
    allowed_names: Annotated[
        tuple[DomainName, ...],
        Field(min_length=1, description="Common names of the clients that may come in."),
    ]


class BootConfig(Section):
    """What a VM is told when it is started."""

    schema_: Annotated[Int, Field(alias="schema", ge=1, le=1)] = 1
    role: Role
    hostname: HostName
    nics: Annotated[Mapping[Mac, NicSection], Field(description="At least the control NIC.")]
    control: ControlSettings | None = None
    authorized_keys: Annotated[
        tuple[AuthorizedKey, ...],
        Field(max_length=64, description="Who may log in as root by SSH, on the control NICs."),
    ] = ()


class InvalidBootConfig(ValueError):
    """The boot configuration cannot be used; the VM stays closed and says why."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


_ADAPTER = TypeAdapter(BootConfig)


def parse(data: bytes) -> BootConfig:
    """The boot configuration that these bytes are. Raises InvalidBootConfig."""
    try:
        return _ADAPTER.validate_python(strict_json.loads(data))
    except strict_json.NotJson as error:
        raise InvalidBootConfig((error.problem,)) from error
    except pydantic.ValidationError as error:
        raise InvalidBootConfig(
            tuple(
                Problem(pointer(*(p for p in e["loc"] if p != "[key]")), e["msg"])
                for e in error.errors(include_url=False, include_input=False)
            )
        ) from error
