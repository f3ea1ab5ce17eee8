"""`make bench`: measure, print what the targets say of it, and write docs/performance.md.

A quick form (`--quick`) shows in less than two minutes whether something has become slow; it
writes nothing to docs/. Parts can be chosen (`--only changes,losses`).
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import ApplianceError
from tests.bench import (
    changes,
    console,
    footprint,
    image,
    losses,
    manager,
    monitor,
    packets,
    report,
)
from tests.bench.router import Json, router

RESULTS = Path("build/bench/results.json")
PARTS = (
    *("changes", "rebuild", "losses", "footprint", "packets"),
    *("monitor", "manager", "console", "image"),
)
APART = ("image", "monitor", "manager", "console")  # whose tables are written alone as well


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. Entries of each kind, with repetitions; the rest in seconds."""

    changes: Mapping[int, int]
    rebuild: Mapping[int, int]
    losses_size: int
    pushes: int
    requests: int
    rate: float  # requests a second of each of the three paths
    alone: float
    idle: float
    boots: int
    rules: tuple[int, ...]
    rounds: int
    stream: float
    kills: int
    hangs: int
    assignments: int
    beats: int  # seconds
    console: console.Sizes
    image_boots: int
    image_guests: Mapping[int, int]  # and the machine's memory in MiB for each


FULL = Sizes(
    changes={10: 7, 100: 7, 1000: 11},
    rebuild={10: 3, 100: 3, 1000: 5},
    losses_size=1000,
    pushes=50,
    requests=10_000,
    rate=130,
    alone=15,
    idle=90,
    boots=3,
    rules=(10, 1000, 10000),
    rounds=3,
    stream=1.0,
    kills=100,
    hangs=5,
    assignments=2000,
    beats=30,
    console=console.FULL,
    image_boots=2,
    image_guests=image.MEMORY,
)
QUICK = Sizes(
    changes={10: 2, 1000: 2},
    rebuild={1000: 1},
    losses_size=100,
    pushes=15,
    requests=1_000,
    rate=100,
    alone=4,
    idle=0,
    boots=1,
    rules=(10, 1000),
    rounds=1,
    stream=0.5,
    kills=3,
    hangs=1,
    assignments=200,
    beats=10,
    console=console.QUICK,
    image_boots=1,
    image_guests={50: image.MEMORY[50]},
)


def main() -> int:
    given = _arguments()
    sizes = QUICK if given.quick else FULL
    if given.size:
        sizes = Sizes(**{
            **{name: getattr(sizes, name) for name in Sizes.__slots__},
            "changes": {given.size: 7}, "rebuild": {given.size: 3}, "losses_size": given.size,
        })  # fmt: skip
    begun = time.monotonic()

    def say(what: str) -> None:
        sys.stderr.write(f"{time.monotonic() - begun:5.0f} s  {what}\n")
        sys.stderr.flush()

    results: Json = {"command": _command(), "machine": _machine(), "date": time.strftime("%F")}
    try:
        for part in PARTS:
            if part in given.only:
                results[part] = _MEASURES[part](sizes, say)
    except (ApplianceError, AssertionError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    results["seconds"] = time.monotonic() - begun
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1))
    sys.stdout.write(report.text(results))
    full = not given.quick and not given.size and not given.no_write
    parts = set(given.only)
    if full and (parts <= set(APART) or parts >= set(PARTS) - set(APART)):
        report.write(results, lab="changes" in parts, apart=frozenset(parts & set(APART)))
        say("wrote docs/performance.md")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of all, in two minutes")
    parser.add_argument("--size", type=int, help="this number of entries of each kind alone")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=PARTS, help=f"of {','.join(PARTS)}"
    )
    parser.add_argument("--no-write", action="store_true", help="leave docs/ as it is")
    given = parser.parse_args()
    if unknown := set(given.only) - set(PARTS):
        parser.error(f"--only takes {','.join(PARTS)}, not {','.join(sorted(unknown))}")
    return given


def _command() -> str:
    return " ".join(["python -m tests.bench", *sys.argv[1:]])


def _machine() -> Json:
    memory = next(
        line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if line
    )
    return {
        "cores": len(_cpus()),
        "memory_gib": round(int(memory) / 1024 / 1024),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "load": Path("/proc/loadavg").read_text().split()[0],
    }


def _cpus() -> list[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return [line for line in lines if line.startswith("processor")]


# -- the parts ----------------------------------------------------------------------------------

Say = Callable[[str], None]


def _changes(sizes: Sizes, say: Say) -> list[Json]:
    return [
        {"size": size, "kind": kind, "samples": samples}
        for size, kind, samples in changes.measure(sizes.changes, say)
    ]


def _rebuild(sizes: Sizes, say: Say) -> list[Json]:
    return [
        {"size": size, "samples": samples, "parts": parts}
        for size, samples, parts in changes.rebuild(sizes.rebuild, say)
    ]


def _losses(sizes: Sizes, say: Say) -> Json:
    with router("lost") as vm:
        losses.prepare(vm, sizes.losses_size)
        return losses.measure(
            vm,
            size=sizes.losses_size,
            pushes=sizes.pushes,
            rate=sizes.rate,
            before=sizes.alone,
            requests=sizes.requests,
            say=say,
        )


def _footprint(sizes: Sizes, say: Say) -> Json:
    size = max(sizes.changes)
    return footprint.measure(
        size=size, pushes=sizes.pushes, idle=sizes.idle, boots=sizes.boots, say=say
    )


def _packets(sizes: Sizes, say: Say) -> list[Json]:
    return [
        {"rules": size, **seen}
        for size, seen in packets.measure(sizes.rules, sizes.rounds, sizes.stream, say)
    ]


def _monitor(sizes: Sizes, say: Say) -> Json:
    return monitor.measure(kills=sizes.kills, hangs=sizes.hangs, idle=sizes.idle or 5, say=say)


def _manager(sizes: Sizes, say: Say) -> Json:
    return manager.measure(count=sizes.assignments, seconds=sizes.beats, say=say)


def _console(sizes: Sizes, say: Say) -> Json:
    return console.measure(sizes.console, say)


def _image(sizes: Sizes, say: Say) -> Json:
    return image.measure(boots=sizes.image_boots, sizes=sizes.image_guests, say=say)


_MEASURES: Mapping[str, Callable[[Sizes, Say], object]] = {
    "changes": _changes,
    "rebuild": _rebuild,
    "losses": _losses,
    "footprint": _footprint,
    "packets": _packets,
    "monitor": _monitor,
    "manager": _manager,
    "console": _console,
    "image": _image,
}


if __name__ == "__main__":
    sys.exit(main())
