"""What a health check finds: one result for the API, the files and the metrics."""

import enum
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
