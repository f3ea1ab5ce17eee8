"""The endpoint on a real Unix socket, served by a thread."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from agent.api.server import Server, listen
from agent.api.streams import Streams
from tests.unit.api import fake
from tests.unit.api.fake import FakeEngine, FakeMachine


@contextlib.contextmanager
def serving(path: Path, engine: FakeEngine, machine: FakeMachine) -> Iterator[Path]:
    """Serve until the block ends."""
    streams = Streams()
    server = Server(fake.app(engine, machine, streams), listen(path, group=None), streams)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield path
    finally:
        server.stop()
        thread.join(10)
        assert not thread.is_alive()
