"""Whether a daemon that does not answer is hung, or busy: decided from what it had of the CPU."""

import pytest

from agent.monitor.silence import (
    BUSY_FOR,
    MISSES,
    CpuTime,
    Silence,
    Verdict,
    is_busy,
    judge,
    missed,
)

EVERY = 1.8  # seconds


def read(*shares: float) -> Silence:
    """Questions without an answer; between two, it ran on or waited for this share of a CPU."""
    silence, cpu = missed(None, CpuTime(0.0, 0.0, 0.0), 0.0), CpuTime(0.0, 0.0, 0.0)
    for number, share in enumerate(shares, 1):
        cpu = CpuTime(number * EVERY, cpu.used + share * EVERY, cpu.waited)
        silence = missed(silence, cpu, cpu.at)
    return silence


@pytest.mark.parametrize(
    ("used", "waited", "busy"),
    [
        (0.0, 0.0, False),  # it sleeps
        (0.02, 0.05, False),  # so does an idle one, but for its timers
        (1.8, 0.0, True),  # it runs
        (0.0, 1.8, True),  # it is given nothing
        (0.2, 0.2, True),  # a little of both
        (3.5, 0.0, True),  # it runs on two CPUs
    ],
)
def test_who_runs_or_waits_to_run_is_busy(used: float, waited: float, *, busy: bool) -> None:
    before = CpuTime(100.0, 7.0, 3.0)
    assert is_busy(before, CpuTime(100.0 + EVERY, 7.0 + used, 3.0 + waited)) is busy


def test_what_is_not_known_is_not_busy() -> None:
    some = CpuTime(100.0, 7.0, 3.0)
    assert not is_busy(None, some)
    assert not is_busy(some, None)
    assert not is_busy(some, some)
    assert not is_busy(some, CpuTime(101.0, 0.0, 0.0))  # another process: figures begin anew


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        ((), Verdict.PERHAPS),
        ((0.0,), Verdict.PERHAPS),
        ((1.0,), Verdict.PERHAPS),
        ((0.0, 0.0), Verdict.HUNG),
        ((1.0, 1.0), Verdict.BUSY),
        ((1.0, 0.0), Verdict.BUSY),  # two idle questions are no hang yet
        ((0.0, 1.0), Verdict.BUSY),
        ((1.0, 0.0, 0.0), Verdict.HUNG),
        ((1.0, 1.0, 0.0, 1.0), Verdict.BUSY),
    ],
)
def test_verdict_goes_by_the_last_questions(shares: tuple[float, ...], verdict: Verdict) -> None:
    silence = read(*shares)
    assert judge(silence, len(shares) * EVERY) is verdict


def test_busy_for_too_long_is_hung() -> None:
    silence = read(*[1.0] * 20)
    assert judge(silence, BUSY_FOR - 0.1) is Verdict.BUSY
    assert judge(silence, BUSY_FOR) is Verdict.HUNG


def test_silence_begins_before_the_kernel_says_anything() -> None:
    silence = missed(missed(None, None, 5.0), CpuTime(7.0, 1.0, 1.0), 7.0)
    assert (silence.since, silence.questions, silence.idle, silence.words) == (5.0, 2, 2, "")
    silence = missed(silence, CpuTime(9.0, 1.5, 2.0), 9.0)
    assert silence.questions == MISSES
    assert silence.words == "in 2.0 s it ran for 0.50 s and waited for the CPU for 1.00 s"
