"""How a change ended."""

from dataclasses import dataclass

from agent.engine.model.problem import Problem
from agent.engine.model.steps import Plan


@dataclass(frozen=True, slots=True)
class Committed:
    revision: int
    plan: Plan
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Provisional:
    """Applied, and undone unless confirmed within `seconds`."""

    revision: int
    seconds: float
    plan: Plan
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RolledBack:
    """Tried, did not hold, and put back; `revision` runs again."""

    revision: int
    cause: str
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """Never touched anything."""

    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Unchanged:
    revision: int


@dataclass(frozen=True, slots=True)
class Degraded:
    """Neither the new revision nor the old one holds; established flows only, management open."""

    cause: str


Outcome = Committed | Provisional | RolledBack | Refused | Unchanged | Degraded
