"""A recorder that remembers."""

from agent.monitor.events import Event, Kind


class Heard:
    """What was recorded, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        self.events.append(event)

    @property
    def kinds(self) -> list[Kind]:
        return [event.kind for event in self.events]
