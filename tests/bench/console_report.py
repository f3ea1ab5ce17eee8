"""What was measured of the console proxy: tables, and what the targets say of it."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.bench.console_proxies import NAMES
from tests.bench.samples import p50
from tests.bench.targets import MIB, Verdict

KIB, GIB = 1024, 1 << 30
KINDS = {"plain": "without TLS", "tls": "with TLS"}
Json = Mapping[str, Any]
Table = tuple[Sequence[str], list[Sequence[str]]]


def middle(result: Json, kind: str, name: str, what: str) -> float:
    """The median of a proxy's rounds."""
    return statistics.median(float(one[what]) for one in result["visits"][kind][name])


def ratio(result: Json, kind: str, name: str, what: str) -> float:
    """The median over the rounds of the ratio to websockify in the same round."""
    visits = result["visits"][kind]
    pairs = zip(visits[name], visits["websockify"], strict=True)
    return statistics.median(float(one[what]) / float(stock[what]) for one, stock in pairs)


def added(result: Json, kind: str, name: str, what: str) -> float:
    """The median over the rounds of the seconds that a proxy adds to a way without one."""
    pairs = zip(result["visits"][kind][name], result["direct"], strict=True)
    return statistics.median(max(0.0, float(one[what] - direct[what])) for one, direct in pairs)


def session(result: Json, kind: str, name: str) -> float:
    """Bytes of an idle session; ours the most at any number of them, for memory is used again."""
    if name == "ours":
        return max(float(row["each"]) for row in result["memory"][kind]["rows"])
    return middle(result, kind, name, "session")


def lighter(result: Json, kind: str, name: str = "ours") -> float:
    """The share of websockify's memory that a session takes."""
    return session(result, kind, name) / session(result, kind, "websockify")


def verdicts(result: Json | None) -> Iterator[Verdict]:
    """The targets, and whether they are reached."""
    if result is None:
        return
    shares = (
        ("CPU for a GiB to the browser", "down", {"plain": 0.5, "tls": 0.7}),
        ("CPU for a GiB from the browser", "up", {"plain": 0.4, "tls": 0.6}),
        ("CPU for a key and its answer, 200 sessions", "trip", {"plain": 0.08, "tls": 0.08}),
    )
    for what, name, targets in shares:
        for kind, most in targets.items():
            share, floor = (ratio(result, kind, one, name) for one in ("ours", "haproxy"))
            yield Verdict(
                f"{what}, {KINDS[kind]}",
                f"<= {most} of websockify's",
                f"{share:.3f} (haproxy {floor:.3f})",
                share <= most,
            )
    for kind, words in KINDS.items():
        times = 1 / lighter(result, kind)
        yield Verdict(
            f"memory of an idle session, {words}",
            "<= 1/60 of websockify's", f"1/{times:,.0f}", times >= 60,
        )  # fmt: skip
    yield from _many(result)
    for kind, words in KINDS.items():
        kept = max(one["stalled"] + one["stalled_kernel"] for one in result["visits"][kind]["ours"])
        yield Verdict(
            f"a browser that stalls, {words}, with what the kernel keeps",
            "<= 1 MiB", f"{kept / MIB:.2f} MiB", kept <= MIB,
        )  # fmt: skip
    for kind, words in KINDS.items():
        late = added(result, kind, "ours", "p99") * 1000
        yield Verdict(
            f"added to a key's way, p99 of 200 sessions, {words}",
            "<= 2 ms", f"{late:.1f} ms", late <= 2,
        )  # fmt: skip
    changed = result["certificate"]
    lost, of = changed["lost"], changed["sessions"]
    yield Verdict(
        "sessions lost when the certificate changes",
        "0 of 1,000", f"{lost} of {of:,}",
        None if of < 1000 and not lost else not lost and changed["changed"],
    )  # fmt: skip
    last = max(result["killed"])
    told = "some never" if math.isinf(last) else f"{last:.1f} s"
    yield Verdict("pages back after all workers were killed", "<= 5 s", told, last <= 5)


def _many(result: Json) -> Iterator[Verdict]:
    for kind, words in KINDS.items():
        row = max(result["memory"][kind]["rows"], key=lambda one: int(one["sessions"]))
        count, memory, lost = row["sessions"], row["memory"], row["lost"]
        yield Verdict(
            f"5,000 sessions on a proxy of 1 GiB, {words}",
            "all answer, <= 1 GiB",
            f"{count - lost:,} answer, {memory / MIB:.0f} MiB",
            None if count < 5000 else not lost and memory <= GIB,
        )


def compared(result: Json, kind: str) -> Table:
    """The three, side by side."""
    rows: list[Sequence[str]] = []

    def row(what: str, name: str, unit: float, form: str) -> None:
        values = {one: middle(result, kind, one, name) / unit for one in NAMES}
        share = ratio(result, kind, "ours", name)
        rows.append((
            what,
            *(form.format(values[one]) for one in NAMES),
            f"{share:.3f}" if share < 0.1 else f"{share:.2f}" if share < 10 else f"{share:.0f}",
        ))  # fmt: skip

    row("CPU for a GiB to the browser, s", "down", 1, "{:.2f}")
    row("one session, MiB/s to the browser", "down_rate", MIB, "{:,.0f}")
    row("CPU for a GiB from browsers, s", "up", 1, "{:.2f}")
    row("CPU for a key and its answer, 200 sessions without a pause, us", "trip", 1e-6, "{:.1f}")
    row("such round trips a second", "trip_rate", 1, "{:,.0f}")
    row("CPU for a key, 200 sessions with 10 keys a second each, us", "key", 1e-6, "{:.1f}")
    rows.append((
        "memory of an idle session (PSS), KiB",
        *(f"{session(result, kind, one) / KIB:,.1f}" for one in NAMES),
        f"{lighter(result, kind):.4f}",
    ))  # fmt: skip
    row("CPU to open a session, ms", "open_cpu", 1e-3, "{:.2f}")
    row("sessions opened a second", "open_rate", 1, "{:,.0f}")
    row("opened until a whole screen of 3 MiB is there, p50, ms", "click", 1e-3, "{:.1f}")
    row("memory for a browser that does not read for 3 s, MiB", "stalled", MIB, "{:.2f}")
    row("and of the kernel's for it, MiB", "stalled_kernel", MIB, "{:.2f}")
    rows += [
        (
            f"added to a key's way at 10 a second each, {name}, ms",
            *(f"{added(result, kind, one, name) * 1000:.2f}" for one in NAMES),
            "",
        )
        for name in ("p50", "p99")
    ]
    return ("", *NAMES, "ours / websockify"), rows


def sessions(result: Json) -> Table:
    """Our memory by the number of sessions."""
    rows = [
        (
            KINDS[kind],
            f"{one['sessions']:,}",
            f"{one['memory'] / MIB:.0f} MiB",
            f"{one['each'] / KIB:.1f} KiB",
            str(one["lost"]),
        )
        for kind in KINDS
        for one in result["memory"][kind]["rows"]
    ]
    return ("", "sessions", "memory of all processes", "each", "without an answer"), list(rows)


def sentences(result: Json) -> str:
    """What is no table."""
    changed, killed = result["certificate"], result["killed"]
    base = result["memory"]["tls"]["base"] / MIB
    direct = p50(one["p50"] for one in result["direct"]) * 1000
    return (
        f"Keeper and workers have {base:.0f} MiB before the first session. Without a proxy a key's "
        f"way takes {direct:.2f} ms (p50). {changed['lost']} of {changed['sessions']:,} sessions "
        f"were lost when the certificate changed. After all workers were killed, pages were back "
        f"within {max(killed):.1f} s.\n"
    )
