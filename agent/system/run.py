"""The one door to other programs.

A list of arguments and never a shell; an environment and a locale of our own; no standard input
but what is given; a time-out that cannot be left out; output captured and bounded. `run` waits for
a program's end; `Running` hands on what it says as it goes on.
"""

import contextlib
import enum
import os
import select
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "LANG": "C.UTF-8",
}
_FAREWELL = 2.0  # seconds in which a program whose time is over may still say what it found
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


class Reason(enum.StrEnum):
    """Why a program that was started is no longer there."""

    EXITED = "exited"
    TIME = "time limit"
    OUTPUT = "output limit"
    CLOSED = "nobody listens"


@dataclass(frozen=True, slots=True)
class Said:
    """Some of what a program wrote."""

    stream: Literal["stdout", "stderr"]
    data: bytes


class Running:
    """A program under way. Iterate over it for what it says; close it, however that ends.

    Each round gives what has come, or None after `patience` seconds of silence. The rounds end
    when the program has, when it has said `longest` bytes, or after `timeout` seconds: then its
    whole process group is interrupted, as by Ctrl-C, and killed two seconds later, also when nobody
    reads at that moment.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        longest: int,
        patience: float = 0.5,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start it. Raises CommandFailed where that is not possible."""
        self.argv = tuple(argv)
        self.reason: Reason | None = None  # None while it runs
        self.returncode: int | None = None
        self._left = longest
        self._patience = patience
        self._began = time.monotonic()
        self._duration: float | None = None
        try:
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={**ENVIRONMENT, **(env or {})},
                start_new_session=True,
            )
        except OSError as error:
            raise CommandFailed(argv, f"cannot be run: {error.strerror}") from error
        self._pidfd = os.pidfd_open(self._process.pid)
        self._lock = threading.Lock()  # the watchdog kills only what has not been reaped
        self._watchdog: threading.Timer | None = self._later(timeout, signal.SIGINT)

    @property
    def duration(self) -> float:
        """Seconds that it has run."""
        return self._duration if self._duration is not None else time.monotonic() - self._began

    def __iter__(self) -> Iterator[Said | None]:
        process = self._process
        if process.stdout is None or process.stderr is None:
            return
        names: dict[int, Literal["stdout", "stderr"]] = {
            process.stdout.fileno(): "stdout",
            process.stderr.fileno(): "stderr",
        }
        poll = select.poll()
        for descriptor in (*names, self._pidfd):
            poll.register(descriptor, select.POLLIN)
        while self._duration is None:
            ready = [descriptor for descriptor, _ in poll.poll(self._patience * 1000)]
            if not ready:
                yield None
            for descriptor in ready:
                # What it has said before it ended is still there to be read.
                if descriptor == self._pidfd and len(ready) == 1:
                    self._end(Reason.EXITED)
                elif descriptor in names:
                    data = os.read(descriptor, min(65536, self._left + 1))
                    if not data:
                        poll.unregister(descriptor)
                        continue
                    room, self._left = self._left, max(0, self._left - len(data))
                    yield Said(names[descriptor], data[:room])
                    if len(data) > room:
                        self._end(Reason.OUTPUT)
                        return

    def close(self) -> None:
        """Have it ended, and nothing left of it. May be called again."""
        self._end(Reason.CLOSED)

    def _later(self, seconds: float, number: signal.Signals) -> threading.Timer:
        timer = threading.Timer(seconds, self._over, [number])
        timer.daemon = True
        timer.start()
        return timer

    def _over(self, number: signal.Signals) -> None:
        """The time is over."""
        self._signal(number, Reason.TIME)
        with self._lock:
            if number is signal.SIGINT and self._duration is None:
                self._watchdog = self._later(_FAREWELL, signal.SIGKILL)

    def _signal(self, number: signal.Signals, reason: Reason) -> None:
        with self._lock:
            if self._duration is None:
                self.reason = self.reason or reason
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)

    def _end(self, reason: Reason) -> None:
        """Kill what is left of the group, while its leader's number cannot be anybody else's."""
        if self._duration is not None:
            return
        self._signal(signal.SIGKILL, reason)
        with self._lock:
            if self._watchdog is not None:
                self._watchdog.cancel()
            self._watchdog = None  # it knows us, and must not keep us
            self.returncode = self._process.wait()
            self._duration = time.monotonic() - self._began
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        os.close(self._pidfd)


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
