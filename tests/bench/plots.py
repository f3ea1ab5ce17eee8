"""The pictures of docs/performance.md; needs matplotlib (the extra `bench`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from tests.bench.console_report import KINDS, lighter, ratio
from tests.bench.losses import HTTP
from tests.bench.samples import p50
from tests.bench.targets import CLOUDSTACK

_OURS, _FLOOR, _THEIRS = "#1f6feb", "#57606a", "#d1242f"


def draw(results: Mapping[str, Any], folder: Path) -> None:
    """Draw what these results have, as PNG files."""
    if results.get("changes"):
        _apply(results, folder / "performance-apply.png")
    if results.get("losses"):
        _latency(results["losses"], folder / "performance-latency.png")
    if results.get("console"):
        _console(results["console"], folder / "performance-console.png")


def _apply(results: Mapping[str, Any], path: Path) -> None:
    """Time of one change and of a first push, against the number of entries."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), sharey=True, layout="constrained")
    for axis, kind in zip(axes, ("forward", "listener", "rebuild"), strict=True):
        rows = results["rebuild"] if kind == "rebuild" else results["changes"]
        chosen = [row for row in rows if row.get("kind", kind) == kind]
        ours, floor = ("push", "floor") if kind == "rebuild" else ("put add", "floor add")
        sizes = [row["size"] for row in chosen]
        for name, key, color, marker in (
            ("sysvm", ours, _OURS, "o"),
            ("floor", floor, _FLOOR, "s"),
        ):
            axis.plot(
                sizes, [p50(row["samples"][key]) for row in chosen],
                color=color, marker=marker, label=name,
            )  # fmt: skip
        theirs = CLOUDSTACK[kind]
        axis.plot(
            list(theirs), list(theirs.values()), color=_THEIRS, marker="^", label="CloudStack"
        )
        axis.set(xscale="log", yscale="log", xlabel="entries of each kind")
        axis.set_title("first push" if kind == "rebuild" else f"a {kind} more", fontsize=11)
        axis.grid(visible=True, which="major", color="#d0d7de", linewidth=0.6)
        axis.set_xticks([10, 100, 1000], ["10", "100", "1,000"])
    axes[0].set_ylabel("seconds, p50")
    axes[0].set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    axes[0].legend(frameon=False)
    _save(figure, path)


def _latency(result: Mapping[str, Any], path: Path) -> None:
    """The slowest request of each half second, before and during the pushes."""
    figure, axis = plt.subplots(figsize=(10, 3.2), layout="constrained")
    for name in HTTP:
        line = result["timeline"][name]
        axis.plot(
            [at for at, _ in line], [seconds * 1000 for _, seconds in line],
            linewidth=1, label=name,
        )  # fmt: skip
    begun = result["pushed_at"]
    end = begun + result["seconds"]["pushing"]
    label = f"{result['pushes']} pushes"
    axis.axvspan(begun, end, color=_OURS, alpha=0.07, linewidth=0, label=label)
    axis.set(xlim=(0, end), ylim=(0, None), xlabel="seconds")
    axis.set_ylabel("slowest request of 0.5 s, ms")
    axis.grid(visible=True, axis="y", color="#d0d7de", linewidth=0.6)
    axis.legend(frameon=False, ncols=4, loc="upper left")
    _save(figure, path)


def _console(result: Mapping[str, Any], path: Path) -> None:
    """Our proxy and the floor, as shares of what stock websockify uses."""
    chosen = {
        "down": "CPU, GiB to the browser",
        "up": "CPU, GiB from browsers",
        "trip": "CPU, key and answer",
        "open_cpu": "CPU, session opened",
        "session": "memory, idle session",
    }
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), sharey=True, layout="constrained")
    for axis, kind in zip(axes, KINDS, strict=True):
        for offset, name, color in ((0.2, "ours", _OURS), (-0.2, "haproxy", _FLOOR)):
            shares = [
                lighter(result, kind, name) if one == "session" else ratio(result, kind, name, one)
                for one in chosen
            ]
            places = [-number + offset for number in range(len(chosen))]
            axis.barh(places, shares, height=0.36, color=color, label=name)
        axis.axvline(1, color=_THEIRS, linewidth=1.5, label="stock websockify")
        axis.set(xscale="log", xlim=(1e-4, 2))
        axis.set_title(KINDS[kind], fontsize=11)
        axis.set_yticks([-number for number in range(len(chosen))], list(chosen.values()))
        axis.grid(visible=True, axis="x", color="#d0d7de", linewidth=0.6)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=3, loc="outside lower center")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
