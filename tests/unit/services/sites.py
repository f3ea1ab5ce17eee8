"""The site that tests of services stand on: a public, a guest and a control NIC."""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, ip_interface
from typing import Any

from agent.document.boot import BootConfig
from agent.document.site import NicRole
from agent.engine.model import Artifacts, Problem
from agent.roles import Role
from agent.services import Context, Nic, Service, discover

PUBLIC = Nic(
    "eth0",
    "02:00:00:00:00:01",
    NicRole.PUBLIC,
    (ip_interface("203.0.113.10/24"), ip_interface("203.0.113.11/24")),
    gateway=IPv4Address("203.0.113.1"),
)
GUEST = Nic(
    "eth1",
    "02:00:00:00:00:02",
    NicRole.GUEST,
    (ip_interface("10.1.1.1/24"), ip_interface("2001:db8:1::1/64")),
    mtu=1450,
)
CONTROL = Nic("eth2", "02:00:00:00:00:03", NicRole.CONTROL, (ip_interface("192.0.2.10/24"),))


def context(*nics: Nic, boot: BootConfig | None = None) -> Context:
    return Context(
        role=Role.ROUTER,
        hostname="r-1-vm",
        domain="net1.example",
        nics=nics or (PUBLIC, GUEST, CONTROL),
        boot=boot,
    )


def service(name: str) -> Service:
    return discover()[name]


def linted(name: str, value: Any, where: Context | None = None) -> list[Problem]:
    return list(service(name).lint(service(name).Section.model_validate(value), where or context()))


def rendered(name: str, value: Any, where: Context | None = None) -> Artifacts:
    """What a valid section makes; that it is valid is part of the test."""
    assert linted(name, value, where) == []
    return service(name).render(service(name).Section.model_validate(value), where or context())


def texts(artifacts: Artifacts) -> Mapping[str, str]:
    return {file.path: file.content.decode() for file in artifacts.files}


def lines(text: str) -> Iterable[str]:
    """What a daemon reads of a file: neither comments nor blank lines."""
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
