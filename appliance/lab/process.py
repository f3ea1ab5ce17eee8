"""Processes that outlive the command that starts them, and the certainty of ending only those.

Commands that end by themselves go through agent.system.run; here are the daemons, supervisors
and servers of a lab.
"""

import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.system.run import ENVIRONMENT

Popen = subprocess.Popen


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, and not another that was given its number later."""

    pid: int
    started: int  # clock ticks after boot, from /proc/PID/stat

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        """The process that has this number now, if there is one."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The command's name is in parentheses and may hold anything (proc(5)).
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return Identity.of(self.pid) == self

    def send(self, number: int) -> None:
        """Send it this signal, if it still runs."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # The handle is of whatever had the number when it was opened: look again now.
            if self.alive:
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(handle)

    def wait(self, timeout: float) -> bool:
        """Wait until it has ended; whether it has."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if not self.alive:
                return True
            return bool(select.select([handle], [], [], timeout)[0])
        finally:
            os.close(handle)


def spawn(
    argv: Sequence[str],
    *,
    output: Path | None = None,
    env: Mapping[str, str] | None = None,
    pipe: bool = False,
    stdin: bool = False,
    keep: Sequence[int] = (),
) -> "Popen[bytes]":
    """Start a process in a session of its own.

    Both outputs are appended to the file `output`, or come through a pipe, or go nowhere. It gets
    the files `keep`, under their numbers.
    """
    sink: int = subprocess.PIPE if pipe else subprocess.DEVNULL
    if output is not None:
        sink = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT if output is not None else sink,
            env={**ENVIRONMENT, **(env or {})},
            start_new_session=True,
            pass_fds=keep,
        )
    finally:
        if output is not None:
            os.close(sink)
