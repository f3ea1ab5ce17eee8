"""Failing on purpose, at a named point, where the one who booted the machine asked for it.

No shipped machine can be told to fail: the wish comes in a systemd credential only, which is
read once.
"""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from agent.system import credentials
from agent.system.credentials import Credential

_POWER = "power:"


@dataclass(frozen=True, slots=True)
class Faults:
    """`wish` is a point, at which the process kills itself, or `power:POINT`, where it stops.

    The latter leaves the file `reached` and waits for somebody to pull the plug.
    """

    wish: str
    reached: Path

    @classmethod
    def of_this_machine(cls, run: Path) -> "Faults":
        wish = credentials.read(Credential.FAULT) or b""
        return cls(wish.decode().strip(), run / "fault-reached")

    def at(self, point: str) -> None:
        if not self.wish:
            return
        if self.wish == point:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.wish == _POWER + point:
            self.reached.write_text(point)
            while True:
                signal.pause()
