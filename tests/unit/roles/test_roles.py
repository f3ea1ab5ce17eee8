import json

import pytest

from agent.document.document import InvalidDocument, parse
from agent.engine.compose import Composer
from agent.engine.model import Family, Table
from agent.roles import Role
from agent.services import discover
from tests.unit.engine.documents import ROUTER
from tests.unit.engine.memory import MemoryHost

BARE = {key: ROUTER[key] for key in ("schema", "generation", "site")}
LINKS = MemoryHost().links()

SERVED = {
    Role.ROUTER: {"nat", "dhcp_dns", "user_data", "load_balancer"},
    Role.VPC_ROUTER: {"nat", "dhcp_dns", "user_data", "load_balancer"},
    Role.DHCP_SERVER: {"dhcp_dns", "user_data"},
    Role.LOAD_BALANCER: {"load_balancer"},
    Role.CONSOLE_PROXY: set(),
    Role.SECONDARY_STORAGE: set(),
}
SECTIONS = {"nat", "dhcp_dns", "user_data", "load_balancer"}


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_a_section_is_for_the_roles_that_serve_it(role: Role, section: str) -> None:
    document = json.dumps({**BARE, "role": role.value, section: {}}).encode()
    if section in SERVED[role]:
        assert section in parse(document).sections
        return
    with pytest.raises(InvalidDocument) as caught:
        parse(document)
    assert [str(problem) for problem in caught.value.problems] == [
        f"/{section}: is not something that the role {role} has"
    ]


@pytest.mark.parametrize("role", list(Role))
def test_every_role_has_a_way_in_for_management_and_is_closed_otherwise(role: Role) -> None:
    assert {n for n, service in discover().items() if role in service.ROLES} >= {
        "control", "firewall", "ssh",
    }  # fmt: skip
    document = parse(json.dumps({**BARE, "role": role.value}).encode())
    desired = Composer().compose(document, LINKS, None)
    for family in Family:
        policies = {
            chain.name: chain.policy
            for chain in desired.chains
            if chain.family is family and chain.table is Table.FILTER
        }
        assert (policies["INPUT"], policies["FORWARD"]) == ("DROP", "DROP")


@pytest.mark.parametrize("role", list(Role))
def test_routers_alone_forward(role: Role) -> None:
    document = parse(json.dumps({**BARE, "role": role.value}).encode())
    sysctls = Composer().compose(document, LINKS, None).sysctls
    forwards = {sysctls[key].value for key in (
        "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding",
    )}  # fmt: skip
    assert forwards == {"1" if role in {Role.ROUTER, Role.VPC_ROUTER} else "0"}
