"""The one-screen summary: who this VM is, what runs on it, and whether that is what was asked."""

from dataclasses import dataclass

from agent import __version__
from agent.api.answers import RevisionRow, revision_row
from agent.api.answers import deadline as deadline_of
from agent.api.ports import Engine, Facts
from agent.api.show import InterfaceRow, ServiceRow
from agent.engine.errors import EngineError
from agent.engine.store import Revision, State
from agent.monitor.health import Report, Verdict


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """The agent's own process."""

    version: str
    uptime: float  # seconds
    memory: int  # bytes


@dataclass(frozen=True, slots=True)
class HealthSummary:
    """What the health checks came to: GET /v1/health has each of them."""

    worst: Verdict | None  # null where nothing has been checked yet
    failing: tuple[str, ...]  # names of checks that failed or warn


@dataclass(frozen=True, slots=True, kw_only=True)
class LastChange:
    """How the last change that was asked for since the agent started ended."""

    at: str
    request: str  # such as PUT /v1/document
    client: str
    result: str  # committed, provisional, unchanged, or the problem's name
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The VM on one screen. What cannot be known is null, and does not hide the rest."""

    hostname: str
    role: str | None
    uptime: float  # seconds since the machine booted
    agent: AgentStatus
    running: RevisionRow | None
    provisional: bool
    deadline: str | None
    seconds_left: float | None
    degraded: str
    state_problem: str  # what was wrong with the state partition at boot; empty where nothing was
    drift: bool | None
    services: tuple[ServiceRow, ...]
    interfaces: tuple[InterfaceRow, ...]
    health: HealthSummary
    last: LastChange | None


def status(
    *,
    facts: Facts,
    state: State,
    left: float | None,
    current: Revision | None,
    drift: bool | None,
    services: tuple[ServiceRow, ...],
    interfaces: tuple[InterfaceRow, ...],
    health: Report,
    last: LastChange | None,
    now: float,
) -> Status:
    """The summary of what was collected."""
    return Status(
        hostname=current.document.site.hostname if current else facts.hostname,
        role=str(current.document.role) if current else None,
        uptime=facts.uptime,
        agent=AgentStatus(__version__, facts.agent_uptime, facts.agent_memory),
        running=revision_row(current.info, state, now) if current else None,
        provisional=state.provisional,
        deadline=deadline_of(left, now),
        seconds_left=left,
        degraded=state.degraded,
        state_problem=facts.state_problem,
        drift=drift,
        services=services,
        interfaces=interfaces,
        health=HealthSummary(health.worst, health.failing),
        last=last,
    )


def has_drifted(engine: Engine) -> bool | None:
    """Is the machine other than was asked for? None where that cannot be told now."""
    try:
        return bool(engine.drift())
    except EngineError:
        return None
