"""Roles: what a system VM is for, and what each has whatever its services are."""

import enum


class Role(enum.StrEnum):
    """What this VM is for: one template serves them all. A service names those that have it."""

    ROUTER = "router"
    VPC_ROUTER = "vpc-router"
    DHCP_SERVER = "dhcp-server"
    LOAD_BALANCER = "load-balancer"
    CONSOLE_PROXY = "console-proxy"
    SECONDARY_STORAGE = "secondary-storage"

    @property
    def routes(self) -> bool:
        """Does it pass packets on between its networks?"""
        return self in ROUTERS


EVERY_ROLE = frozenset(Role)
ROUTERS = frozenset({Role.ROUTER, Role.VPC_ROUTER})
# Those that guests ask for addresses, names, and what is known of them.
GUEST_SERVERS = ROUTERS | {Role.DHCP_SERVER}
BALANCERS = ROUTERS | {Role.LOAD_BALANCER}
