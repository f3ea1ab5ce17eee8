"""What happened at this proxy that management should know: numbered, and kept for the agent.

The agent asks for what comes after the last one that it has, and waits where there is none. It may
be away for a while: the last thousand wait for it. Another keeper is another `life`, whose numbers
begin anew.
"""

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from agent.console.sessions import Ended, Session

KEPT = 1000
LONGEST_WAIT = 60.0  # seconds
_AT_ONCE = 100


class Records:
    """One keeper's, of its loop."""

    def __init__(self) -> None:
        self._life = secrets.token_hex(8)
        self._kept: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._last = 0
        self._news = asyncio.Event()
        self._empty = False

    def opened(self, session: Session, source: str) -> None:
        """A browser was let in for the first time."""
        self._add("opened", **_of(session), source=source)

    def ended(self, ended: Ended, now: float) -> None:
        """A session is over; one that nobody has opened is no news."""
        live = ended.live
        if live.opened is not None:
            seconds, why = round(now - live.opened), ended.why.value
            self._add(
                "ended", **_of(live.session), source=str(live.source), seconds=seconds, why=why
            )

    def refused(self, source: str, why: str) -> None:
        """A browser was not let in."""
        self._add("refused", source=source, why=why)

    def died(self, worker: int, status: str) -> None:
        """A worker ended by itself."""
        self._add("worker-died", worker=worker, status=status)

    def draining(self, within: float, held: int) -> None:
        """Nobody new is let in, and who is there may stay so many seconds."""
        self._empty = False
        self._add("draining", within=within, sessions=held)

    def tick(self, *, drained: bool) -> None:
        """While it drains: is there no session any more?"""
        if drained and not self._empty:
            self._add("drained")
        self._empty = drained

    def _add(self, what: str, **about: Any) -> None:
        """Keep one; `about` has plain values and no secret."""
        self._last += 1
        self._kept.append({"number": self._last, "what": what, "at": time.time(), **about})
        self._news.set()

    async def after(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Those after a number of this life, or all; waits a while for the first.

        Raises ValueError, TypeError, KeyError for what is no such question.
        """
        number = int(asked["after"]) if asked["life"] == self._life else 0
        wait = min(float(asked["wait"]), LONGEST_WAIT)
        if number >= self._last:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._news.wait()
        found = [record for record in self._kept if record["number"] > number]
        first = found[0]["number"] if found else number + 1
        return {"life": self._life, "lost": first - number - 1, "records": found[:_AT_ONCE]}


def _of(session: Session) -> Mapping[str, str]:
    return {"session": session.id, "user": session.user, "vm": session.vm}
