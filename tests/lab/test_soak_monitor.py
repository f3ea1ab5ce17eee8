"""Ten pushes a minute, each of which reloads or restarts something, and nobody is alarmed.

`make soak` goes on for SOAK_MINUTES (60 by default), and then kills each daemon SOAK_KILLS times
(500). The same on a fast clock, with a simulated daemon, is in tests/unit/monitor; a minute of it
is in tests/lab/test_monitor.py.
"""

import os
import random
import time
from typing import Any

import pytest

from appliance.lab import Lab
from appliance.lab.wait import wait_until
from tests.lab.monitored import DAEMONS, Mark, Watched

EVERY = 6.0  # seconds from one push to the next


@pytest.fixture(scope="module")
def watched(lab: Lab) -> Watched:
    watched = Watched(lab)
    watched.router.push(watched.router.document)
    watched.settle()
    return watched


@pytest.mark.soak
def test_pushes_raise_no_false_alarm(watched: Watched) -> None:
    minutes = float(os.environ.get("SOAK_MINUTES", "60"))
    chance = random.Random(int(os.environ.get("SOAK_SEED", "1")))  # noqa: S311 - to be repeated
    mark = watched.mark()
    end, pushes = time.monotonic() + minutes * 60, 0
    while time.monotonic() < end:
        begun = time.monotonic()
        name = f"n{chance.randrange(20)}"
        record = {"addresses": [f"10.1.1.{chance.randrange(20, 200)}"]}
        change: dict[str, Any] = chance.choice(
            [
                {"dhcp_dns": {"dns": {"records": {name: record}}}},  # a reload of dnsmasq
                {"dhcp_dns": {"dns": {"rebind_protection": chance.random() < 0.5}}},  # a restart
                {"load_balancer": {"listeners": {"shop": {"max_connections": 4000 + pushes}}}},
                {"site": {"hostname": f"r-{chance.randrange(3)}-vm"}},
            ]
        )
        watched.router.change(change)
        pushes += 1
        assert mark.events() == [], f"after {pushes} pushes"
        time.sleep(max(0.0, begun + EVERY - time.monotonic()))
    watched.settle()
    assert mark.events() == []
    assert mark.lines() == []


def wait_for_recoveries(mark: Mark, subject: str, count: int) -> None:
    wait_until(lambda: mark.kinds(subject).count("service.recovered") == count, 20, "the recovery")


@pytest.mark.soak
@pytest.mark.parametrize("unit", DAEMONS)
def test_each_kill_is_one_death_and_one_recovery(watched: Watched, unit: str) -> None:
    """Hostile case 36. What was is forgotten after each four: five in a row are a loop."""
    daemon = DAEMONS[unit][0]
    subject = daemon.removesuffix(".service")
    kills = int(os.environ.get("SOAK_KILLS", "500"))
    for begun in range(0, kills, 4):
        watched.release(unit)
        watched.settle(unit)
        mark, count = watched.mark(), min(4, kills - begun)
        for number in range(1, count + 1):
            watched.sh(f"systemctl kill -s KILL --kill-whom=main {daemon}")
            wait_for_recoveries(mark, subject, number)
        assert mark.kinds(subject) == ["service.died", "service.recovered"] * count, begun
