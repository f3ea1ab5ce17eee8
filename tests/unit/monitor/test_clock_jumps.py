"""The wall clock is set, by an hour back or by ten years (hostile case 25).

A container cannot set its host's clock (the lab's have no CAP_SYS_TIME), so here it is turned under
whatever goes by it. What has a deadline goes by the monotonic clock, and order by numbers.
"""

from pathlib import Path

import pytest

from agent.monitor.events import Cursor, Event, Kind
from agent.monitor.holds import Holds
from agent.monitor.log import Level, ServiceLog
from agent.monitor.model import Hold
from agent.monitor.outbox import Outbox
from agent.monitor.refusals import WINDOW, Refusal, Refusals
from appliance.lab.wait import wait_until
from tests.unit.monitor.heard import Heard
from tests.unit.monitor.simulated import World

NOW = 1_800_000_000.0
JUMPS = [-3600.0, 10 * 365 * 86400.0, -NOW]  # an hour back, ten years on, back to 1970


class Turned:
    """A wall clock that somebody turns, and one that only goes on."""

    def __init__(self) -> None:
        self.wall = NOW
        self.gone = 1000.0

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.gone

    def sleep(self, seconds: float) -> None:
        self.wall, self.gone = self.wall + seconds, self.gone + seconds


@pytest.mark.parametrize("jump", JUMPS)
def test_events_keep_their_order_and_nobody_misses_one(tmp_path: Path, jump: float) -> None:
    clock = Turned()
    outbox = Outbox(tmp_path, boot="b", clock=clock)
    outbox.start()
    place = Cursor()
    for number in range(6):
        clock.wall, clock.gone = clock.wall + (jump if number == 3 else 1), clock.gone + 1
        outbox.record(Event(kind=Kind.SERVICE_DIED, subject="x", message=f"{number}"))
        wait_until(lambda: outbox.read(Cursor()).events, 5, "it is kept")
        page = outbox.read(place)
        assert [event.message for event in page.events] == [f"{number}"]
        place = page.next
    rows = outbox.read(Cursor()).events
    assert [row.seq for row in rows] == sorted(row.seq for row in rows)
    assert [row.monotonic for row in rows] == sorted(row.monotonic for row in rows)
    assert rows[3].at == pytest.approx(rows[2].at + jump)  # told as the clock then said
    outbox.close()


@pytest.mark.parametrize("jump", JUMPS)
def test_the_log_goes_on_with_what_the_clock_says(tmp_path: Path, jump: float) -> None:
    clock = Turned()
    log = ServiceLog(tmp_path / "log", now=clock.now, syslog="", reserve=0)
    for number in range(4):
        log.write(Level.INFO, "x", f"line {number}")
        clock.wall += jump if number == 1 else 1
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("jump", JUMPS)
def test_a_hold_ends_by_the_clock_that_it_was_given_in(tmp_path: Path, jump: float) -> None:
    """It was asked for until a time of day, and survives a boot: there is no other clock for it."""
    holds = Holds(tmp_path / "holds.json")
    holds.put(Hold(unit="dnsmasq.service", until=NOW + 1800, by="ann", why="work"))
    over = holds.expired(NOW + jump)
    assert bool(over) is (jump > 0)
    assert bool(holds.all()) is (jump < 0)
    assert holds.remove("dnsmasq.service") or over  # and can be ended by hand


def test_windows_and_back_off_go_by_the_monotonic_clock() -> None:
    """Nothing but `now` as the caller's monotonic clock says it reaches what decides."""
    heard, clock = Heard(), Turned()
    refusals = Refusals(heard, clock.monotonic)
    for jump in (0.0, *JUMPS):
        clock.wall += jump
        refusals.take(Refusal("198.51.100.7", "x", ""))
    assert len(heard.events) == 1
    clock.gone += WINDOW
    refusals.idle()
    assert len(heard.events) == 2

    world = World()
    world.run(5)
    world.dies_after = 0.5
    world.kill()
    world.run(900)
    assert world.kinds().count("service.crash-loop") == 1
