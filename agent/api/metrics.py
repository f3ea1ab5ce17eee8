"""What the VM knows of itself, in the text format that Prometheus reads (version 0.0.4).

Names and units follow its conventions: base units, `_total` for what only grows. Nothing here
costs more than a status does; of a load balancer with very many servers some are left out.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agent.api.ports import BalancerRow, Facts
from agent.api.show import ServiceRow
from agent.engine.store import Revision, State
from agent.monitor.gauges import Gauges
from agent.monitor.health import Report, Verdict

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


def text(known: Known) -> bytes:
    """All metrics."""
    return "".join(line for family in _families(known) for line in family).encode()


def _families(known: Known) -> Iterator[Iterable[str]]:
    yield from _whole(known)
    yield from _checks(known.report)
    yield from _services(known)
    yield from _machine(known.gauges)
    yield from _interfaces(known.gauges)
    yield from _balancer(known.balancer)


def _whole(known: Known) -> Iterator[Iterable[str]]:
    current, state = known.current, known.state
    info = {"version": known.version, "role": str(current.document.role) if current else ""}
    yield _family("info", "gauge", "The VM: its agent's version and its role.", [(info, 1)])
    yield _one("revision", "The revision that runs.", state.current)
    generation = current.info.generation if current else None
    yield _one("generation", "The generation of the document that runs.", generation)
    yield _one("provisional", "1 while a revision waits to be confirmed.", int(state.provisional))
    yield _one("degraded", "1 where neither the last revision nor the one before holds.",
               int(bool(state.degraded)))  # fmt: skip
    yield _one("uptime_seconds", "Since the machine booted.", known.facts.uptime)
    yield _one("agent_uptime_seconds", "Since the agent started.", known.facts.agent_uptime)
    yield _one("agent_memory_bytes", "Memory that is the agent's own.", known.facts.agent_memory)
    with known.changes.mutex:
        counts, seconds = dict(known.changes.counts), dict(known.changes.seconds)
    name = "change_duration_seconds"
    lines = [*_head(name, "summary", "Changes that were asked for since the agent started.")]
    for result, count in sorted(counts.items()):
        labels = {"result": result}
        lines.append(_line(f"{name}_sum", labels, round(seconds[result], 6)))
        lines.append(_line(f"{name}_count", labels, count))
    yield lines


def _checks(report: Report) -> Iterator[Iterable[str]]:
    labels = [({"check": r.name, "level": r.level.value}, r) for r in report.results]
    yield _family(
        "check_ok", "gauge", "0 where a health check failed or warns, else 1.",
        [(names, int(r.verdict.well)) for names, r in labels],
    )  # fmt: skip
    yield _family(
        "check_verdict", "gauge", "1 for how a health check ended.",
        [
            ({**names, "verdict": verdict.value}, int(r.verdict is verdict))
            for names, r in labels
            for verdict in Verdict
        ],
    )  # fmt: skip
    yield _family(
        "check_duration_seconds", "gauge", "How long a health check took.",
        [(names, r.duration) for names, r in labels],
    )  # fmt: skip
    yield _family(
        "check_timestamp_seconds", "gauge", "When a health check ended, since the epoch.",
        [(names, r.at) for names, r in labels],
    )  # fmt: skip


def _services(known: Known) -> Iterator[Iterable[str]]:
    wanted = [row for row in known.services if row.wanted]
    yield _family(
        "service_up", "gauge", "1 where a unit that the document wants runs.",
        [({"unit": row.unit}, int(row.active in {"active", "reloading"})) for row in wanted],
    )  # fmt: skip
    yield _family(
        "service_restarts_total", "counter", "How often systemd started a unit again by itself.",
        [({"unit": unit}, count) for unit, count in sorted(known.gauges.restarts.items())],
    )  # fmt: skip
    yield _family(
        "service_memory_bytes", "gauge", "Resident memory of a unit's main process.",
        [({"unit": row.unit}, row.memory) for row in wanted if row.memory is not None],
    )  # fmt: skip


def _machine(gauges: Gauges) -> Iterator[Iterable[str]]:
    yield _family(
        "cpu_seconds_total", "counter", "CPU time of all cores since the machine booted.",
        [({"mode": "busy"}, gauges.cpu_busy), ({"mode": "idle"}, gauges.cpu_idle)],
    )  # fmt: skip
    yield _one("memory_bytes", "Memory that there is.", gauges.memory_total)
    yield _one(
        "memory_available_bytes", "Memory that can be had without swapping.",
        gauges.memory_available,
    )  # fmt: skip
    yield _one("state_bytes", "Size of the state partition.", gauges.state_total)
    yield _one("state_free_bytes", "Free room on the state partition.", gauges.state_free)
    yield _one("state_free_inodes", "Free inodes on it.", gauges.state_inodes_free)
    yield _one("connections", "Tracked connections.", gauges.connections)
    yield _one("connections_limit", "As many as the table holds.", gauges.connections_limit)


def _interfaces(gauges: Gauges) -> Iterator[Iterable[str]]:
    for name, field_name, words in (
        ("receive_bytes", "received_bytes", "Bytes that came in by an interface."),
        ("transmit_bytes", "sent_bytes", "Bytes that went out by an interface."),
        ("receive_packets", "received_packets", "Packets that came in by an interface."),
        ("transmit_packets", "sent_packets", "Packets that went out by an interface."),
        ("dropped_packets", "dropped", "Packets that an interface dropped, both ways."),
        ("errors", "errors", "Packets that were broken, both ways."),
    ):
        yield _family(
            f"interface_{name}_total", "counter", words,
            [
                ({"interface": nic}, getattr(counts, field_name))
                for nic, counts in sorted(gauges.interfaces.items())
            ],
        )  # fmt: skip


def _balancer(rows: Sequence[BalancerRow]) -> Iterator[Iterable[str]]:
    """Listeners, then servers; a backend's own line would count each of its servers' again."""
    told = [row for row in rows if row.server != "BACKEND"]
    told.sort(key=lambda row: row.server != "FRONTEND")
    left, told = told[ROWS:], told[:ROWS]
    if not rows:
        return
    names = [({"listener": r.listener, "server": _server(r)}, r) for r in told]
    yield _family(
        "balancer_up", "gauge", "1 where a listener listens, or a server behind it is used.",
        [(labels, int(row.status.startswith(("UP", "OPEN", "no check")))) for labels, row in names],
    )  # fmt: skip
    yield _family(
        "balancer_sessions", "gauge", "Connections at this moment.",
        [(labels, row.sessions) for labels, row in names],
    )  # fmt: skip
    yield _family(
        "balancer_sessions_total", "counter", "Connections so far.",
        [(labels, row.total_sessions) for labels, row in names],
    )  # fmt: skip
    yield _family(
        "balancer_receive_bytes_total", "counter", "Bytes from clients.",
        [(labels, row.bytes_in) for labels, row in names],
    )  # fmt: skip
    yield _family(
        "balancer_transmit_bytes_total", "counter", "Bytes to clients.",
        [(labels, row.bytes_out) for labels, row in names],
    )  # fmt: skip
    yield _one("balancer_left_out", "Listeners and servers that are too many to tell.", len(left))


def _server(row: BalancerRow) -> str:
    """Empty for the listener itself."""
    return "" if row.server == "FRONTEND" else row.server


# -- the format --------------------------------------------------------------------------------


def _one(name: str, words: str, value: float | None) -> list[str]:
    return _family(name, "gauge", words, [] if value is None else [({}, value)])


def _family(name: str, kind: str, words: str, samples: Sequence[Sample]) -> list[str]:
    if not samples:
        return []
    return [*_head(name, kind, words), *(_line(name, labels, value) for labels, value in samples)]


def _head(name: str, kind: str, words: str) -> list[str]:
    return [f"# HELP sysvm_{name} {words}\n", f"# TYPE sysvm_{name} {kind}\n"]


def _line(name: str, labels: Labels, value: float) -> str:
    told = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"sysvm_{name}{f'{{{told}}}' if told else ''} {value!r}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
