"""What the console proxy's records are told as: each once, refusals folded, losses said."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.console.records import KEPT, Records
from agent.console.sessions import End, Ended, Live, State
from agent.monitor.consoles import Consoles
from agent.monitor.events import CATALOGUE, Kind
from tests.unit.console.test_sessions import session
from tests.unit.monitor.heard import Heard


class Keeper:
    """A keeper's records, asked as over its socket."""

    def __init__(self) -> None:
        self.records = Records()

    def ask(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        return asyncio.run(self.records.after({**message, "wait": 0}))


@pytest.fixture
def heard() -> Heard:
    return Heard()


def whole(keeper: Keeper) -> None:
    """Everything that can be told."""
    one = session("one")
    keeper.records.opened(one, "198.51.100.7")
    live = Live(one, State.OPEN, deadline=0.0, created=0.0, opened=100.0)
    keeper.records.ended(Ended(live, End.REVOKED), 160.4)
    keeper.records.refused("198.51.100.9", "unknown secret")
    keeper.records.died(1, "status -9")
    keeper.records.draining(300.0, 2)
    keeper.records.tick(drained=False)
    keeper.records.tick(drained=True)
    keeper.records.tick(drained=True)


def test_every_record_is_an_event_with_the_data_that_its_kind_has(
    tmp_path: Path, heard: Heard
) -> None:
    keeper = Keeper()
    whole(keeper)
    Consoles(heard, tmp_path / "place", keeper.ask).turn()
    assert heard.kinds == [
        Kind.CONSOLE_OPENED,
        Kind.CONSOLE_ENDED,
        Kind.CONSOLE_REFUSED,
        Kind.CONSOLE_WORKER_DIED,
        Kind.CONSOLE_DRAINING,
        Kind.CONSOLE_DRAINED,
    ]
    for event in heard.events:
        assert event.data.keys() == CATALOGUE[event.kind].data.keys(), event.kind
        assert "{" not in event.message
    assert heard.events[1].data["seconds"] == 60
    assert "unknown secret" in heard.events[2].message


def test_session_that_nobody_opened_is_no_news(tmp_path: Path, heard: Heard) -> None:
    keeper = Keeper()
    live = Live(session("one"), State.OFFERED, deadline=0.0, created=0.0)
    keeper.records.ended(Ended(live, End.EXPIRED), 60.0)
    Consoles(heard, tmp_path / "place", keeper.ask).turn()
    assert heard.events == []


def test_each_is_told_once_also_by_the_agent_after_this_one(tmp_path: Path, heard: Heard) -> None:
    keeper = Keeper()
    keeper.records.died(0, "status -9")
    Consoles(heard, tmp_path / "place", keeper.ask).turn()
    keeper.records.died(1, "status -9")
    again = Consoles(heard, tmp_path / "place", keeper.ask)
    again.turn()
    again.turn()
    assert [event.data["worker"] for event in heard.events] == [0, 1]


def test_another_keeper_begins_anew(tmp_path: Path, heard: Heard) -> None:
    first, second = Keeper(), Keeper()
    for number in range(5):
        first.records.died(number, "status 1")
    Consoles(heard, tmp_path / "place", first.ask).turn()
    second.records.died(7, "status 1")
    Consoles(heard, tmp_path / "place", second.ask).turn()
    assert [event.data["worker"] for event in heard.events] == [0, 1, 2, 3, 4, 7]


def test_more_than_are_kept_is_a_gap(tmp_path: Path, heard: Heard) -> None:
    keeper = Keeper()
    for number in range(KEPT + 30):
        keeper.records.died(number, "status 1")
    told = Consoles(heard, tmp_path / "place", keeper.ask)
    for _ in range(KEPT // 100 + 1):
        told.turn()
    assert heard.events[0].kind is Kind.EVENTS_GAP
    assert heard.events[0].data["lost"] == 30
    assert [event.data["worker"] for event in heard.events[1:]] == list(range(30, KEPT + 30))


def test_somebody_who_guesses_is_one_event_a_minute(tmp_path: Path, heard: Heard) -> None:
    keeper = Keeper()
    told = Consoles(heard, tmp_path / "place", keeper.ask)
    for _ in range(3):
        for _ in range(50):
            keeper.records.refused("198.51.100.9", "unknown secret")
        told.turn()
    assert heard.kinds == [Kind.CONSOLE_REFUSED]


def test_who_asks_waits_until_there_is_something() -> None:
    async def waited() -> Mapping[str, Any]:
        records = Records()
        asked = asyncio.create_task(records.after({"life": "", "after": 0, "wait": 30}))
        await asyncio.sleep(0)
        records.died(3, "status 1")
        async with asyncio.timeout(5):
            return await asked

    answer = asyncio.run(waited())
    assert [record["worker"] for record in answer["records"]] == [3]
    assert asyncio.run(Records().after({"life": "", "after": 0, "wait": 0}))["records"] == []
