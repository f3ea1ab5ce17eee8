"""What the VM knows of itself, in the text format that Prometheus reads (version 0.0.4).

Names and units follow its conventions: base units, `_total` for what only grows. Nothing here
costs more than a status does; of a load balancer with very many servers some are left out.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agent.api.ports import BalancerRow, Facts
from agent.api.show import ServiceRow
from agent.engine.store import Revision, State
from agent.monitor.gauges import Gauges
from agent.monitor.health import Report, Result, Verdict

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ROWS = 500  # of the load balancer's statistics

Labels = Mapping[str, str]
Sample = tuple[Labels, float]


@dataclass(slots=True)
class Changes:
    """How many changes there were since the agent started, and how long they took."""

    counts: dict[str, int] = field(default_factory=dict)  # by result
    seconds: dict[str, float] = field(default_factory=dict)
    mutex: threading.Lock = field(default_factory=threading.Lock)

    def add(self, result: str, duration: float) -> None:
        with self.mutex:
            self.counts[result] = self.counts.get(result, 0) + 1
            self.seconds[result] = self.seconds.get(result, 0.0) + duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What metrics are made of."""

    version: str
    facts: Facts
    state: State
    current: Revision | None
    report: Report
    services: Sequence[ServiceRow]
    balancer: Sequence[BalancerRow]
    gauges: Gauges
    changes: Changes


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, its type, what it says, and where its samples come from."""

    name: str
    kind: str
    words: str
    samples: Callable[[Known], Iterable[Sample]]


def text(known: Known) -> bytes:
    """All metrics."""
    return "".join(line for family in FAMILIES for line in _lines(family, known)).encode()


# -- where samples come from ---------------------------------------------------------------------


def _info(known: Known) -> Iterator[Sample]:
    role = str(known.current.document.role) if known.current else ""
    yield {"version": known.version, "role": role}, 1


def _changes(known: Known) -> Iterator[Sample]:
    with known.changes.mutex:
        counts, seconds = dict(known.changes.counts), dict(known.changes.seconds)
    for result, count in sorted(counts.items()):
        yield {"_": "_sum", "result": result}, round(seconds[result], 6)
        yield {"_": "_count", "result": result}, count


def _one(value: Callable[[Known], float | None]) -> Callable[[Known], Iterable[Sample]]:
    """A single sample; none where the value is not known."""

    def samples(known: Known) -> Iterator[Sample]:
        if (found := value(known)) is not None:
            yield {}, found

    return samples


def _check(value: Callable[[Result], float]) -> Callable[[Known], Iterable[Sample]]:
    return lambda known: (
        ({"check": r.name, "level": r.level.value}, value(r)) for r in known.report.results
    )


def _verdicts(known: Known) -> Iterator[Sample]:
    for r in known.report.results:
        names = {"check": r.name, "level": r.level.value}
        for verdict in Verdict:
            yield {**names, "verdict": verdict.value}, int(r.verdict is verdict)


def _service(value: Callable[[ServiceRow], float | None]) -> Callable[[Known], Iterable[Sample]]:
    def samples(known: Known) -> Iterator[Sample]:
        for row in known.services:
            if row.wanted and (found := value(row)) is not None:
                yield {"unit": row.unit}, found

    return samples


def _cpu(known: Known) -> Iterator[Sample]:
    yield {"mode": "busy"}, known.gauges.cpu_busy
    yield {"mode": "idle"}, known.gauges.cpu_idle


def _interface(name: str) -> Callable[[Known], Iterable[Sample]]:
    return lambda known: (
        ({"interface": nic}, getattr(counts, name))
        for nic, counts in sorted(known.gauges.interfaces.items())
    )


def _told(rows: Sequence[BalancerRow]) -> list[BalancerRow]:
    """Listeners, then servers; a backend's own line would count each of its servers' again."""
    told = [row for row in rows if row.server != "BACKEND"]
    return sorted(told, key=lambda row: row.server != "FRONTEND")


def _balancer(value: Callable[[BalancerRow], float]) -> Callable[[Known], Iterable[Sample]]:
    def samples(known: Known) -> Iterator[Sample]:
        for row in _told(known.balancer)[:ROWS]:
            server = "" if row.server == "FRONTEND" else row.server  # empty: the listener itself
            yield {"listener": row.listener, "server": server}, value(row)

    return samples


def _left_out(known: Known) -> float | None:
    return max(0, len(_told(known.balancer)) - ROWS) if known.balancer else None


_UP = ("UP", "OPEN", "no check")
_RUNS = frozenset({"active", "reloading"})

FAMILIES: tuple[Family, ...] = (
    Family("info", "gauge", "The VM: its agent's version and its role.", _info),
    Family("revision", "gauge", "The revision that runs.", _one(lambda k: k.state.current)),
    Family(
        "generation", "gauge", "The generation of the document that runs.",
        _one(lambda k: k.current.info.generation if k.current else None),
    ),
    Family(
        "provisional", "gauge", "1 while a revision waits to be confirmed.",
        _one(lambda k: int(k.state.provisional)),
    ),
    Family(
        "degraded", "gauge", "1 where neither the last revision nor the one before holds.",
        _one(lambda k: int(bool(k.state.degraded))),
    ),
    Family("uptime_seconds", "gauge", "Since the machine booted.", _one(lambda k: k.facts.uptime)),
    Family(
        "agent_uptime_seconds", "gauge", "Since the agent started.",
        _one(lambda k: k.facts.agent_uptime),
    ),
    Family(
        "agent_memory_bytes", "gauge", "Memory that is the agent's own.",
        _one(lambda k: k.facts.agent_memory),
    ),
    Family(
        "change_duration_seconds", "summary",
        "Changes that were asked for since the agent started.", _changes,
    ),
    Family(
        "check_ok", "gauge", "0 where a health check failed or warns, else 1.",
        _check(lambda r: int(r.verdict.well)),
    ),
    Family("check_verdict", "gauge", "1 for how a health check ended.", _verdicts),
    Family(
        "check_duration_seconds", "gauge", "How long a health check took.",
        _check(lambda r: r.duration),
    ),
    Family(
        "check_timestamp_seconds", "gauge", "When a health check ended, since the epoch.",
        _check(lambda r: r.at),
    ),
    Family(
        "service_up", "gauge", "1 where a unit that the document wants runs.",
        _service(lambda row: int(row.active in _RUNS)),
    ),
    Family(
        "service_restarts_total", "counter", "How often systemd started a unit again by itself.",
        lambda k: (({"unit": unit}, count) for unit, count in sorted(k.gauges.restarts.items())),
    ),
    Family(
        "service_memory_bytes", "gauge", "Resident memory of a unit's main process.",
        _service(lambda row: row.memory),
    ),
    Family(
        "cpu_seconds_total", "counter", "CPU time of all cores since the machine booted.", _cpu
    ),
    Family(
        "memory_bytes", "gauge", "Memory that there is.", _one(lambda k: k.gauges.memory_total)
    ),
    Family(
        "memory_available_bytes", "gauge", "Memory that can be had without swapping.",
        _one(lambda k: k.gauges.memory_available),
    ),
    Family(
        "state_bytes", "gauge", "Size of the state partition.",
        _one(lambda k: k.gauges.state_total),
    ),
    Family(
        "state_free_bytes", "gauge", "Free room on the state partition.",
        _one(lambda k: k.gauges.state_free),
    ),
    Family(
        "state_free_inodes", "gauge", "Free inodes on it.",
        _one(lambda k: k.gauges.state_inodes_free),
    ),
    Family("connections", "gauge", "Tracked connections.", _one(lambda k: k.gauges.connections)),
    Family(
        "connections_limit", "gauge", "As many as the table holds.",
        _one(lambda k: k.gauges.connections_limit),
    ),
    Family(
        "interface_receive_bytes_total", "counter", "Bytes that came in by an interface.",
        _interface("received_bytes"),
    ),
    Family(
        "interface_transmit_bytes_total", "counter", "Bytes that went out by an interface.",
        _interface("sent_bytes"),
    ),
    Family(
        "interface_receive_packets_total", "counter", "Packets that came in by an interface.",
        _interface("received_packets"),
    ),
    Family(
        "interface_transmit_packets_total", "counter", "Packets that went out by an interface.",
        _interface("sent_packets"),
    ),
    Family(
        "interface_dropped_packets_total", "counter",
        "Packets that an interface dropped, both ways.", _interface("dropped"),
    ),
    Family(
        "interface_errors_total", "counter", "Packets that were broken, both ways.",
        _interface("errors"),
    ),
    Family(
        "balancer_up", "gauge", "1 where a listener listens, or a server behind it is used.",
        _balancer(lambda row: int(row.status.startswith(_UP))),
    ),
    Family(
        "balancer_sessions", "gauge", "Connections at this moment.",
        _balancer(lambda row: row.sessions),
    ),
    Family(
        "balancer_sessions_total", "counter", "Connections so far.",
        _balancer(lambda row: row.total_sessions),
    ),
    Family(
        "balancer_receive_bytes_total", "counter", "Bytes from clients.",
        _balancer(lambda row: row.bytes_in),
    ),
    Family(
        "balancer_transmit_bytes_total", "counter", "Bytes to clients.",
        _balancer(lambda row: row.bytes_out),
    ),
    Family(
        "balancer_left_out", "gauge", "Listeners and servers that are too many to tell.",
        _one(_left_out),
    ),
)  # fmt: skip


# -- the format --------------------------------------------------------------------------------


def _lines(family: Family, known: Known) -> Iterator[str]:
    """A family with its head; nothing where there is no sample, except of a summary."""
    samples = list(family.samples(known))
    if not samples and family.kind != "summary":
        return
    yield f"# HELP sysvm_{family.name} {family.words}\n"
    yield f"# TYPE sysvm_{family.name} {family.kind}\n"
    for labels, value in samples:
        ending = labels.get("_", "")  # of a summary's own names
        told = ",".join(
            f'{name}="{_escaped(text)}"' for name, text in labels.items() if name != "_"
        )
        yield f"sysvm_{family.name}{ending}{f'{{{told}}}' if told else ''} {value!r}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
