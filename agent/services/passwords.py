"""Guests' passwords, handed out once: the password server of the field, on port 8080.

CloudStack's guests ask their gateway with a header of its own (`DomU_Request: send_my_password`)
and acknowledge (`saved_password`); where there is nothing for them they hear `saved_password`,
too, so everybody in a guest network may ask. An address for which there is a password comes in
only with its MAC address. The process (`agent.passwords`) is neither the agent nor its user; it
is told by one file, which it reads again when it changes, and keeps for itself which passwords
have been taken, so that neither a restart nor another push brings one back.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated

from pydantic import Field

from agent.document.site import NicRole
from agent.document.types import Ipv4, Mac, Secret, Text
from agent.document.types import Section as Base
from agent.engine.model import (
    ACCEPT,
    DROP,
    Artifacts,
    Chain,
    Command,
    Family,
    File,
    HttpReturns,
    Probe,
    Problem,
    Reaction,
    Rule,
    Table,
    Unit,
    UnitActive,
    pointer,
)
from agent.roles import GUEST_SERVERS
from agent.services import Context, claims, fill, guest_addresses, openings, with_its_mac

SECTION = "passwords"
ROLES = GUEST_SERVERS
UNIT = "sysvm-passwords.service"
UNITS: frozenset[str] = frozenset({UNIT})

PORT = 8080
FOLDER = "passwords"
LISTEN = f"{FOLDER}/listen"
GUESTS = f"{FOLDER}/guests"
OWNER = "sysvm-passwords:nogroup"
CHAIN = "passwords"  # an address that has a password, with its MAC; and every other

Password = Annotated[
    str,
    Text(r"^[\u0021-\u007e]{1,128}$", max_length=128),
    Secret(),
    Field(examples=["Kp7xQ2mZ"]),
]


class GuestPassword(Base):
    """A password that waits for its guest."""

    mac: Annotated[
        Mac, Field(description="The guest's MAC address; nobody else gets in with its address.")
    ]
    password: Annotated[
        Password,
        Field(
            description="Handed out until the guest acknowledges it, and then never again: a new "
            "one has to differ."
        ),
    ]


class Section(Base):
    """Passwords that guests fetch once, on port 8080 of the guest NICs."""

    guests: Annotated[
        Mapping[Ipv4, GuestPassword],
        Field(
            description="Passwords by the guest's address.",
            examples=[{"10.1.1.10": {"mac": "02:00:4c:00:00:01", "password": "Kp7xQ2mZ"}}],
        ),
    ] = {}


ABSENT = None


def lint(section: Section, context: Context) -> Iterator[Problem]:
    guest_nics = context.nics_of(NicRole.GUEST)
    networks = [n for nic in guest_nics for n in nic.networks(Family.V4)]
    for address in section.guests:
        path = pointer(SECTION, "guests", address)
        if any(nic.holds(address) for nic in context.nics):
            yield Problem(path, f"{address} is the VM's own address")
        elif not any(address in network for network in networks):
            yield Problem(path, f"{address} is in no guest network")


def render(section: Section, context: Context) -> Artifacts:
    listening = guest_addresses(context)
    if not listening:
        return Artifacts()  # nobody to serve
    listen = fill("passwords/listen", port=PORT, addresses=[address for _, address in listening])
    guests = {
        str(address): {"password": guest.password, "id": _identity(address, guest)}
        for address, guest in sorted(section.guests.items())
    }
    text = json.dumps(guests, indent=1, sort_keys=True)
    witness = hashlib.sha256(b"\0".join((listen, text.encode()))).hexdigest()
    document = fill("passwords/guests", witness=witness, guests=text)
    return Artifacts(
        files=(
            File(LISTEN, listen, UNIT, Reaction.RESTART),
            File(GUESTS, document, UNIT, Reaction.NONE, 0o600, OWNER),
        ),
        units=(Unit(UNIT, process="passwords"),),
        chains=(Chain(Family.V4, Table.FILTER, CHAIN, SECTION),),
        rules=tuple(_rules(section)),
        openings=openings(listening, PORT, SECTION, "passwords", CHAIN),
        claims=claims(listening, PORT, SECTION),
    )


def _identity(address: IPv4Address, guest: GuestPassword) -> str:
    """What a password is called once it was taken: the same for the same guest and password."""
    return hashlib.sha256(f"{address} {guest.mac} {guest.password}".encode()).hexdigest()


def _rules(section: Section) -> Iterator[Rule]:
    for address, guest in sorted(section.guests.items()):
        yield with_its_mac(CHAIN, SECTION, address, guest.mac)
        yield Rule(
            family=Family.V4,
            table=Table.FILTER,
            chain=CHAIN,
            target=DROP,
            owner=SECTION,
            comment=f"/{SECTION}/guests/{address}: another MAC",
            source=IPv4Network(int(address)),
        )
    yield Rule(
        family=Family.V4,
        table=Table.FILTER,
        chain=CHAIN,
        target=ACCEPT,
        owner=SECTION,
        comment="sysvm: nothing to take",
    )


def check(section: Section, context: Context, artifacts: Artifacts) -> tuple[Command, ...]:
    """None: the server's file has no language of its own."""
    return ()


def probe(section: Section, context: Context, artifacts: Artifacts) -> tuple[Probe, ...]:
    if not artifacts.units:
        return ()
    guests = next(file for file in artifacts.files if file.path == GUESTS)
    _, _, text = guests.content.partition(b"\n")
    path = f"/witness/{json.loads(text)['witness']}"
    return (
        UnitActive(UNIT),
        *(HttpReturns(UNIT, ip, PORT, path, status=204) for _, ip in guest_addresses(context)),
    )


def inspect(section: Section, context: Context) -> tuple[Command, ...]:
    return (Command(("systemctl", "status", "--no-pager", "--full", UNIT)),)
