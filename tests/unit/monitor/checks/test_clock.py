"""The clock's check, for each way in which a clock can go."""

from dataclasses import replace

import pytest

from agent.monitor.checks import Chrony, ClockReading
from agent.monitor.checks.clock import duration, judge
from agent.monitor.health import Verdict

GOOD = Chrony(synchronised=True, offset=0.002, sources=2, reference="192.0.2.1")
READING = ClockReading(GOOD, may_be_set=True, kernel_synchronised=None, stepped=0.0)


@pytest.mark.parametrize(
    ("reading", "verdict", "word"),
    [
        (READING, Verdict.PASSED, "2.000 ms off"),
        (replace(READING, chrony=replace(GOOD, offset=-1.5)), Verdict.FAILED, "1500.000 ms off"),
        (replace(READING, chrony=replace(GOOD, synchronised=False)), Verdict.FAILED, "none of"),
        (
            replace(READING, chrony=replace(GOOD, synchronised=False, sources=0)),
            Verdict.SKIPPED,
            "nobody to ask",
        ),
        (replace(READING, chrony=None), Verdict.FAILED, "does not answer"),
        (
            replace(READING, chrony=None, kernel_synchronised=True),
            Verdict.PASSED,
            "somebody else",
        ),
        (
            replace(READING, chrony=None, kernel_synchronised=False),
            Verdict.FAILED,
            "the kernel's clock is not kept right",
        ),
        (replace(READING, chrony=None, may_be_set=False), Verdict.SKIPPED, "its host's"),
        (replace(READING, stepped=-3600.0), Verdict.WARNING, "1.0 hours back"),
        (replace(READING, stepped=10 * 365 * 86400.0), Verdict.WARNING, "3650.0 days forward"),
        (replace(READING, stepped=0.5), Verdict.PASSED, "off"),
    ],
)
def test_verdict(reading: ClockReading, verdict: Verdict, word: str) -> None:
    finding = judge(reading, 1000, was=False)
    assert (finding.verdict, word in finding.message) == (verdict, True), finding


def test_a_clock_that_was_off_is_right_again_by_a_margin() -> None:
    near = replace(READING, chrony=replace(GOOD, offset=0.9))
    assert judge(near, 1000, was=True).verdict is Verdict.FAILED
    assert judge(near, 1000, was=False).verdict is Verdict.PASSED
    assert judge(READING, 1000, was=True).verdict is Verdict.PASSED


def test_what_is_missing_is_named() -> None:
    stopped = judge(replace(READING, chrony=None), 1000, was=False)
    assert stopped.missing == ("chrony.service",)


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.0, "1.0 seconds"), (90, "1.5 minutes"), (7200, "2.0 hours")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
