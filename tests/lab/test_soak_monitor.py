"""Ten pushes a minute, each of which reloads or restarts something, and nobody is alarmed.

`make soak` goes on for SOAK_MINUTES (60 by default). The same on a fast clock, with a simulated
daemon, is in tests/unit/monitor; a minute of it is in tests/lab/test_monitor.py.
"""

import os
import random
import time
from typing import Any

import pytest

from appliance.lab import Lab
from tests.lab.monitored import Watched

EVERY = 6.0  # seconds from one push to the next


@pytest.mark.soak
def test_pushes_raise_no_false_alarm(lab: Lab) -> None:
    minutes = float(os.environ.get("SOAK_MINUTES", "60"))
    chance = random.Random(int(os.environ.get("SOAK_SEED", "1")))  # noqa: S311 - to be repeated
    watched = Watched(lab)
    watched.router.push(watched.router.document)
    watched.settle()
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
