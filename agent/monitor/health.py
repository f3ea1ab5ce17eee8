"""What a health check finds: one result for the API, the files and the metrics."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Level(enum.StrEnum):
    """When a check runs: basic ones each health interval, advanced ones more rarely."""

    BASIC = "basic"
    ADVANCED = "advanced"


class Verdict(enum.StrEnum):
    """How a check ended; the first four are the field's exit codes 0 to 3."""

    PASSED = "passed"
    FAILED = "failed"
    WARNING = "warning"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"  # it does not apply, and says why: no failure

    @property
    def well(self) -> bool:
        """Is there nothing to do about it? What could not be told is not known to be ill."""
        return self not in {Verdict.FAILED, Verdict.WARNING}


# From nothing to say to somebody must look.
_RANKS = (Verdict.SKIPPED, Verdict.PASSED, Verdict.UNKNOWN, Verdict.WARNING, Verdict.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One check's last run. Names of what is missing are whole; `message` is for a person."""

    name: str
    level: Level
    verdict: Verdict
    message: str
    missing: tuple[str, ...] = ()  # each item that should be there and is not, with where
    path: str = ""  # where in the document to look
    at: float = 0.0  # seconds since the epoch, when it ended
    duration: float = 0.0  # seconds
    revision: int | None = None  # that the check compared the machine with
    value: float | None = None  # of a resource: how much there is of it, or is in use
    threshold: float | None = None  # and what is allowed
    unit: str = ""  # of both


def worst(results: Iterable[Result]) -> Verdict | None:
    """The verdict that somebody has to know of; None where nothing has been checked yet."""
    return max((result.verdict for result in results), key=_RANKS.index, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """When the checks of a level were last run, and when they will be."""

    level: Level
    interval: int  # seconds, as the document says; 0: only when somebody asks
    at: float | None = None  # seconds since the epoch, when the last round ended
    duration: float | None = None  # seconds
    revision: int | None = None  # that the last round compared the machine with
    next_in: float | None = None  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Every check's last result, and the worst of them."""

    worst: Verdict | None
    failing: tuple[str, ...]  # names of checks that failed or warn
    rounds: tuple[Rounds, ...]
    results: tuple[Result, ...]


class NoSuchCheck(Exception):
    """No check has this name, here and at this level."""
