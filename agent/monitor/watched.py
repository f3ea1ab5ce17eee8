"""What is to be watched: made of what the running revision wants, and of who says not to."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from agent.engine.model import (
    DhcpAnswers,
    DnsAnswers,
    HaproxyRuns,
    HttpReturns,
    Probe,
    ProbeResult,
    RouteExists,
    SshGreets,
    TcpAccepts,
    Unit,
    UnitActive,
)
from agent.monitor.model import Answer, State
from agent.services.monitoring import Section

# Asked more rarely, for each costs the daemon a process, a line in its log or a session in its
# count; all of them as soon as one has had no answer.
RARE = (SshGreets, DhcpAnswers, TcpAccepts)
# An answer to these says which files the daemon runs with.
_WITNESSES = (DnsAnswers, HaproxyRuns, HttpReturns)


@dataclass(frozen=True, slots=True)
class Watched:
    """A unit that is wanted, what operators know its process by, and how it is asked."""

    name: str
    known_as: str
    probes: tuple[Probe, ...] = ()
    enabled: bool = True  # as the document says

    def off(self, held: Collection[str]) -> State | None:
        """Why it is left alone, if it is."""
        if self.name in held:
            return State.HELD
        return None if self.enabled else State.DISABLED


def short(unit: str) -> str:
    """A unit's name without what kind of unit it is."""
    return unit.removesuffix(".service").removesuffix(".target")


def watched(
    units: Mapping[str, Unit], probes: Collection[Probe], section: Section
) -> Mapping[str, Watched]:
    """What is watched, by the unit of the process that answers."""
    found: dict[str, Watched] = {}
    for name, unit in units.items():
        if not unit.main.endswith(".service"):
            continue  # nothing of it runs
        watch = section.services.get(short(name))
        found[unit.main] = Watched(
            name,
            unit.known_as,
            tuple(
                probe
                for probe in probes
                if probe.unit == name and not isinstance(probe, UnitActive | RouteExists)
            ),
            section.enabled and (watch is None or watch.enabled),
        )
    return found


def answer(results: Collection[ProbeResult]) -> Answer:
    """What probes of one service come to; the last one may have ended the round."""
    correct: bool | None = None
    detail = ""
    for result in results:
        if isinstance(result.probe, _WITNESSES) and result.answered:
            correct = result.passed and correct is not False
        if result.passed:
            continue
        detail = detail or result.detail
        if result.blameless:
            return Answer(None, correct, result.detail)
        if not result.answered:
            return Answer(ready=False, correct=correct, detail=result.detail)
    return Answer(ready=True, correct=correct, detail=detail)
