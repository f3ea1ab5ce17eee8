"""Roles: what a system VM is for, and what each has whatever its services are."""

import enum


class Role(enum.StrEnum):
    """What this VM is for. More roles come with the services that they need."""

    ROUTER = "router"
