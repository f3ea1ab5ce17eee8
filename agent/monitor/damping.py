"""Which results are told as events: a change, once it has been seen twice.

A check that fails once and passes again tells nothing; one that goes on failing tells it once.
"""

from dataclasses import dataclass

from agent.monitor.checks.resources import RESOURCES
from agent.monitor.events import Event, Kind, Value
from agent.monitor.health import Result, Verdict
from agent.monitor.sentences import Sentence

TWICE = 2


@dataclass(frozen=True, slots=True)
class Standing:
    """What has been told of a check, and how often in a row it has been otherwise since."""

    ill: bool = False
    otherwise: int = 0

    @property
    def settled(self) -> bool:
        """Is what was last seen what has been told?"""
        return not self.otherwise


def after(standing: Standing, verdict: Verdict) -> tuple[Standing, bool]:
    """The standing after one more result, and whether that is to be told.

    What could not be told changes nothing: neither was it well, nor was it ill.
    """
    if verdict is Verdict.UNKNOWN:
        return standing, False
    if (not verdict.well) == standing.ill:
        return Standing(standing.ill), False
    if standing.otherwise + 1 < TWICE:
        return Standing(standing.ill, standing.otherwise + 1), False
    return Standing(not standing.ill), True


def event(result: Result) -> Event:
    """The event that tells a change to this result."""
    well = result.verdict.well
    if result.name in RESOURCES:
        data: dict[str, Value] = {
            "value": result.value, "threshold": result.threshold, "unit": result.unit,
        }  # fmt: skip
        kind = Kind.RESOURCE_WELL if well else Kind.RESOURCE_SHORT
        return Event(kind=kind, subject=result.name, message=result.message, data=data)
    kind = Kind.CHECK_PASSED if well else Kind.CHECK_FAILED
    data = {"level": result.level.value}
    if not well:
        data["missing"] = ", ".join(result.missing[:5]) or result.message
    return Event(kind=kind, subject=result.name, message=result.message, data=data)


def sentence(result: Result) -> str:
    """A line of the log for this change."""
    if result.verdict.well:
        text = Sentence.CHECK_PASSES
    else:
        failed = result.verdict is Verdict.FAILED
        text = Sentence.CHECK_FAILED if failed else Sentence.CHECK_WARNS
    return f"{text.of(result.name)}: {result.message}"
