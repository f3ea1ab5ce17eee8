"""A change is told when it has been seen twice, and once."""

from hypothesis import given
from hypothesis import strategies as st

from agent.monitor.damping import Standing, after, event
from agent.monitor.events import CATALOGUE, Kind
from agent.monitor.health import Level, Result, Verdict


def told(verdicts: list[Verdict]) -> list[bool]:
    """For each change that is told: whether it is to ill."""
    standing, found = Standing(), []
    for verdict in verdicts:
        standing, changed = after(standing, verdict)
        if changed:
            found.append(standing.ill)
    return found


P, F, W, U, S = (
    Verdict.PASSED, Verdict.FAILED, Verdict.WARNING, Verdict.UNKNOWN, Verdict.SKIPPED,
)  # fmt: skip


def test_two_in_a_row_are_told_once() -> None:
    assert told([P, P, F, F, F, F, P, P, P]) == [True, False]


def test_one_in_between_is_not() -> None:
    assert told([P, F, P, F, P, F, P]) == []
    assert told([F, F, P, F, F, P, F]) == [True]


def test_a_warning_is_ill_too_and_what_cannot_be_told_changes_nothing() -> None:
    assert told([W, F]) == [True]
    assert told([F, U, F]) == [True]
    assert told([F, F, U, U, U]) == [True]


def test_what_does_not_apply_any_more_is_over() -> None:
    assert told([F, F, S, S]) == [True, False]


@given(st.lists(st.sampled_from(list(Verdict))))
def test_what_is_told_alternates(verdicts: list[Verdict]) -> None:
    found = told(verdicts)
    assert found == [number % 2 == 0 for number in range(len(found))]


def result(name: str, verdict: Verdict, **fields: object) -> Result:
    return Result(
        name=name, level=Level.BASIC, verdict=verdict, message="so it is",
        **fields,  # type: ignore[arg-type]  # named by the tests
    )  # fmt: skip


def test_events_are_of_the_catalogue_with_its_data() -> None:
    short = result("disk", F, value=3.0, threshold=100.0, unit="MiB")
    for one, kind in (
        (short, Kind.RESOURCE_SHORT),
        (result("disk", P, value=300.0, threshold=100.0, unit="MiB"), Kind.RESOURCE_WELL),
        (result("dns", F, missing=("a", "b")), Kind.CHECK_FAILED),
        (result("dns", P), Kind.CHECK_PASSED),
        (result("clock", F), Kind.CHECK_FAILED),
    ):
        raised = event(one)
        assert raised.kind is kind
        assert raised.data.keys() <= CATALOGUE[kind].data.keys()
        assert raised.subject == one.name
    assert event(result("dns", F, missing=("a", "b"))).data["missing"] == "a, b"
