"""The endpoint's part of the health checks: what is asked, and an answer where nobody watches."""

from agent.api import problems
from agent.api.problems import Refusal
from agent.monitor.gauges import Gauges
from agent.monitor.health import Level, NoSuchCheck, Report, Result, Verdict


class Unwatched:
    """`agent.api.ports.Health` where no checks are run."""

    def report(self) -> Report:
        return Report(worst=None, failing=(), rounds=(), results=())

    def worst(self) -> Verdict | None:
        return None

    def run(self, level: Level | None = None, name: str | None = None) -> tuple[Result, ...]:
        if name is not None or level is not None:
            raise NoSuchCheck(name or level)
        return ()

    def gauges(self) -> Gauges:
        return Gauges(
            cpu_busy=0, cpu_idle=0, memory_available=0, memory_total=0, interfaces={}, restarts={}
        )


def level_of(text: str | None) -> Level | None:
    """The level that a query names. Raises Refusal."""
    if text is None:
        return None
    try:
        return Level(text)
    except ValueError:
        known = " or ".join(Level)
        raise Refusal(problems.BAD_REQUEST, f"level is {known}") from None
