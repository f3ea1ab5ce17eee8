"""What happens at the console proxy, as events: its keeper's records, asked for as they come.

Each is told once: which was told last outlives the agent, and the keeper keeps some for while it is
away (`agent.console.records`).
"""

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.monitor.events import CATALOGUE, Event, Kind, Recorder
from agent.monitor.refusals import Refusal, Refusals
from agent.system import consoles, files

WAIT = 25.0  # seconds that the keeper may wait for something to happen
_AGAIN = 2.0  # seconds, where there is no proxy

_log = logging.getLogger(__name__)

Record = Mapping[str, Any]


# What a record is told as, whom it is about (a member of it, or a word), and the sentence.
_SAID: Mapping[str, tuple[Kind, str, str]] = {
    "opened": (
        Kind.CONSOLE_OPENED,
        "session",
        "{user} sees the console of {vm}, from {source} (session {session})",
    ),
    "ended": (
        Kind.CONSOLE_ENDED,
        "session",
        "{user} saw the console of {vm} for {seconds} s, from {source}: {why}",
    ),
    "worker-died": (
        Kind.CONSOLE_WORKER_DIED,
        "worker",
        "worker {worker} of the console proxy ended ({status}); another takes its place",
    ),
    "draining": (
        Kind.CONSOLE_DRAINING,
        "proxy",
        "the console proxy drains: {sessions} sessions may go on for {within:g} s",
    ),
    "drained": (
        Kind.CONSOLE_DRAINED,
        "proxy",
        "the console proxy is drained: no session is left",
    ),
}


def event(record: Record) -> Event | None:
    """What a record says; None for a refusal, which is folded, and for what is not known yet."""
    if record["what"] not in _SAID:
        return None
    kind, subject, sentence = _SAID[record["what"]]
    return Event(
        kind=kind,
        subject=str(record.get(subject, subject)),
        message=sentence.format(**record),
        data={name: record[name] for name in CATALOGUE[kind].data},
    )


def refused(refusal: Refusal, times: int) -> Event:
    """Of one source and reason, within a minute."""
    often = f", {times} times within a minute" if times > 1 else ""
    return Event(
        kind=Kind.CONSOLE_REFUSED,
        subject=refusal.client,
        message=f"a browser at {refusal.client} was refused: {refusal.reason}{often}",
        data={"source": refusal.client, "reason": refusal.reason, "times": times},
    )


class Consoles:
    """Takes records, and remembers at `place` which was the last; `ask` is the keeper's answer."""

    def __init__(
        self,
        events: Recorder,
        place: Path,
        ask: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    ) -> None:
        self._events = events
        self._place = place
        self._ask = ask or (lambda message: consoles.ask(message, timeout=WAIT + 5))
        self._refusals = Refusals(events, event=refused)
        self._life, self._last = _read(place)

    def run(self, stop: threading.Event) -> None:
        """Take what comes, until `stop`."""
        while not stop.is_set():
            try:
                if consoles.CONTROL.exists():
                    self.turn()
                    continue
            except (OSError, ValueError, KeyError, TypeError) as error:
                _log.debug("the console proxy's records: %s", error)
            stop.wait(_AGAIN)

    def turn(self) -> None:
        """Ask once. Raises OSError, ValueError, KeyError, TypeError."""
        answer = self._ask({"op": "records", "life": self._life, "after": self._last, "wait": WAIT})
        if answer["life"] != self._life:
            self._life, self._last = str(answer["life"]), 0
        if answer["lost"]:
            self._events.record(_gap(int(answer["lost"])))
        for record in answer["records"]:
            if record["what"] == "refused":
                self._refusals.take(Refusal(record["source"], record["why"], ""))
            elif (told := event(record)) is not None:
                self._events.record(told)
            self._last = int(record["number"])
        self._refusals.idle()
        if answer["records"]:
            with contextlib.suppress(OSError):
                text = json.dumps([self._life, self._last])
                files.write(self._place, text.encode(), durable=False)


def _gap(lost: int) -> Event:
    reason = "the console proxy keeps so many, and nobody asked"
    return Event(
        kind=Kind.EVENTS_GAP,
        subject="consoles",
        message=f"{lost} events of consoles were lost: {reason}",
        data={"lost": lost, "first": None, "last": None, "reason": reason},
    )


def _read(place: Path) -> tuple[str, int]:
    try:
        life, last = json.loads(place.read_bytes())
        return str(life), int(last)
    except (OSError, ValueError, TypeError):
        return "", 0
