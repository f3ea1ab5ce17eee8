"""How a console proxy is told to managers: by the cloud, or by itself. Both ends share this."""

from typing import Annotated

from pydantic import Field

from agent.document.types import DomainName, Id, Int, Section, Text

_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9a-f:]{2,39}\])"
AgentUrl = Annotated[
    str,
    Text(rf"^https://{_HOST}:[1-9][0-9]{{0,4}}$", max_length=300),
    Field(examples=["https://169.254.10.2:8443"]),
]
Link = Annotated[
    str,
    Text(rf"^https?://{_HOST}(?::[1-9][0-9]{{0,4}})?/(?:[A-Za-z0-9._~/-]{{0,200}}/)?$", 500),
    Field(examples=["https://203-0-113-7.console.example/"]),
]


class ProxyRegistration(Section):
    """A console proxy, but for where its agent is."""

    zone: Annotated[Id, Field(description="Whose sessions it takes.", examples=["zone1"])]
    server_name: Annotated[
        DomainName | None,
        Field(description="Whom the control endpoint's certificate is for, where not the address."),
    ] = None
    link: Annotated[Link, Field(description="How browsers call it; it ends in a slash.")]
    soft: Annotated[
        Int, Field(ge=1, le=20000, description="Sessions above which VMs go elsewhere.")
    ] = 40
    hard: Annotated[
        Int, Field(ge=1, le=20000, description="Sessions in all, with those that come again.")
    ] = 50
    position: Annotated[Int, Field(ge=0, le=100000, description="In the configured order.")] = 0
