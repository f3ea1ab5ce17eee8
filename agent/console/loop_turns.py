"""Turns of the loop: what is dear waits for its own, and what is small for the end of one.

When a thousand browsers come at once, as after a restart, each of them costs a handshake. Done as
they come, whoever types, and the monitor, which has a daemon ended that answers no more, would wait
until all are in.
"""

import asyncio
from collections import deque
from collections.abc import Callable

_TOGETHER = 256  # that leave one after the other


class Turns:
    """So many a turn, first come first served; the loop looks at everybody else in between."""

    def __init__(self, loop: asyncio.AbstractEventLoop, each: int) -> None:
        self._loop = loop
        self._each = each
        self._left = each
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    async def take(self) -> None:
        """Wait for a turn."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._next)
        if self._left > 0:
            self._left -= 1
            return
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next(self) -> None:
        self._left = self._each
        while self._left > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # who has given up has no turn
                turn.set_result(None)
                self._left -= 1
        self._scheduled = self._left < self._each
        if self._scheduled:
            self._loop.call_soon(self._next)


class Departures:
    """What leaves at the end of a turn: small messages, each as a call that sends it.

    A message wakes whoever waits for it, on another core mostly, and that is what it costs the
    kernel most. Those that leave one right after the other find him awake still.
    """

    __slots__ = ("_calls", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[Callable[[], None]] = deque()

    def add(self, call: Callable[[], None]) -> None:
        """Have it called before the loop waits again."""
        calls = self._calls
        if not calls:
            self._loop.call_soon(self._leave)
        calls.append(call)
        if len(calls) == _TOGETHER:
            self._leave()

    def _leave(self) -> None:
        calls = self._calls
        try:
            while calls:
                calls.popleft()()
        finally:
            if calls:  # what went wrong with one is none of the others' affair
                self._loop.call_soon(self._leave)
