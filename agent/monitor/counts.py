"""How many of systemd's restarts of each unit have been told of: so that none is told of twice.

They are kept for the agent that comes after this one, until the VM's next boot.
"""

import contextlib
import json
from pathlib import Path

from agent.engine.host import StepFailed
from agent.system import files


class Counts:
    """By unit; one thread's. What cannot be written now is written when `keep` is called again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counts = _read(path)
        self._kept = True

    def get(self, unit: str) -> int:
        """-1 where nothing is known."""
        return self._counts.get(unit, -1)

    def put(self, unit: str, count: int) -> None:
        if count != self._counts.get(unit):
            self._counts[unit] = count
            self._kept = False
            self.keep()

    def keep(self) -> None:
        """Write what has not been written yet."""
        if not self._kept:
            with contextlib.suppress(OSError, StepFailed):
                files.write(self._path, json.dumps(self._counts).encode(), durable=False)
                self._kept = True


def _read(path: Path) -> dict[str, int]:
    try:
        counts = json.loads(path.read_bytes())
        return {str(unit): int(count) for unit, count in counts.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
