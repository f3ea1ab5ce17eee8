"""What requests carry, typed: every string is constrained, every size bounded."""

import functools
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic
from pydantic import Field, TypeAdapter

from agent.document import json as strict_json
from agent.document.console_session import (
    ConsoleCredentials,
    ConsoleName,
    ConsolePolicy,
    ConsoleTarget,
    Shown,
)
from agent.document.problems import validation_problems
from agent.document.registration import AgentUrl, ProxyRegistration
from agent.document.types import DomainName, Id, Int, Secret, Section, Text
from agent.roles import Role as VmRole
from appliance.manager import access, problems
from appliance.manager.problems import Refusal

Name = Annotated[
    str, Text(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", max_length=63), Field(examples=["v-3-vm"])
]
Label = Annotated[str, Text(r"^[A-Za-z0-9][A-Za-z0-9 ._@:/+-]{0,127}$|^$", max_length=128)]
_PemText = Text(r"^[\n\r\t\u0020-\u007e]{1,131072}$", max_length=131072)
Passphrase = Annotated[str, Text(r"^[\u0020-\u007e]{1,256}$", max_length=256), Secret()]


class OpenConsole(Section):
    """A console that is to be opened. Without a target, the VM's screen is one that is known."""

    vm: Annotated[str, ConsoleName]
    user: Annotated[
        str | None, ConsoleName, Field(description="Who sees it; the cloud names its user.")
    ] = None
    zone: Annotated[Name | None, Field(description="Where its proxy should be.")] = None
    title: Annotated[str, Shown, Field(description="What the page is called.")] = ""
    target: ConsoleTarget | None = None
    credentials: ConsoleCredentials = Field(default_factory=ConsoleCredentials)
    policy: ConsolePolicy | None = None
    valid: Annotated[
        Int, Field(ge=1, le=600, description="Seconds that the link waits to be opened.")
    ] = 60


class PutScreen(Section):
    """Where a VM's screen is, and whose it is."""

    owner: Annotated[str, ConsoleName, Field(description="The user whose token opens it.")]
    zone: Name
    title: Annotated[str, Shown] = ""
    target: ConsoleTarget
    credentials: ConsoleCredentials = Field(default_factory=ConsoleCredentials)
    policy: ConsolePolicy = Field(default_factory=ConsolePolicy)


class PutProxy(ProxyRegistration):
    """A console proxy."""

    agent: Annotated[AgentUrl, Field(description="Its control endpoint.")]


class Drain(Section):
    """How a proxy is drained."""

    within: Annotated[
        Int, Field(ge=0, le=86400, description="Seconds that open sessions may go on.")
    ] = 300


class MakeToken(Section):
    """A token that is to be made."""

    name: Annotated[
        str, ConsoleName, Field(description="Whose it is; of a user's, the user as owners have it.")
    ]
    role: access.Role
    lifetime: Annotated[
        Int | None, Field(ge=1, le=366 * 86400, description="Seconds that it is valid.")
    ] = None


class PutVm(Section):
    """A VM that the manager looks after."""

    role: VmRole
    zone: Name
    agent: AgentUrl
    server_name: DomainName | None = None
    pod: Label = ""
    cluster: Label = ""
    account: Label = ""
    domain: Label = ""
    template: Annotated[Label, Field(description="The version that it was made from.")] = ""


class Certificates(Section):
    """Certificates for all console proxies, as a document's `console` section has them."""

    certificates: Annotated[
        Mapping[Id, Annotated[str, _PemText]], Field(min_length=1, max_length=64)
    ]
    key: Annotated[str, _PemText, Secret()]
    passphrase: Passphrase | None = None


@functools.cache
def adapter(of: Any) -> TypeAdapter[Any]:
    """What reads and writes values of this type."""
    return TypeAdapter(of)


def read(of: Any, data: bytes) -> Any:
    """The value that a body spells. Raises Refusal with every problem."""
    try:
        value = strict_json.loads(data.strip() or b"{}")
        return adapter(of).validate_python(value)
    except strict_json.NotJson as error:
        raise Refusal(problems.NOT_JSON, error.problem.message) from error
    except pydantic.ValidationError as error:
        found = tuple(sorted(set(validation_problems(error, value))))
        raise Refusal(problems.INVALID, count(len(found)), problems=found) from error


def count(number: int) -> str:
    """How many problems there are, in words."""
    return "there is a problem" if number == 1 else f"there are {number} problems"


def plain(value: Any) -> Any:
    """A value of these types as JSON has it, without what is null."""
    kind: Any = type(value)
    return adapter(kind).dump_python(value, mode="json", exclude_none=True)
