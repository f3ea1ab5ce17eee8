"""Waiting for something to become true, rather than for time to pass."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TookTooLong(AssertionError):
    """What was waited for did not come about in time."""


def wait_until(predicate: Callable[[], T], timeout: float, what: str, *, every: float = 0.02) -> T:
    """Call `predicate` until what it returns is true, and return that.

    Raises TookTooLong after `timeout` seconds, naming `what` was waited for.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = predicate()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TookTooLong(f"{what}: not within {timeout:g} s")
        time.sleep(every)
