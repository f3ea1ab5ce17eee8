"""Holds: kept over a restart, over by themselves."""

from pathlib import Path

import pytest

from agent.monitor.holds import Holds
from agent.monitor.model import Hold

HOLD = Hold(unit="dnsmasq.service", until=1000.0, by="root", why="an upgrade")


def test_a_hold_outlives_who_made_it(tmp_path: Path) -> None:
    Holds(tmp_path / "holds.json").put(HOLD)
    assert Holds(tmp_path / "holds.json").all() == {"dnsmasq.service": HOLD}


def test_a_hold_is_over_in_its_time_and_told_of_once(tmp_path: Path) -> None:
    holds = Holds(tmp_path / "holds.json")
    holds.put(HOLD)
    assert holds.expired(999.9) == ()
    assert holds.expired(1000.0) == (HOLD,)
    assert holds.expired(1001.0) == ()
    assert Holds(tmp_path / "holds.json").all() == {}


def test_a_hold_is_ended(tmp_path: Path) -> None:
    holds = Holds(tmp_path / "holds.json")
    holds.put(HOLD)
    assert holds.remove("haproxy.service") is None
    assert holds.remove("dnsmasq.service") == HOLD
    assert holds.all() == {}


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"unit": "x"}]', "{}", '"x"'])
def test_what_cannot_be_read_holds_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "holds.json").write_text(text)
    assert Holds(tmp_path / "holds.json").all() == {}
