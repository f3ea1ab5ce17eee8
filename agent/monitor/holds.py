"""Holds: an operator works on a daemon, and the VM leaves it alone until then.

They are few, and kept in one file of the state partition, so that a restart of the agent, or of the
VM, does not end them. A hold ends by itself.
"""

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from agent.engine.host import HostFull
from agent.monitor.model import Hold
from agent.system.files import Disk

_log = logging.getLogger(__name__)


class Holds:
    """The holds that there are; threads may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._holds = _read(path)

    def all(self) -> Mapping[str, Hold]:
        """By unit; those that are over included, until `expired` has told of them."""
        return self._holds

    def put(self, hold: Hold) -> None:
        """Hold a unit; what held it before ends. Raises HostFull."""
        with self._mutex:
            self._write({**self._holds, hold.unit: hold})

    def remove(self, unit: str) -> Hold | None:
        """End a hold; what it was, if there was one. Raises HostFull."""
        with self._mutex:
            held = self._holds.get(unit)
            if held is not None:
                self._write({name: hold for name, hold in self._holds.items() if name != unit})
            return held

    def expired(self, now: float) -> tuple[Hold, ...]:
        """Those that are over, which are forgotten."""
        over = tuple(hold for hold in self._holds.values() if hold.until <= now)
        for hold in over:
            try:
                self.remove(hold.unit)
            except HostFull:  # a full disk holds nothing for longer than was said
                with self._mutex:
                    self._holds = {u: h for u, h in self._holds.items() if u != hold.unit}
        return over

    def _write(self, holds: Mapping[str, Hold]) -> None:
        text = json.dumps([asdict(hold) for hold in holds.values()], indent=1)
        Disk().write(self._path, text.encode())
        self._holds = dict(holds)


def _read(path: Path) -> Mapping[str, Hold]:
    try:
        holds = [Hold(**row) for row in json.loads(path.read_bytes())]
        return {hold.unit: hold for hold in holds}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        _log.error("holds cannot be read, and are over: %s", error)
        return {}
