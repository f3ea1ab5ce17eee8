"""Runs the proof of images for a person: progress while it runs, a table of verdicts at the end."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from appliance.errors import ApplianceError
from appliance.qemu import proof
from appliance.qemu.bench import Variant, bench, variants
from appliance.qemu.cases.check import Check
from appliance.qemu.machine import Firmware

_LONGEST_SEEN = 1500  # characters of what was seen where a check does not hold


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one case."""

    image: str
    variant: Variant
    case: proof.Case
    checks: tuple[Check, ...]
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether every check holds."""
        return all(check.holds for check in self.checks)


def prove(
    images: Sequence[Path],
    console: Console,
    *,
    short: bool,
    firmware: Firmware | None = None,
    only: Sequence[str] = (),
) -> tuple[Verdict, ...]:
    """Boot these images, one machine after another, and print what came of each check.

    `only` names cases. Raises ApplianceError for an image that is not there, or a case.
    """
    unknown = set(only) - {case.name for case in proof.CASES}
    if unknown:
        raise ApplianceError(
            f"no case {', '.join(sorted(unknown))}",
            f"one of {', '.join(case.name for case in proof.CASES)}",
        )
    for image in images:
        if not image.is_file():
            raise ApplianceError(f"{image} is not there", "sysvm image build makes one")
    verdicts: list[Verdict] = []
    for image in images:
        for index, variant in enumerate(variants(image)):
            if variant.firmware is firmware or (firmware is None and not (short and index)):
                cases = (
                    tuple(case for case in proof.CASES if case.name in only)
                    or proof.chosen(short=short, first=index == 0)
                )  # fmt: skip
                verdicts += _prove(image, variant, cases, console)
    console.print(_table(verdicts))
    return tuple(verdicts)


def _prove(
    image: Path, variant: Variant, cases: Sequence[proof.Case], console: Console
) -> list[Verdict]:
    console.print(f"{image.name}: {variant}", style="bold", markup=False)

    def say(words: str) -> None:
        console.print(f"      {words}", style="dim", markup=False)

    verdicts = []
    with bench(image, variant, say=say) as ground:
        kind = "KVM" if "kvm" in ground.cloud.accelerator else "emulation: KVM does not work here"
        say(f"by {kind}")
        for case in cases:
            console.print(f"  {case.words}", markup=False)
            begun = time.monotonic()
            checks = []
            for check in proof.run(case, ground):
                checks.append(check)
                _say(check, console)
            took = time.monotonic() - begun
            verdicts.append(Verdict(image.name, variant, case, tuple(checks), took))
    return verdicts


def _say(check: Check, console: Console) -> None:
    if check.holds:
        console.print(f"    ok  {check.what}", markup=False)
        return
    console.print(f"    NO  {check.what}", style="red", markup=False)
    for line in check.seen[-_LONGEST_SEEN:].splitlines():
        console.print(f"        {line}", markup=False)


def _table(verdicts: Sequence[Verdict]) -> Table:
    table = Table("image", "booted by", "what", "verdict", "seconds", box=None, pad_edge=False)
    for verdict in verdicts:
        failed = sum(not check.holds for check in verdict.checks)
        said = "[green]holds[/green]" if verdict.holds else f"[red]{failed} of "
        if not verdict.holds:
            said += f"{len(verdict.checks)} checks do not hold[/red]"
        table.add_row(
            verdict.image, str(verdict.variant), verdict.case.words, said, f"{verdict.seconds:.0f}"
        )
    return table
