"""Events of processes that come and go: files that the agent takes in.

The restore at boot and the confirm timer's roll back leave what happened here, without a database
to open on the way up. A file has one event, is named so that files sort by when it happened, and
is there whole or not at all. Where the state partition takes none, memory does.
"""

import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from agent.engine.host import Clock, HostFull, StepFailed
from agent.monitor.events import Event, Severity, Stored, stamp
from agent.system import files

MOST = 1000  # files in a folder; a process that leaves more is broken
_ENDING = ".json"

log = logging.getLogger(__name__)


class Spool:
    """`agent.monitor.events.Recorder` for a short life."""

    def __init__(self, folders: Sequence[Path], *, boot: str, clock: Clock) -> None:
        """Into the first of `folders` that takes it."""
        self._folders = folders
        self._boot = boot
        self._clock = clock
        self._number = itertools.count()

    def record(self, event: Event) -> None:
        at = self._clock.now()
        stored = stamp(event, boot=self._boot, at=at, monotonic=self._clock.monotonic())
        name = f"{int(at * 1e6):020d}-{os.getpid()}-{next(self._number):04d}{_ENDING}"
        content = json.dumps(asdict(stored), ensure_ascii=False).encode()
        for folder in self._folders:
            try:
                with files.told_as("spool an event"):
                    files.make_folder(folder, 0o700)
                    files.write(folder / name, content, mode=0o600)
            except (HostFull, StepFailed) as error:
                log.warning("%s", error)
            else:
                return
        log.error("event lost: %s: %s", event.kind, event.message)


def waiting(folders: Iterable[Path]) -> Iterator[tuple[Path, Stored | None]]:
    """What has been left, oldest first; None for a file that is no event."""
    found = sorted(path for folder in folders for path in _files(folder))
    for path in sorted(found, key=lambda path: path.name)[:MOST]:
        yield path, _read(path)


def _files(folder: Path) -> Iterator[Path]:
    try:
        paths = list(folder.iterdir())
    except OSError:
        return
    yield from (p for p in paths if p.suffix == _ENDING and not p.name.startswith("."))


def _read(path: Path) -> Stored | None:
    try:
        value = json.loads(path.read_bytes())
        return Stored(**{**value, "severity": Severity(value["severity"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.error("%s is no event: %s", path, error)
        return None
