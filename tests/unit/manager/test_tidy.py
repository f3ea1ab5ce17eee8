"""What is old goes, and nothing else."""

import pytest
from sqlalchemy import func, select

from appliance.manager import happenings, proxies, sessions, tidy
from appliance.manager.audit import Audit, Entry, listed
from appliance.manager.database import Database
from appliance.manager.tables import events
from appliance.manager.tables import sessions as table
from appliance.manager.tidy import Tidy
from tests.unit.manager.cloud import Caller, SimulatedProxy, register
from tests.unit.manager.test_vms import event

DAY = 86400.0


def test_what_is_old_is_thrown_away(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidy, "_AT_ONCE", 2)
    caller = Caller(database, register(database, [SimulatedProxy("p1", hard=8)]), lambda: 0.0)
    caller.hear("p1")
    for number in range(5):
        caller.open(f"s{number}", f"vm{number}")
    for number in range(4):
        at = number * DAY
        database.write(lambda c, n=number, at=at: proxies.end(c, f"s{n}", "over", at))  # type: ignore[misc]  # the defaults bind
        one = happenings.PushedEvent(**event(number))
        batch = happenings.Batch(vm="v", boot="b", stream="s", events=(one,))
        database.write(lambda c, batch=batch, at=at: happenings.take(c, batch, at))  # type: ignore[misc]  # as above
        entry = Entry(
            at=at, who="see:x", source="", request="GET /", status=200, subject=f"{number}"
        )
        Audit(database).note(entry, now=True)
    assert Tidy(database, 2, now=lambda: 4.5 * DAY).turn() == 9
    with database.read() as connection:
        assert [one.id for one in sessions.listed(connection)] == ["s4"]
        assert [one.id for one in sessions.listed(connection, ended=True)] == ["s3"]
        assert [one.seq for one in happenings.listed(connection)] == [3]
        assert [one.subject for one in listed(connection, None, 10)] == ["3"]
    assert Tidy(database, 2, now=lambda: 4.5 * DAY).turn() == 0


def test_a_session_that_is_over_has_nothing_secret_any_more(database: Database) -> None:
    caller = Caller(database, register(database, [SimulatedProxy("p1", hard=8)]), lambda: 0.0)
    caller.hear("p1")
    caller.open("s1", "vm1")
    caller.open("s2", "vm2")
    caller.close("s1")
    with database.read() as connection:
        sealed = dict(connection.execute(select(table.c.id, table.c.sealed)).all())
    assert sealed == {"s1": "", "s2": "x"}


def test_numbers_of_events_are_never_given_again(database: Database) -> None:
    for number in range(2):
        one = happenings.PushedEvent(**event(number))
        batch = happenings.Batch(vm="v", boot="b", stream="s", events=(one,))
        database.write(lambda c, batch=batch: happenings.take(c, batch, 0.0))  # type: ignore[misc]  # the default binds
        with database.read() as connection:
            last = connection.execute(select(func.max(events.c.id))).scalar()
        Tidy(database, 1, now=lambda: 9 * DAY).turn()
        assert last == number + 1
