"""The heartbeat's sender, to a socket on loopback."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.document.heartbeat import Condition, Health, Receiver
from agent.monitor.beats import Beats
from agent.monitor.push import Settings
from agent.services.events import SETTINGS

KEY = "ab" * 32


@pytest.fixture
def end() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10)
        yield sock


def settings(folder: Path, end: socket.socket) -> Settings:
    path = folder / SETTINGS
    path.parent.mkdir(parents=True)
    wanted = {
        "address": "127.0.0.1", "port": end.getsockname()[1], "key": KEY, "interval": 1, "nic": "",
    }  # fmt: skip
    path.write_text(
        json.dumps({"vm": "r-1-vm", "role": "router", "push": None, "heartbeat": wanted})
    )
    return Settings(folder)


def test_beats_come_at_intervals_and_are_accepted(tmp_path: Path, end: socket.socket) -> None:
    beats = Beats(settings(tmp_path, end), "b1", lambda: Condition(3, 4, Health.FAILED))
    stop = threading.Event()
    thread = threading.Thread(target=beats.run, args=(stop,))
    thread.start()
    receiver = Receiver(bytes.fromhex(KEY))
    first, second = (receiver.accept(end.recv(2000)) for _ in range(2))
    stop.set()
    thread.join(5)
    assert second.monotonic - first.monotonic > 0.9
    assert (first.vm, first.boot, first.role) == ("r-1-vm", "b1", "router")
    assert (first.generation, first.revision, first.health) == (3, 4, Health.FAILED)


def test_numbers_grow_over_a_restart_of_the_agent(tmp_path: Path, end: socket.socket) -> None:
    known = settings(tmp_path, end)
    condition = Condition(None, None, Health.OK)
    before = Beats(known, "b1", lambda: condition)
    numbers = [before.beat("vm", "router").seq for _ in range(3)]
    numbers.append(Beats(known, "b1", lambda: condition).beat("vm", "router").seq)
    assert numbers[0] < numbers[1] < numbers[2]
    assert numbers[3] >= numbers[0]  # beats are a second apart at least, numbers a tenth
