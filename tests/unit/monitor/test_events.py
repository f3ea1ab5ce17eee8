"""The catalogue of events: one closed set, each with its meaning."""

from agent.monitor.events import CATALOGUE, Event, Kind, Severity


def test_every_kind_has_a_meaning() -> None:
    assert CATALOGUE.keys() == set(Kind)
    for meaning in CATALOGUE.values():
        assert meaning.summary.endswith(".")
        assert meaning.next


def test_an_event_is_as_bad_as_its_kind() -> None:
    event = Event(kind=Kind.EVENTS_GAP, subject="events", message="3 events were lost")
    assert event.severity is Severity.ALERT
