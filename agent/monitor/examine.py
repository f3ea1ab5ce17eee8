"""Looks up why a unit does not start: its own last words, and files that a hand has changed."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from agent.engine.errors import EngineError
from agent.engine.host import CheckFailed, HostFull, StepFailed
from agent.engine.model import Desired, Flip, Plan
from agent.monitor import configuration
from agent.monitor.model import Examined, Finding
from agent.services import CURRENT, discover
from agent.system.run import CommandFailed, run

_WORDS = 20  # lines of a unit's journal
_SINCE = 10  # seconds

_log = logging.getLogger(__name__)


class Engine(Protocol):
    """What this needs of `agent.engine.transaction.Engine`."""

    def desired(self) -> Desired: ...
    def drift(self) -> Plan: ...


def examine(engine: Engine, unit: str, daemon: str) -> Examined:
    """Why does `daemon`, the unit of the process of `unit`, not start?"""
    found = configuration.finding(_words(daemon))
    section = _section(unit)
    try:
        if found is not None and found.file.startswith(f"{CURRENT}/"):
            made = engine.desired().files.get(found.file.removeprefix(f"{CURRENT}/"))
            text = made.content.decode(errors="replace") if made is not None else ""
            found = configuration.traced(found, _text(Path(found.file)), text, section)
        changed = tuple(_changed(engine.drift(), unit))
    except (EngineError, CheckFailed, HostFull, StepFailed) as error:
        _log.warning("%s is not examined whole: %s", unit, error)
        changed = ()
    if changed and found is None:
        found = Finding(f"{CURRENT}/{changed[0]}", 0, "was changed by hand", by_hand=True)
    return Examined(changed, found)


def _words(unit: str) -> Sequence[str]:
    """The last words that a unit's own processes wrote to the journal."""
    argv = ["journalctl", "-u", unit, "-n", str(_WORDS), "-o", "json", "--no-pager"]
    argv += [f"--since=-{_SINCE}s", "--output-fields=MESSAGE,_PID"]
    try:
        lines = [json.loads(line) for line in run(argv, timeout=3.0).text.splitlines()]
    except (CommandFailed, ValueError):
        return ()
    return [str(line.get("MESSAGE")) for line in lines if line.get("_PID") != "1"]


def _changed(drift: Plan, unit: str) -> Iterator[str]:
    """A unit's files that are not what they were made."""
    for step in drift.steps:
        if isinstance(step, Flip):
            folders = {c.path.split("/", 1)[0] for c in step.changes if c.unit == unit}
            for change in step.changes:
                if change.unit == unit or change.path.split("/", 1)[0] in folders:
                    yield change.path


def _section(unit: str) -> str:
    for name, one in discover().items():
        if unit in one.UNITS:
            return f"/{name}"
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
