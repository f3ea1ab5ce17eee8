"""What an operator's check means by its exit code and its text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.monitor.checks import CustomRun
from agent.monitor.checks.custom import LONGEST_TEXT, judge, text
from agent.monitor.health import Verdict


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (0, Verdict.PASSED),
        (1, Verdict.FAILED),
        (2, Verdict.WARNING),
        (3, Verdict.UNKNOWN),
        (4, Verdict.UNKNOWN),
        (126, Verdict.UNKNOWN),
        (127, Verdict.UNKNOWN),
        (203, Verdict.UNKNOWN),
    ],
)
def test_exit_codes(code: int, verdict: Verdict) -> None:
    finding = judge(CustomRun(code, b"so it is\n"))
    assert finding is not None
    assert finding.verdict is verdict
    assert "so it is" in finding.message
    if code > 3:
        assert str(code) in finding.message


def test_one_that_has_no_interpreter_is_told_what_it_lacks() -> None:
    finding = judge(CustomRun(203, b""))
    assert finding is not None
    assert finding.verdict is Verdict.UNKNOWN
    assert "interpreter" in finding.message


def test_no_text_and_exit_code_0_is_not_registered() -> None:
    assert judge(CustomRun(0, b"")) is None
    assert judge(CustomRun(0, b" \n\t\n")) is None
    assert judge(CustomRun(1, b"")) is not None


def test_one_that_met_a_limit_is_a_warning_whatever_it_said() -> None:
    finding = judge(CustomRun(None, b"half", "it did not end within 10 s, and was killed"))
    assert finding is not None
    assert finding.verdict is Verdict.WARNING
    assert finding.message == "it did not end within 10 s, and was killed: half"


def test_first_lines_are_the_message() -> None:
    assert text(b"one\n\ntwo\nthree\nfour\nfive\nsix\n") == "one / two / three / four / five"


@given(st.binary(max_size=5000))
def test_any_output_is_a_harmless_short_line(output: bytes) -> None:
    said = text(output)
    assert said.isprintable()
    assert len(said) <= LONGEST_TEXT
