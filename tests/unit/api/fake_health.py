"""Health checks in memory, for the endpoint and the command line."""

from agent.monitor.gauges import Gauges, InterfaceCounts
from agent.monitor.health import Level, NoSuchCheck, Report, Result, Rounds, Verdict, worst

NOW = 1_800_000_000.0

RESULTS = (
    Result(
        name="cpu", level=Level.BASIC, verdict=Verdict.PASSED,
        message="3 % of the CPU over 60 s in use, allowed are 95 %",
        at=NOW - 60, duration=0.001, value=3.0, threshold=95.0, unit="percent",
    ),
    Result(
        name="dns", level=Level.ADVANCED, verdict=Verdict.FAILED,
        message='1 of 6 answers are wrong (all 6), "so"', path="/dhcp_dns/dns/records/db",
        missing=("/dhcp_dns/dns/records/db (db.net1 at 10.1.1.1: nothing, not 10.1.1.11)",),
        at=NOW - 30, duration=0.2, revision=1,
    ),
    Result(
        name="dhcp", level=Level.ADVANCED, verdict=Verdict.SKIPPED,
        message="the document wants no dnsmasq.service", at=NOW - 30, revision=1,
    ),
)  # fmt: skip


class FakeHealth:
    """Checks whose results are what a test says."""

    def __init__(self, results: tuple[Result, ...] = RESULTS) -> None:
        self.results = results
        self.asked: list[tuple[Level | None, str | None]] = []
        self.fails: Exception | None = None

    def report(self) -> Report:
        return Report(
            worst=worst(self.results),
            failing=tuple(r.name for r in self.results if not r.verdict.well),
            rounds=(Rounds(level=Level.BASIC, interval=180, at=NOW - 60, next_in=120.0),),
            results=self.results,
        )

    def worst(self) -> Verdict | None:
        return worst(self.results)

    def run(self, level: Level | None = None, name: str | None = None) -> tuple[Result, ...]:
        if self.fails is not None:
            raise self.fails
        self.asked.append((level, name))
        found = tuple(
            one for one in self.results if level in {None, one.level} and name in {None, one.name}
        )
        if name is not None and not found:
            raise NoSuchCheck(name)
        return found

    def gauges(self) -> Gauges:
        return Gauges(
            cpu_busy=100.5, cpu_idle=900.0, memory_available=300, memory_total=1000,
            state_free=5, state_total=10, connections=7, connections_limit=262144,
            interfaces={"eth0": InterfaceCounts(1, 2, 3, 4, 5, 6)},
            restarts={"dnsmasq.service": 2},
        )  # fmt: skip
