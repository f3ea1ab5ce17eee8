"""How the VM watches itself: whether, how often, and what is too much.

Nothing is rendered: the agent reads the running document, so that a change of this section starts,
stops and reloads nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from agent.document.types import Bool, Id, Int, Text
from agent.document.types import Section as Base
from agent.engine.model import Artifacts, Command, Probe, Problem, pointer
from agent.roles import EVERY_ROLE
from agent.services import Context, discover

SECTION = "monitoring"
ROLES = EVERY_ROLE
UNITS: frozenset[str] = frozenset()

VersionText = Annotated[
    str,
    Text(r"^[0-9A-Za-z][0-9A-Za-z.+~_-]{0,63}$", max_length=64),
    Field(examples=["0.1.0"]),
]
Percent = Annotated[Int, Field(ge=1, le=100)]
Interval = Annotated[Int, Field(ge=0, le=86_400)]


class Watch(Base):
    """How one service is watched."""

    enabled: Annotated[
        Bool,
        Field(description="Whether it is restarted, and alerted of; false leaves it alone."),
    ] = True


class Thresholds(Base):
    """What is too much, or too little. It is well again only some way on the good side."""

    cpu_percent: Annotated[
        Percent, Field(description="CPU in use over a minute, of all cores; 100 is never reached.")
    ] = 95
    memory_percent: Annotated[Percent, Field(description="Memory in use, of all there is.")] = 90
    disk_free_mib: Annotated[
        Int, Field(ge=1, le=1_048_576, description="Free space of the state partition, MiB.")
    ] = 100
    inodes_free_percent: Annotated[
        Percent, Field(description="Free inodes of the state partition.")
    ] = 5
    connections_percent: Annotated[
        Percent, Field(description="Tracked connections, of as many as the table holds.")
    ] = 80
    clock_offset_ms: Annotated[
        Int, Field(ge=1, le=86_400_000, description="How far the clock may be off, milliseconds.")
    ] = 1000
    certificate_days: Annotated[
        Int, Field(ge=1, le=3650, description="How long certificates have to be valid yet, days.")
    ] = 14


class Section(Base):
    """The VM watches itself: its daemons at once, its health at intervals."""

    enabled: Annotated[
        Bool,
        Field(
            description="Whether daemons are watched, restarted where they hang, and alerted of; "
            "systemd starts those that end in any case."
        ),
    ] = True
    interval: Annotated[
        Interval,
        Field(
            description="Seconds from one round of basic health checks to the next; 0 for none.",
            examples=[180],
        ),
    ] = 180
    advanced_interval: Annotated[
        Interval,
        Field(description="Seconds from one round of advanced checks to the next; 0 for none."),
    ] = 600
    services: Annotated[
        Mapping[Id, Watch],
        Field(description="By unit, without `.service`: how it is watched, if not as all are."),
    ] = {}
    thresholds: Annotated[Thresholds, Field(description="What is too much, or too little.")] = (
        Thresholds()
    )
    excluded_checks: Annotated[
        tuple[Id, ...],
        Field(max_length=64, description="Names of health checks that are not run."),
    ] = ()
    agent_version: Annotated[
        VersionText | None,
        Field(
            description="The agent's version that management expects, for the check `versions` to "
            "fail where another runs."
        ),
    ] = None


ABSENT = Section()


def watchable() -> frozenset[str]:
    """Units that can be named under `services`, as they are named there."""
    return frozenset(
        unit.removesuffix(".service").removesuffix(".target")
        for service in discover().values()
        for unit in service.UNITS
    )


def lint(section: Section, context: Context) -> Iterator[Problem]:
    known = watchable()
    for name in section.services:
        if name not in known:
            hint = f"one of {', '.join(sorted(known))}"
            yield Problem(pointer(SECTION, "services", name), "is not a unit of this VM", hint)


def render(section: Section, context: Context) -> Artifacts:
    return Artifacts()


def check(section: Section, context: Context, artifacts: Artifacts) -> tuple[Command, ...]:
    return ()


def probe(section: Section, context: Context, artifacts: Artifacts) -> tuple[Probe, ...]:
    return ()


def inspect(section: Section, context: Context) -> tuple[Command, ...]:
    return ()
