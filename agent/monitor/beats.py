"""The heartbeat's sender: at intervals, a datagram that says how the VM is.

A VM that is not well says so; it does not fall silent, which would look like a lost link.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from agent.document.heartbeat import Beat, Condition, encode
from agent.monitor.push import LOOK, Settings
from agent.system import dial

log = logging.getLogger(__name__)


class Beats:
    """Sends the heartbeat that the running document wants."""

    def __init__(self, settings: Settings, boot: str, condition: Callable[[], Condition]) -> None:
        self._settings = settings
        self._boot = boot
        self._condition = condition
        self._number = 0
        self._failing = ""

    def run(self, stop: threading.Event) -> None:
        due = 0.0
        while not stop.is_set():
            settings = self._settings.read()
            wanted = settings.get("heartbeat")
            if not wanted:
                due = 0.0
                stop.wait(LOOK)
                continue
            now = time.monotonic()
            if now >= due:
                self._send(settings, wanted)
                due = now + wanted["interval"]
            stop.wait(max(0.0, min(due - time.monotonic(), LOOK)))

    def _send(self, settings: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        beat = self.beat(str(settings["vm"]), str(settings["role"]))
        try:
            datagram = encode(beat, bytes.fromhex(wanted["key"]))
            dial.send(datagram, wanted["address"], wanted["port"], wanted["nic"])
        except OSError as error:
            if not self._failing:
                log.warning("the heartbeat is not sent: %s", error)
            self._failing = str(error)
        else:
            if self._failing:
                log.info("the heartbeat is sent again")
            self._failing = ""

    def beat(self, vm: str, role: str) -> Beat:
        """The next one. Its number grows over restarts of the agent, for it is made of the time."""
        monotonic = time.monotonic()
        self._number = max(self._number + 1, int(monotonic * 10))
        condition = self._condition()
        return Beat(
            vm=vm,
            boot=self._boot,
            seq=self._number,
            role=role,
            generation=condition.generation,
            revision=condition.revision,
            health=condition.health,
            monotonic=round(monotonic, 3),
        )
