"""Answers that come bit by bit, and how many of them there may be at once.

A stream keeps one of the server's threads for as long as it lasts. So each purpose has a number of
slots, and the server has a thread for each slot besides those that answer everything else: no
number of streams can keep anybody from asking or changing something.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping

from agent.api import problems
from agent.api.problems import Refusal

# How many at once, by what they are for.
SLOTS: Mapping[str, int] = {"diagnostics": 4, "events": 4, "consoles": 2}
RETRY_AFTER = 5  # seconds

JSON_LINES = "application/jsonl"
SERVER_SENT_EVENTS = "text/event-stream"
GZIP = "application/gzip"


class Stream:
    """Bytes that are sent as they come; the content of a Response.

    `parts` yields b"" at least once in a second while it has nothing to say: then it is looked
    whether the client is still there and the server still runs. However a stream ends, also one
    that was never begun, its parts are closed and its slot is free again.
    """

    def __init__(
        self,
        media_type: str,
        parts: Iterator[bytes],
        *,
        over: Callable[[], bool] = lambda: False,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        self.media_type = media_type
        self.gone: Callable[[], bool] = lambda: False  # has the client left? The server knows
        self._parts = parts
        self._over = over
        self._done: Callable[[], None] | None = done

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        for part in self._parts:
            if part and not self._over():
                return part
            if self._over() or self.gone():
                break
        self.close()
        raise StopIteration

    def close(self) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        try:
            close = getattr(self._parts, "close", None)
            if close is not None:
                close()
        finally:
            done()


class Closing:
    """Parts, and what has to be closed after them, also where none of them was ever asked for."""

    def __init__(self, parts: Iterator[bytes], close: Callable[[], None]) -> None:
        self._parts = parts
        self._close = close

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._parts)

    def close(self) -> None:
        try:
            close = getattr(self._parts, "close", None)
            if close is not None:
                close()
        finally:
            self._close()


class Streams:
    """The streams of one server."""

    def __init__(self, slots: Mapping[str, int] = SLOTS) -> None:
        self._free = dict(slots)
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def open(self, purpose: str, media_type: str, begin: Callable[[], Iterator[bytes]]) -> Stream:
        """Take a slot, and begin. Raises Refusal where none is free, and what `begin` raises."""
        with self._lock:
            if not self._free[purpose]:
                raise Refusal(
                    problems.TOO_MANY_STREAMS,
                    f"{SLOTS[purpose]} requests for {purpose} are under way",
                    headers={"Retry-After": str(RETRY_AFTER)},
                )
            self._free[purpose] -= 1
        with contextlib.ExitStack() as stack:
            stack.callback(self._give_back, purpose)
            parts = begin()
            stack.pop_all()
        return Stream(
            media_type,
            parts,
            over=self._ended.is_set,
            done=lambda: self._give_back(purpose),
        )

    def end(self) -> None:
        """Have every stream end within about a second, for the server stops."""
        self._ended.set()

    def _give_back(self, purpose: str) -> None:
        with self._lock:
            self._free[purpose] += 1
