"""Resources are short beyond their threshold, and well again some way on the good side."""

from dataclasses import replace
from typing import Any

import pytest

from agent.monitor.checks import Finding, Round
from agent.monitor.checks.resources import is_short
from agent.monitor.health import Level, Result, Verdict
from tests.unit.monitor.checks.machine import MIB, found, given


def again(name: str, about: Round, before: Finding, **fields: object) -> Finding:
    """What the check finds the next time, when these of the machine's fields are others."""
    result = Result(name=name, level=Level.BASIC, verdict=before.verdict, message="")
    machine = replace(about.machine, **fields)  # type: ignore[type-var]  # it is a dataclass
    return found(name, Round(machine=machine, before={name: result}))


@pytest.mark.parametrize(
    ("name", "well", "short", "between"),
    [
        ("cpu", {"share": 0.5}, {"share": 0.97}, {"share": 0.92}),
        ("memory", {"available": 512 * MIB}, {"available": 50 * MIB}, {"available": 130 * MIB}),
        ("disk", {"free": 500 * MIB}, {"free": 99 * MIB}, {"free": 110 * MIB}),
        ("inodes", {"inodes_free": 5000}, {"inodes_free": 400}, {"inodes_free": 550}),
        (
            "connections",
            {"connection_count": 10},
            {"connection_count": 810},
            {"connection_count": 770},
        ),
    ],
)
def test_a_resource_is_short_and_stays_so_until_it_is_better_by_a_margin(
    name: str, well: dict[str, Any], short: dict[str, Any], between: dict[str, Any]
) -> None:
    about = given(None, None, **well)
    good = found(name, about)
    assert good.verdict is Verdict.PASSED
    assert good.value is not None
    assert again(name, about, good, **between).verdict is Verdict.PASSED
    bad = again(name, about, good, **short)
    assert bad.verdict is Verdict.FAILED
    assert bad.path.startswith("/monitoring/thresholds/")
    assert again(name, about, bad, **between).verdict is Verdict.FAILED
    assert again(name, about, bad, **well).verdict is Verdict.PASSED


def test_at_the_threshold_nothing_is_short() -> None:
    assert not is_short(90, 90, 5, was=False)
    assert not is_short(100, 100, 20, was=False, scarce=True)
    assert not is_short(100, 100, 5, was=False), "100 percent is never exceeded"


def test_a_threshold_of_100_percent_is_none() -> None:
    about = given(None, None, share=1.0)
    bad = found("cpu", about)
    assert bad.verdict is Verdict.FAILED
    about.thresholds = about.thresholds.model_copy(update={"cpu_percent": 100})
    about.before = {
        "cpu": Result(name="cpu", level=Level.BASIC, verdict=Verdict.FAILED, message="")
    }
    assert found("cpu", about).verdict is Verdict.PASSED


def test_a_low_threshold_can_be_well_again() -> None:
    assert is_short(4, 3, 5, was=False)
    assert not is_short(1, 3, 5, was=True)


def test_what_has_no_limit_or_was_not_watched_yet_does_not_apply() -> None:
    assert found("cpu", given(None, share=None)).verdict is Verdict.SKIPPED
    assert found("inodes", given(None, inodes=0)).verdict is Verdict.SKIPPED


def test_a_disk_that_cannot_be_written_fails_and_one_that_forgets_warns() -> None:
    assert found("writable", given()).verdict is Verdict.PASSED
    refused = found("writable", given(None, trouble="Read-only file system"))
    assert (refused.verdict, "Read-only" in refused.message) == (Verdict.FAILED, True)
    forgets = found("writable", given(None, problem="no state partition"))
    assert (forgets.verdict, "no state" in forgets.message) == (Verdict.WARNING, True)
