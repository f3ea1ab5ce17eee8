"""The one writer's lock: a flock, which dies with the process that holds it."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from agent.engine.errors import Busy

_PAUSE = 0.02  # seconds between two tries


@contextlib.contextmanager
def held(path: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock; wait for it at most `wait` seconds. Raises Busy.

    The file is never removed: a lock on a removed file excludes nobody.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(descriptor, time.monotonic() + wait)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Busy from None
            time.sleep(_PAUSE)
        else:
            return
