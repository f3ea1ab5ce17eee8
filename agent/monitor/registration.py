"""A console proxy says to its manager that it is there, until that has acknowledged it.

Again after each start and each change of what it says, and now and then: a manager whose database
was lost knows it again. Afterwards it is the manager that asks the proxy.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from agent.monitor.push import LONGEST_ANSWER, LOOK, NotTaken, Settings, Target, connect, pauses
from agent.turns import turns

if TYPE_CHECKING:
    import http.client

AGAIN = 600.0  # seconds from one that was acknowledged to the next

log = logging.getLogger(__name__)


class Registration:
    """Says what the running document wants said."""

    def __init__(self, settings: Settings, *, now: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._now = now
        self._said: Mapping[str, Any] | None = None
        self._due = 0.0
        self._pause = pauses()
        self._fault = ""

    def run(self, stop: threading.Event) -> None:
        """Until told to stop."""
        turns(self.look, LOOK, stop, log, "the registration failed", at_once=True)

    def look(self) -> None:
        """Say it, if that is due."""
        settings = self._settings.read()
        if not settings.get("push") or not settings.get("registration"):
            self._said = None
            return
        wanted = {name: settings[name] for name in ("push", "registration")}
        if wanted != self._said:
            self._said, self._due, self._fault = wanted, 0.0, ""
            self._pause = pauses()
        if self._now() < self._due:
            return
        target = Target(**wanted["push"])
        try:
            _say(target, wanted["registration"]["path"], wanted["registration"]["body"])
        except NotTaken as error:
            self._due = self._now() + self._pause()
            if str(error) != self._fault:
                log.warning("this proxy is not registered at %s: %s", target.host, error)
            self._fault = str(error)
        else:
            if self._fault or self._due == 0.0:
                log.info("this proxy is registered at %s", target.host)
            self._due, self._pause, self._fault = self._now() + AGAIN, pauses(), ""


def _say(target: Target, path: str, body: Mapping[str, Any]) -> None:
    """Raises NotTaken."""
    import http.client
    import ssl

    try:
        connection = connect(target)
        try:
            content = json.dumps(body).encode()
            connection.request("PUT", path, content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read(LONGEST_ANSWER)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ssl.SSLError) as error:
        raise NotTaken(str(error) or type(error).__name__) from error
    if response.status // 100 != 2:
        raise NotTaken(_reason(response, answer))


def _reason(response: "http.client.HTTPResponse", answer: bytes) -> str:
    """Why it is refused; the manager says what its operator can do."""
    said = f"it answers {response.status} {response.reason}"
    try:
        detail = json.loads(answer)["detail"]
    except (ValueError, TypeError, KeyError):
        return said
    return f"{said}: {detail}"[:500]
