"""What is aimed at, and what was measured of another router."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.losses import http_total
from tests.bench.samples import p50, percentile

LARGEST = 1000  # entries of each kind
MIB = 1024 * 1024

# Apache CloudStack's virtual router (4.22), on the same kind of machine: seconds of one push by
# the number of entries that it holds; 500 listeners instead of 1,000, for more hang it. The
# rebuild of 1,000 was extrapolated from 40 of its 2,000 documents of two kinds.
CLOUDSTACK: Mapping[str, Mapping[int, float]] = {
    "rule": {10: 0.80, 100: 4.47, 1000: 52.1},
    "forward": {10: 0.83, 100: 4.46, 1000: 51.8},
    "host": {10: 0.23, 100: 0.24, 1000: 0.67},
    "listener": {10: 0.98, 100: 4.63, 1000: 53.6},
    "user data": {10: 0.27, 100: 0.65, 1000: 5.6},
    "rebuild": {10: 4.70, 100: 27.3, 1000: 366},
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, what was measured, and whether it was reached; None: too little to say."""

    what: str
    target: str
    measured: str
    reached: bool | None


def verdicts(results: Mapping[str, Any]) -> Iterator[Verdict]:
    """Those that these results can say something of."""
    yield from _changes(results.get("changes", ()))
    for row in results.get("rebuild", ()):
        if row["size"] == LARGEST:
            seconds = p50(row["samples"]["push"])
            yield Verdict("first push of 1,000 of each", "<= 2 s", f"{seconds:.2f} s", seconds <= 2)
    if "losses" in results:
        asked, lost = http_total(results["losses"])
        pushes = results["losses"]["pushes"]
        yield Verdict(
            f"HTTP requests lost over {pushes} pushes",
            "0 of 10,000",
            f"{lost} of {asked:,}",
            None if not lost and (asked < 10_000 or pushes < 50) else not lost,
        )
        for name, flow in results["losses"]["flows"].items():
            yield Verdict(
                f"a long-lived {name}", "stays", _flow(flow["stayed"], pushes), flow["stayed"]
            )
    if "footprint" in results:
        yield from _footprint(results["footprint"])
    yield from _packets(results.get("packets", ()))


def monitor_verdicts(results: Mapping[str, Any]) -> Iterator[Verdict]:
    """Those of the service monitor."""
    found = results.get("monitor")
    if found is None:
        return
    deaths = found["deaths"].values()

    def worst(moment: str, percent: float) -> float:
        return max(percentile(one[moment], percent) for one in deaths)

    for what, moment, percent, most in (
        ("death to stored event, p99", "stored", 99, 0.05),
        ("death to restart requested, p99", "requested", 99, 0.1),
        ("death to answering again, p99", "answers", 99, 1.0),
        ("death to the event at a manager, p99", "told", 99, 2.0),
    ):
        seconds = worst(moment, percent)
        target = f"<= {most * 1000:.0f} ms"
        yield Verdict(f"{what}, worst daemon", target, f"{seconds * 1000:.0f} ms", seconds <= most)
    hang = max(max(samples) for samples in found["hangs"].values())
    yield Verdict("a hang is found, at most", "<= 6 s", f"{hang:.1f} s", hang <= 6)
    for what in ("lost", "false"):
        count = sum(one[what] for one in deaths)
        yield Verdict(f"events that are {what}", "0", str(count), count == 0)
    share = found["idle"] * 100
    yield Verdict("the monitor's CPU, idle", "< 0.5 % of a core", f"{share:.2f} %", share < 0.5)


def _flow(stayed: bool, pushes: int) -> str:
    return f"{'stayed' if stayed else 'cut'} over {pushes} pushes"


def _changes(rows: Sequence[Mapping[str, Any]]) -> Iterator[Verdict]:
    for row in rows:
        if row["size"] != LARGEST or row["kind"] not in {"rule", "forward"}:
            continue
        floor = p50(row["samples"]["floor add"])
        for way in ("put", "patch"):
            seconds = p50(row["samples"][f"{way} add"])
            yield Verdict(
                f"a {row['kind']} more among 1,000, {way.upper()}, p50",
                "<= 200 ms and <= 2.5 floors",
                f"{seconds * 1000:.0f} ms, {seconds / floor:.1f} floors",
                seconds <= 0.2 and seconds <= 2.5 * floor,
            )


def _footprint(result: Mapping[str, Any]) -> Iterator[Verdict]:
    most = max(memory["uss"] for memory in result["memory"].values()) / MIB
    yield Verdict("the agent's own memory, at its most", "<= 60 MiB", f"{most:.0f} MiB", most <= 60)
    if result["idle"] is not None:
        idle = result["idle"]["share"] * 100
        yield Verdict("the agent's CPU, idle", "< 0.5 % of a core", f"{idle:.2f} %", idle < 0.5)


def _packets(rows: Sequence[Mapping[str, Any]]) -> Iterator[Verdict]:
    if len(rows) < 2:
        return
    few, many = rows[0], rows[-1]
    ratio = many["trip"] / few["trip"]
    yield Verdict(
        f"a round trip on an established flow, {many['rules']:,} rules against {few['rules']}",
        "no slower (<= 1.1)",
        f"{ratio:.2f}",
        ratio <= 1.1,
    )


def manager_verdicts(results: Mapping[str, Any]) -> Iterator[Verdict]:
    """Those of the manager, on each database."""
    for name, found in results.get("manager", {}).items():
        took = percentile(found["alone"], 99) * 1000
        what = f"{name}: an assignment with 10,000 VMs and 100 proxies, p99"
        yield Verdict(what, "<= 20 ms", f"{took:.1f} ms", took <= 20)
        beats = found["heartbeats"]
        lost = beats["sent"] - beats["taken"]
        yield Verdict(f"{name}: heartbeats of 10,000 VMs, lost", "0", str(lost), lost == 0)
        seconds = beats["converged"]
        what = f"{name}: from the restart until every VM is heard"
        yield Verdict(what, "<= 60 s", f"{seconds:.1f} s", seconds <= 60)
