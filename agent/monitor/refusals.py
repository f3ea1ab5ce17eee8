"""Who is refused at the control endpoint: no certificate, or not one that may.

sysvm-front writes into a ring whom it refused, and why. The first refusal of a client is told at
once; more of the same within a minute are told as one, so that a scan does not fill the outbox.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agent.monitor.events import Event, Kind, Recorder

RING = "refusals"
WINDOW = 60.0  # seconds
CLIENTS = 64  # that are told apart within a window
OTHERS = "others"

_HANDSHAKE = re.compile(
    r"(?P<client>\S+):\d+ refused: (?P<why>.*) verify=(?P<verify>\S+) name=\"(?P<name>.*)\""
)
_REQUEST = re.compile(r"(?P<client>\S+):\d+ \"(?P<name>.*)\" \S+ \S+ 403 .*")

_VERIFY = {
    "X509_V_ERR_CERT_REVOKED": "its certificate is revoked",
    "X509_V_ERR_CERT_HAS_EXPIRED": "its certificate has expired",
    "X509_V_ERR_CERT_NOT_YET_VALID": "its certificate is not valid yet",
    "X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY": "its certificate is of another authority",
    "X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT": "its certificate is of another authority",
    "X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN": "its certificate is of another authority",
    "X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT": "its certificate is its own authority",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Somebody was refused."""

    client: str
    reason: str
    name: str  # the common name that it claims, where it showed a certificate


def parse(line: str) -> Refusal | None:
    """A line of the ring; None where nobody was refused."""
    if found := _REQUEST.fullmatch(line):
        reason = "the name of its certificate is not among the allowed ones"
        return Refusal(found["client"], reason, found["name"])
    if (found := _HANDSHAKE.fullmatch(line)) is None:
        return None
    why, verify, name = found["why"], found["verify"], found["name"]
    if verify != "X509_V_OK":
        known = verify.removeprefix("X509_V_ERR_").lower().replace("_", " ")
        return Refusal(found["client"], _VERIFY.get(verify, f"its certificate: {known}"), name)
    if "did not return a certificate" in why:
        return Refusal(found["client"], "it showed no certificate", name)
    if why.startswith("Connection closed"):  # whoever only looks whether there is somebody
        return None
    said = why.rpartition("::")[2] or why
    return Refusal(found["client"], f"its handshake failed: {said}", name)


class Refusals:
    """Folds them; `agent.system.haproxy.follow` calls it."""

    def __init__(
        self,
        events: Recorder,
        now: Callable[[], float] = time.monotonic,
        event: Callable[[Refusal, int], Event] | None = None,
    ) -> None:
        self._events = events
        self._now = now
        self._event = event or _event
        self._begun: dict[Refusal, float] = {}  # when the window of one began
        self._more: dict[Refusal, int] = {}

    def begun(self) -> None:
        """Following begins."""

    def heard(self, line: str) -> None:
        """One line of the ring."""
        if (refusal := parse(line)) is not None:
            self.take(refusal)

    def take(self, refusal: Refusal) -> None:
        """Somebody was refused, now."""
        self.idle()
        if refusal not in self._begun and len(self._begun) >= CLIENTS:
            refusal = Refusal(OTHERS, "various", "")
        if refusal in self._begun:
            self._more[refusal] = self._more.get(refusal, 0) + 1
            return
        self._begun[refusal] = self._now()
        self._events.record(self._event(refusal, 1))

    def idle(self) -> None:
        """Windows that are over are told, where there was more in them."""
        for refusal in list(self._over()):
            del self._begun[refusal]
            if times := self._more.pop(refusal, 0):
                self._begun[refusal] = self._now()
                self._events.record(self._event(refusal, times))

    def _over(self) -> Iterator[Refusal]:
        now = self._now()
        return (refusal for refusal, begun in self._begun.items() if now - begun >= WINDOW)


def _event(refusal: Refusal, times: int) -> Event:
    often = f", {times} times within a minute" if times > 1 else ""
    return Event(
        kind=Kind.CLIENT_REFUSED,
        subject=refusal.client,
        message=f"{refusal.client} was refused at the control endpoint: {refusal.reason}{often}",
        data={
            "client": refusal.client,
            "reason": refusal.reason,
            "name": refusal.name,
            "times": times,
        },
    )
