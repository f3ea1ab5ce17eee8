"""Events as they are told: the same over the endpoint, in a stream and in a push."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from agent.monitor.events import Stored, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """An event; its number is within the stream that comes with it."""

    seq: int
    boot: str  # the boot that it happened in; `monotonic` counts from its beginning
    time: str
    monotonic: float  # seconds
    kind: str
    severity: str
    subject: str
    message: str
    data: Mapping[str, Value]


def event_row(event: Stored) -> EventRow:
    moment = datetime.fromtimestamp(event.at, UTC)
    return EventRow(
        seq=event.seq,
        boot=event.boot,
        time=moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z",
        monotonic=round(event.monotonic, 3),
        kind=event.kind,
        severity=str(event.severity),
        subject=event.subject,
        message=event.message,
        data=event.data,
    )
