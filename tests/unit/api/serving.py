"""The endpoint on a real Unix socket, served by a thread."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from agent.api.server import Server, listen
from agent.api.streams import Streams
from tests.unit.api import fake
from tests.unit.api.fake import FakeEngine, FakeEvents, FakeMachine


@contextlib.contextmanager
def serving(
    path: Path, engine: FakeEngine, machine: FakeMachine, events: FakeEvents | None = None
) -> Iterator[Path]:
    """Serve until the block ends."""
    streams = Streams()
    app = fake.app(engine, machine, events, streams)
    server = Server(app, listen(path, group=None), streams)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield path
    finally:
        server.stop()
        thread.join(10)
        assert not thread.is_alive()
