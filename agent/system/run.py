"""The one door to other programs.

A list of arguments and never a shell; an environment and a locale of our own; no standard input
but what is given; a time-out that cannot be left out; output captured and bounded.
"""

import os
import select
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "LANG": "C.UTF-8",
}
LONGEST = 32 * 1024 * 1024  # bytes of output that are kept of each stream


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ended. `returncode` is negative for the signal that killed it."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")


class CommandFailed(Exception):
    """A program could not run, ran too long, or ended with an error.

    `retryable` says whether trying again can help: a time-out may pass, a refusal does not.
    """

    def __init__(
        self,
        argv: Sequence[str],
        reason: str,
        *,
        returncode: int | None = None,
        stdout: bytes = b"",
        stderr: bytes = b"",
        retryable: bool = False,
    ) -> None:
        self.argv = tuple(argv)
        self.reason = reason
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
        self.retryable = retryable
        said = (stderr or stdout).decode(errors="replace").strip()[-2000:]
        text = f"{shlex.join(argv)}: {reason}"
        super().__init__(f"{text}: {said}" if said else text)


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    stdin: bytes = b"",
    check: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Completed:
    """Run a program to its end, within `timeout` seconds.

    With `check`, an exit code other than 0 raises CommandFailed; a program that is not there or
    takes too long always does. `env` adds to the environment, which is otherwise ours.

    Output goes through files, so that a child that stays behind with our pipe cannot hold us,
    and no full pipe can stop the program.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with tempfile.TemporaryFile() as given:
            given.write(stdin)
            given.seek(0)
            try:
                process = subprocess.Popen(
                    list(argv),
                    stdin=given if stdin else subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env={**ENVIRONMENT, **(env or {})},
                    cwd=cwd,
                    start_new_session=True,
                )
            except OSError as error:
                raise CommandFailed(argv, f"cannot be run: {error.strerror}") from error
        try:
            ended = _ends_within(process.pid, timeout)
            if not ended:
                os.killpg(process.pid, signal.SIGKILL)
            returncode = process.wait()
            if not ended:
                raise CommandFailed(
                    argv,
                    f"took longer than {timeout:g} s",
                    stdout=_read(out),
                    stderr=_read(err),
                    retryable=True,
                )
        except CommandFailed:
            raise
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        completed = Completed(tuple(argv), returncode, _read(out), _read(err))
    if check and returncode != 0:
        reason = (
            f"killed by {signal.Signals(-returncode).name}"
            if returncode < 0
            else f"exit code {returncode}"
        )
        raise CommandFailed(
            argv,
            reason,
            returncode=returncode,
            stdout=completed.stdout,
            stderr=completed.stderr,
        )
    return completed


def _ends_within(pid: int, timeout: float) -> bool:
    """Wait for a child, woken by the kernel: Popen.wait looks only every 50 ms (pidfd_open(2))."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
    finally:
        os.close(descriptor)


def _read(stream: IO[bytes]) -> bytes:
    stream.seek(0)
    # Asked for more than there is, read() first makes room for all of it.
    return stream.read(min(LONGEST, os.fstat(stream.fileno()).st_size))
