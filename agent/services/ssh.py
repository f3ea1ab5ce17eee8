"""SSH for operators: on port 3922 of the control NICs alone, with keys alone.

Whose keys the boot configuration says holds until the document says otherwise, so that keys
rotate by a push, and nobody's key means that there is no SSH at all. An image may leave sshd out;
a document cannot know that. So the unit is a target, which is up either way and takes sshd along
where it is installed, and there is neither a checker nor a probe of sshd itself: an operator's
way in is no reason to refuse what guests need.
"""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from agent.document.types import AuthorizedKey
from agent.document.types import Section as Base
from agent.engine.model import (
    Artifacts,
    Command,
    File,
    Probe,
    Problem,
    Reaction,
    SshGreets,
    Unit,
    UnitActive,
    pointer,
)
from agent.roles import EVERY_ROLE
from agent.services import CURRENT, Context, claims, control_addresses, fill, openings

SECTION = "ssh"
ROLES = EVERY_ROLE
UNIT = "sysvm-ssh.target"
DAEMON = "sysvm-ssh.service"
UNITS: frozenset[str] = frozenset({UNIT})

PORT = 3922
FOLDER = "ssh"
CONFIGURATION = f"{FOLDER}/sshd_config"
AUTHORIZED_KEYS = f"{FOLDER}/authorized_keys"
HOST_KEYS = "/var/lib/sysvm/ssh"  # made at the first boot by sysvm-ssh-keys.service


class Section(Base):
    """SSH for operators, on port 3922 of the control NICs."""

    authorized_keys: Annotated[
        tuple[AuthorizedKey, ...] | None,
        Field(
            max_length=64,
            description="Keys that may log in as root. Without, those of the boot configuration "
            "may; an empty list closes SSH.",
        ),
    ] = None


ABSENT = Section()


def _keys(section: Section, context: Context) -> tuple[str, ...]:
    if section.authorized_keys is not None:
        return section.authorized_keys
    return context.boot.authorized_keys if context.boot is not None else ()


def lint(section: Section, context: Context) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, line in enumerate(section.authorized_keys or ()):
        key = line.split(" ")[1]
        if key in seen:
            yield Problem(pointer(SECTION, "authorized_keys", index), "is there already")
        seen.add(key)


def render(section: Section, context: Context) -> Artifacts:
    keys, listening = _keys(section, context), control_addresses(context)
    if not keys or not listening:
        return Artifacts()
    configuration = fill(
        "ssh/sshd_config",
        port=PORT,
        addresses=[address for _, address in listening],
        host_keys=HOST_KEYS,
        authorized_keys=f"{CURRENT}/{AUTHORIZED_KEYS}",
    )
    return Artifacts(
        files=(
            # A restart leaves sessions alone: KillMode=process.
            File(CONFIGURATION, configuration, UNIT, Reaction.RESTART),
            # sshd reads it at each log-in.
            File(AUTHORIZED_KEYS, fill("ssh/authorized_keys", keys=keys)),
        ),
        units=(Unit(UNIT, daemon=DAEMON, process="sshd"),),
        openings=openings(listening, PORT, SECTION, "SSH"),
        claims=claims(listening, PORT, SECTION),
    )


def check(section: Section, context: Context, artifacts: Artifacts) -> tuple[Command, ...]:
    """None: the image may have no sshd, and its configuration has nothing but addresses of ours."""
    return ()


def probe(section: Section, context: Context, artifacts: Artifacts) -> tuple[Probe, ...]:
    if not artifacts.units:
        return ()
    addresses = control_addresses(context)
    return UnitActive(UNIT), *(SshGreets(UNIT, address, PORT) for _, address in addresses)


def inspect(section: Section, context: Context) -> tuple[Command, ...]:
    return (
        Command(("systemctl", "status", "--no-pager", "--full", UNIT, "sysvm-ssh.service")),
        Command(("cat", f"{CURRENT}/{CONFIGURATION}")),
    )
