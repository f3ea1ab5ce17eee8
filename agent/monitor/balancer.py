"""Servers behind the load balancer that go down and come up again, as haproxy says at once.

haproxy writes its notices into a ring, which is followed; where the following begins, what is down
is compared with what was known, so that nothing is missed and nothing is told twice.
"""

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path

from agent.engine.host import HostFull, StepFailed
from agent.monitor.events import Event, Kind, Recorder
from agent.system import files
from agent.system.haproxy import Health, health

RING = "notices"

_NOTICE = re.compile(
    r"Server (?P<listener>[^/ ]+)/(?P<server>\S+) is (?P<state>UP|DOWN)"
    r"(?:, reason: (?P<reason>.*?))?(?:\. \d+ active.*)?"
)

log = logging.getLogger(__name__)

Name = tuple[str, str]  # listener and server


class Servers:
    """What is known of servers; `agent.system.haproxy.follow` calls it."""

    def __init__(self, socket: str, memory: Path, events: Recorder) -> None:
        """`memory` is a file that outlives the agent, not the boot."""
        self._socket = socket
        self._memory = memory
        self._events = events
        self._down = _remembered(memory)
        self._unsure = False

    def begun(self) -> None:
        """Following begins: compare."""
        try:
            self.compare(health(self._socket))
        except OSError as error:
            log.debug("haproxy is not asked: %s", error)
            self._unsure = True

    def idle(self) -> None:
        """Nothing was said for a moment."""
        if self._unsure:
            self.begun()

    def heard(self, line: str) -> None:
        """One notice."""
        if (found := _NOTICE.fullmatch(line)) is None:
            return
        name = found["listener"], found["server"]
        if found["state"] == "DOWN":
            self._goes_down(name, found["reason"] or "")
        else:
            self._comes_up(name)
        self._remember()

    def compare(self, rows: Iterable[Health]) -> None:
        """Tell what has changed since it was last known."""
        there: set[Name] = set()
        self._unsure = False
        for row in rows:
            name = row.listener, row.server
            there.add(name)
            if row.status.startswith("DOWN"):
                self._goes_down(name, row.check)
            elif name in self._down:
                # One that has not been checked yet is taken for up by haproxy alone.
                if row.check.endswith("OK") or row.status == "no check":
                    self._comes_up(name)
                else:
                    self._unsure = True
        self._down &= there  # the document no longer has the others
        self._remember()

    def _goes_down(self, name: Name, check: str) -> None:
        if name in self._down:
            return
        self._down.add(name)
        listener, server = name
        message = f"server {server} of {listener} is down" + (f": {check}" if check else "")
        data = {"listener": listener, "server": server, "check": check}
        self._tell(Kind.SERVER_DOWN, name, message, data)

    def _comes_up(self, name: Name) -> None:
        if name not in self._down:
            return
        self._down.discard(name)
        listener, server = name
        data = {"listener": listener, "server": server}
        self._tell(Kind.SERVER_UP, name, f"server {server} of {listener} is up again", data)

    def _tell(self, kind: Kind, name: Name, message: str, data: dict[str, str]) -> None:
        event = Event(kind=kind, subject="/".join(name), message=message, data={**data})
        self._events.record(event)

    def _remember(self) -> None:
        content = json.dumps(sorted(self._down)).encode()
        try:
            with files.told_as("remember servers"):
                if _content(self._memory) != content:
                    files.write(self._memory, content, mode=0o600, durable=False)
        except (HostFull, StepFailed) as error:
            log.debug("%s", error)


def _remembered(memory: Path) -> set[Name]:
    try:
        return {(listener, server) for listener, server in json.loads(_content(memory) or b"[]")}
    except (ValueError, TypeError):
        return set()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
