"""Pushes, patches, rollbacks, deaths and power cuts in any order: the way there leaves no trace.

The short form runs with every test run; `make soak` goes on for SOAK_MINUTES (60 by default).
"""

import itertools
import os
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from appliance.lab import Lab
from appliance.lab.faults import bare, example
from appliance.lab.wait import wait_until
from tests.lab.whole import Whole, whole

LARGEST = 160 * 1024 * 1024  # bytes of the agent's own memory, whatever has been


class Soak:
    """One VM, what it was for each document, and what may happen to it."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self.lab = lab
        self.random = random.Random(seed)  # noqa: S311 - to repeat a run, not to keep a secret
        self.generations = itertools.count(1)
        self.known: dict[str, Whole] = {}

    def step(self) -> str:
        act: Callable[[], None] = self.random.choice(
            [self.push] * 6 + [self.patch] * 4 + [self.roll_back, self.kill, self.pull_plug]
        )
        act()
        self.settle()
        return act.__name__

    def document(self) -> dict[str, Any]:
        document = self.random.choice([example, bare])(next(self.generations))
        if "nat" in document:
            for number in range(self.random.randrange(4)):
                document["nat"]["forwards"][f"f{number}"] = {
                    "address": "203.0.113.10", "protocol": "tcp",
                    "ports": 3000 + number, "to": "10.1.1.10",
                }  # fmt: skip
        return document

    def push(self) -> None:
        answer = self.lab.vm.request("PUT", "/v1/document", json=self.document())
        assert answer.status < 300, answer.text

    def patch(self) -> None:
        current = self.lab.vm.request("GET", "/v1/document")
        change = {"site": {"domain": f"net{self.random.randrange(3)}.example.internal"}}
        answer = self.lab.vm.request(
            "PATCH", "/v1/document", json=change, headers={"If-Match": current.headers["etag"]}
        )
        assert answer.status < 300, answer.text

    def roll_back(self) -> None:
        answer = self.lab.vm.request("POST", "/v1/rollback", json={})
        assert answer.status < 300 or answer.status == 404, answer.text

    def kill(self) -> None:
        self.lab.vm.run(["systemctl", "kill", "--signal=KILL", "sysvm-agent"])

    def pull_plug(self) -> None:
        self.lab.vm.pull_plug()
        self.lab.vm.start()

    def settle(self) -> None:
        """The document that runs is the machine's whole truth, however it came to run."""
        self.lab.vm.wait_ready()
        wait_until(self._has_settled, 15, "no drift")
        status = self.lab.vm.request("GET", "/v1/status").json()
        assert not status["degraded"]
        assert status["agent"]["memory"] < LARGEST
        value = self.lab.vm.request("GET", "/v1/document").json()
        value.pop("generation")
        now = whole(self.lab)
        assert self.known.setdefault(repr(sorted(value.items())), now) == now

    def _has_settled(self) -> bool:
        try:
            answer = self.lab.vm.request("GET", "/v1/drift", timeout=10)
        except OSError:
            return False
        return answer.status == 200 and not answer.json()["drift"]


def test_way_there_leaves_no_trace(lab: Lab) -> None:
    soak = Soak(lab, seed=1)
    soak.push()
    for _ in range(12):
        soak.step()
    assert len(soak.known) > 1


@pytest.mark.soak
def test_way_there_leaves_no_trace_for_long(lab: Lab) -> None:
    seed = int(os.environ.get("SOAK_SEED", str(time.time_ns())))
    soak = Soak(lab, seed)
    soak.push()
    end = time.monotonic() + 60 * float(os.environ.get("SOAK_MINUTES", "60"))
    while time.monotonic() < end:
        done = soak.step()
        assert soak.known, f"seed {seed}, after {done}"
