"""Tables of what was measured: for the terminal, and for docs/performance.md."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench import console_report
from tests.bench.losses import http_total
from tests.bench.samples import p50, p90, p99
from tests.bench.targets import (
    CLOUDSTACK,
    MIB,
    Verdict,
    manager_verdicts,
    monitor_verdicts,
    verdicts,
)

DOCUMENT = Path(__file__).parents[2] / "docs/performance.md"
Results = Mapping[str, Any]
CONSOLE = ("console how", "console targets", "console plain", "console tls", "console sessions")
# The tables of the parts that are written alone as well; the others are the lab's.
APART: Mapping[str, str] = {
    "image": "image",
    "image boot": "image",
    "image units": "image",
    "image memory": "image",
    "monitor targets": "monitor",
    "monitor": "monitor",
    "manager targets": "manager",
    "manager": "manager",
    **dict.fromkeys(CONSOLE, "console"),
}
_ANSWER = {True: "yes", False: "NO", None: "too few"}


def text(results: Results) -> str:
    """All tables that these results fill, for a terminal."""
    return "".join(f"\n{title}\n\n{body}" for title, body in _tables(results).items() if body)


def write(results: Results, *, lab: bool, apart: frozenset[str]) -> None:
    """Fill the tables of docs/performance.md in, those of the parts that were measured, and draw
    their plots."""
    document = DOCUMENT.read_text()
    for name, body in _tables(results).items():
        if not (APART[name] in apart if name in APART else lab):
            continue
        pattern = rf"(<!-- bench: {re.escape(name)} -->\n).*?(<!-- /bench -->)"
        document, found = re.subn(pattern, rf"\g<1>\n{body}\n\g<2>", document, flags=re.DOTALL)
        if not found:
            raise AssertionError(f"docs/performance.md has no place for: {name}")
    DOCUMENT.write_text(document)
    if not lab and "console" not in apart:
        return
    try:
        from tests.bench import plots
    except ImportError as error:
        sys.stderr.write(f"no plots: {error}; pip install '.[bench]'\n")
    else:
        plots.draw(results, DOCUMENT.parent)


def _tables(results: Results) -> Mapping[str, str]:
    return {
        "how": _how(results),
        "targets": _targets(results),
        "changes": _changes(results.get("changes", ())),
        "removals": _removals(results.get("changes", ())),
        "rebuild": _rebuild(results.get("rebuild", ())),
        "losses": _losses(results.get("losses")),
        "footprint": _footprint(results.get("footprint")),
        "packets": _packets(results.get("packets", ())),
        "monitor targets": _verdicts(monitor_verdicts(results)),
        "monitor": _monitor(results.get("monitor"), results),
        "manager targets": _verdicts(manager_verdicts(results)),
        "manager": _manager(results.get("manager"), results),
        **_console(results),
        "image": _image(results),
        "image boot": _image_boot(results.get("image")),
        "image units": _image_units(results.get("image")),
        "image memory": _image_memory(results.get("image")),
    }


def _how(results: Results) -> str:
    machine = results["machine"]
    return (
        f"`{results['command']}` of {results['date']}, {results['seconds'] / 60:.0f} minutes: "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}, VM, "
        f"guests and internet as containers; load {machine['load']} before it began.\n"
    )


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """Markdown whose columns stand below one another; empty without rows."""
    body = [list(row) for row in rows]
    if not body:
        return ""
    widths = [max(len(row[n]) for row in [head, *body]) for n in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        others = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join([first, *others])} |\n"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])])
    return line(head) + f"|{rule}|\n" + "".join(map(line, body))


def _ms(values: Sequence[float]) -> str:
    return f"{p50(values) * 1000:.0f} / {p90(values) * 1000:.0f}"


def _targets(results: Results) -> str:
    return _verdicts(verdicts(results))


def _verdicts(found: Iterator[Verdict]) -> str:
    return _table(
        ("what", "target", "measured", "reached"),
        ((v.what, v.target, v.measured, _ANSWER[v.reached]) for v in found),
    )


def _changes(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        ("one more", "among", "PUT", "PATCH", "floor", "PUT / floor", "least", "CloudStack"),
        (
            (
                row["kind"],
                f"{row['size']:,}",
                _ms(row["samples"]["put add"]),
                _ms(row["samples"]["patch add"]),
                _ms(row["samples"]["floor add"]),
                _ratio(row["samples"]["put add"], row["samples"]["floor add"]),
                _ms(row["samples"]["ideal add"]),
                _cloudstack(row["kind"], row["size"]),
            )
            for row in rows
        ),
    )


def _removals(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        ("one less", "among", "PUT", "PATCH", "floor", "PUT / floor", "least"),
        (
            (
                row["kind"],
                f"{row['size']:,}",
                _ms(row["samples"]["put remove"]),
                _ms(row["samples"]["patch remove"]),
                _ms(row["samples"]["floor remove"]),
                _ratio(row["samples"]["put remove"], row["samples"]["floor remove"]),
                _ms(row["samples"]["ideal remove"]),
            )
            for row in rows
        ),
    )


def _ratio(ours: Sequence[float], floor: Sequence[float]) -> str:
    return f"{p50(ours) / p50(floor):.1f}"


def _cloudstack(kind: str, size: int) -> str:
    seconds = CLOUDSTACK[kind].get(size)
    return "-" if seconds is None else f"{seconds * 1000:,.0f}"


def _rebuild(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        ("first push of", "ours", "floor", "ours / floor", "CloudStack"),
        (
            (
                f"{row['size']:,} of each",
                _ms(row["samples"]["push"]),
                _ms(row["samples"]["floor"]),
                _ratio(row["samples"]["push"], row["samples"]["floor"]),
                _cloudstack("rebuild", row["size"]),
            )
            for row in rows
        ),
    )


def _losses(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return ""

    def one(row: Mapping[str, Any]) -> tuple[str, ...]:
        if not row["asked"]:
            return ("0", "-", "-", "-", "-")
        times = [
            f"{row[name] * 1000:.1f}" if row[name] else "-" for name in ("p50", "p99", "worst")
        ]
        return (f"{row['asked']:,}", f"{row['lost']}", *times)

    asked, lost = http_total(result)
    took = result["push"]
    table = _table(
        ("path", "pushes", "asked", "lost", "p50", "p99", "worst"),
        (
            (name, "yes" if phase == "pushing" else "no", *one(row))
            for name, phases in sorted(result["seen"].items())
            for phase, row in phases.items()
        ),
    )
    return (
        f"{result['pushes']} pushes among {result['size']:,} of each, one after another in "
        f"{result['seconds']['pushing']:.0f} s (each {_ms(took)} ms, p50 / p90); "
        f"{asked:,} HTTP requests meanwhile, {lost} lost.\n\n{table}"
    )


def _footprint(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return ""
    memory = _table(
        ("the agent's memory after", "its own (USS)", "PSS"),
        (
            (name, f"{sizes['uss'] / MIB:.1f} MiB", f"{sizes['pss'] / MIB:.1f} MiB")
            for name, sizes in result["memory"].items()
        ),
    )
    rows = (
        *_idle(result["idle"], f"{result['size']:,}"),
        ("restart of the agent until it answers", _seconds(result["restart"])),
        ("power on until a listener accepts outside", _seconds(result["serving"])),
        ("power on until the agent answers", _seconds(result["boot"])),
    )
    return f"{memory}\n{_table(('else', 'p50'), iter(rows))}"


def _idle(idle: Mapping[str, Any] | None, size: str) -> Iterator[tuple[str, str]]:
    if idle is None:
        return
    between, share = (f"{idle[key] * 100:.2f} % of a core" for key in ("between", "share"))
    yield f"CPU over {idle['seconds']:g} s of nothing, with {size} of each", between
    for level, seconds in idle["rounds"].items():
        yield f"CPU of a round of {level} health checks", f"{seconds * 1000:.0f} ms"
    yield "CPU, idle, with these rounds at their intervals", share


def _seconds(values: Sequence[float]) -> str:
    return f"{p50(values):.2f} s"


def _packets(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        ("firewall rules", "one flow, Gbit/s", "round trip, us", "new connection, us", "a second"),
        (
            (
                f"{row['rules']:,}",
                f"{row['bytes_a_second'] * 8 / 1e9:.1f}",
                f"{row['trip'] * 1e6:.0f}",
                f"{row['connect'] * 1e6:.0f}",
                f"{1 / row['connect']:,.0f}",
            )
            for row in rows
        ),
    )


_MOMENTS = {
    "stored": "its event is stored",
    "requested": "its restart is requested",
    "answers": "it answers again",
    "recovered": "the event of its recovery",
    "told": "its event is in a manager's hands",
}


def _monitor(result: Results | None, results: Results) -> str:
    if result is None:
        return ""
    machine = results["machine"]
    load = f"On {machine['cores']} cores that others used as well, with a load of "
    load += f"{machine['load']} before it began:\n\n"
    head = ["after a death of", "of", *(f"{moment}, p50 / p99" for moment in _MOMENTS.values())]
    rows = (
        [unit.removesuffix(".service"), str(len(found["answers"]))]
        + [f"{p50(found[m]) * 1000:.0f} / {p99(found[m]) * 1000:.0f} ms" for m in _MOMENTS]
        for unit, found in result["deaths"].items()
    )
    hangs = (
        [
            unit.removesuffix(".service"),
            str(len(found)),
            f"{p50(found):.1f} s",
            f"{max(found):.1f} s",
        ]
        for unit, found in result["hangs"].items()
    )
    found = _table(head, rows)
    return load + found + "\n" + _table(["a hang of", "of", "found, p50", "at most"], hangs)


def _manager(result: Results | None, results: Results) -> str:
    if result is None:
        return ""
    machine = results["machine"]
    load = f"On {machine['cores']} cores, with a load of {machine['load']} before it began:\n\n"
    head = [
        "database", "an assignment, p50 / p99", "four at once, p50 / p99", "assignments/s",
        "events/s", "heartbeats taken", "CPU meanwhile",
    ]  # fmt: skip
    rows = (
        [
            name,
            f"{p50(found['alone']) * 1000:.1f} / {p99(found['alone']) * 1000:.1f} ms",
            f"{p50(found['four']) * 1000:.1f} / {p99(found['four']) * 1000:.1f} ms",
            f"{found['rate']:.0f}",
            f"{found['events']:.0f}",
            f"{found['heartbeats']['taken']} of {found['heartbeats']['sent']}",
            f"{found['heartbeats']['cpu'] * 100:.0f} % of a core",
        ]
        for name, found in result.items()
    )
    return load + _table(head, rows)


def _console(results: Results) -> Mapping[str, str]:
    found = results.get("console")
    if found is None:
        return dict.fromkeys(CONSOLE, "")
    machine = results["machine"]
    how = (
        f"`{results['command']}` of {results['date']}: {found['sizes']['rounds']} rounds on "
        f"{machine['cores']} cores, Linux {machine['kernel']}, {found['runs_on']}; load "
        f"{machine['load']} before it began.\n"
    )
    plain, tls, sessions = (
        _table(head, iter(rows))
        for head, rows in (
            console_report.compared(found, "plain"),
            console_report.compared(found, "tls"),
            console_report.sessions(found),
        )
    )
    bodies = (how, _verdicts(console_report.verdicts(found)), plain, tls)
    return dict(
        zip(CONSOLE, (*bodies, f"{sessions}\n{console_report.sentences(found)}"), strict=True)
    )


def _image(results: Results) -> str:
    """The targets of an image."""
    image = results.get("image")
    if image is None:
        return ""
    megabytes = image["bytes"] / 1e6
    rows = [
        ("the qcow2 with everything in it", "<= 165 MB", f"{megabytes:.0f} MB", megabytes <= 165)
    ]
    for until, times in (
        ("a guest with a lease is served", "served"),
        ("names are told", "answered"),
    ):
        ratio = p50(image["boot"][times]) / p50(image["boot"]["bare"])
        words = f"power-on until {until}, against kernel and systemd alone"
        rows.append((words, "<= 1.5", f"{ratio:.2f}", ratio <= 1.5))
    for row in image["memory"]:
        target = {50: 150, 1000: 256}[row["guests"]]
        words = f"memory in use with {row['guests']:,} guests, of {row['machine']} MiB"
        measured = f"{row['used']:.0f} MiB"
        rows.append((words, f"<= {target} MiB", measured, row["used"] <= target))
    machine = results["machine"]
    table = _table(
        ("what", "target", "measured", "reached"),
        ((*row[:3], _ANSWER[row[3]]) for row in rows),
    )
    return (
        f"`{results['command']}` of {results['date']}: {image['name']} under QEMU, "
        f"{image['accelerator']}, two processors on {machine['cores']} cores; load "
        f"{machine['load']} before it began.\n\n{table}"
    )


def _image_boot(image: Results | None) -> str:
    if image is None:
        return ""
    boot = image["boot"]
    table = _table(
        ("from power-on until", "least", "p50", "most"),
        (
            (words, *(f"{value:.1f} s" for value in (min(times), p50(times), max(times))))
            for words, times in (
                ("a guest that has its lease reaches the internet", boot["served"]),
                ("names are told and leases given", boot["answered"]),
                ("kernel and systemd alone are up", boot["bare"]),
            )
        ),
    )
    told = f"`systemd-analyze`: {boot['analyze']}; without our units: {boot['bare_analyze']}"
    return f"{table}\n{told}\n\n```\n{boot['chain'].strip()}\n```\n"


def _image_units(image: Results | None) -> str:
    if image is None:
        return ""
    return _table(
        ("unit", "seconds"),
        ((f"`{row['unit']}`", f"{row['seconds']:.2f}") for row in image["boot"]["units"]),
    )


def _image_memory(image: Results | None) -> str:
    if image is None:
        return ""
    return _table(
        ("guests", "listeners", "memory", "before the push", "in use", "largest (PSS)"),
        (
            (
                f"{row['guests']:,}",
                str(row["listeners"]),
                f"{row['machine']} MiB",
                f"{row['before']:.0f} MiB",
                f"{row['used']:.0f} MiB",
                ", ".join(
                    f"{p['name'].removesuffix('.service')} {p['pss']:.0f}"
                    for p in row["processes"][:4]
                ),
            )
            for row in image["memory"]
        ),
    )
