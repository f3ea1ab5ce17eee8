"""Waiting for something to become true, rather than for time to pass.

On a machine that is slower than usual, or that others use as well, `SYSVM_PATIENCE=4` makes every
wait four times as long before it is given up. It costs nothing where what is waited for comes.
"""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TookTooLong(AssertionError):
    """What was waited for did not come about in time."""


def wait_until(predicate: Callable[[], T], timeout: float, what: str, *, every: float = 0.02) -> T:
    """Call `predicate` until what it returns is true, and return that.

    Raises TookTooLong after `timeout` seconds (times the patience), naming `what` was waited for.
    """
    timeout *= float(os.environ.get("SYSVM_PATIENCE", "1"))
    deadline = time.monotonic() + timeout
    while True:
        found = predicate()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TookTooLong(f"{what}: not within {timeout:g} s")
        time.sleep(every)
