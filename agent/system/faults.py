"""Failing on purpose, at named points, where the one who booted the machine asked for it.

No shipped machine can be told to fail: the wishes come in a systemd credential only, which is
read once. What has come true is kept in /run, so that each wish comes true once in a boot.
"""

import os
import signal
from pathlib import Path

from agent.system import credentials
from agent.system.credentials import Credential


class Faults:
    """Wishes such as `kill:push:put-table power:push:flip`, which come true one after another.

    `kill:POINT` ends the process there, at once. `power:POINT` stops it there, for somebody to
    pull the plug; that it got there is the last line of `reached`.
    """

    def __init__(self, wishes: str, reached: Path) -> None:
        self._wishes = wishes.split()
        self._reached = reached

    @classmethod
    def of_this_machine(cls, run: Path) -> "Faults":
        wishes = credentials.read(Credential.FAULT) or b""
        return cls(wishes.decode(), run / "faults-reached")

    def at(self, point: str) -> None:
        """Do what is wished for at this point, if it is the next one."""
        if not self._wishes:
            return
        done = self._reached.read_text().split() if self._reached.exists() else []
        if self._wishes[len(done) :][:1] not in ([f"kill:{point}"], [f"power:{point}"]):
            return
        wish = self._wishes[len(done)]
        self._reached.write_text("".join(f"{line}\n" for line in [*done, wish]))
        if wish.startswith("kill:"):
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            signal.pause()
