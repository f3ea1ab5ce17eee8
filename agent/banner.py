"""The console's banner: what this VM is and how it is, for who looks at the hypervisor's console.

Nobody can log in there, so the banner says what they would look for. Whichever process changes
the state writes it, and nobody polls: `sysvm-console.path` sees the file change and shows it.
Whether the agent runs is added where it is shown, for an agent that does not run cannot say so.
"""

import datetime as dt
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent import __version__
from agent.document.site import NicRole
from agent.engine.errors import EngineError
from agent.engine.store import Revision, State, Store
from agent.system import files
from agent.system.paths import Paths

log = logging.getLogger(__name__)

_WIDTH = 79  # columns of a text console, less the one that would wrap
_INDENT = " " * 14
_PROBLEMS = 12  # shown; a screen has 25 lines


@dataclass(frozen=True, slots=True)
class Told:
    """What the boot configuration came to: the parts of boot-status.json that the banner shows."""

    source: str = ""
    ok: bool = False
    problems: tuple[tuple[str, str], ...] = ()  # path, message
    role: str = ""
    hostname: str = ""
    control: tuple[str, ...] = ()
    state_problem: str = ""  # of the initrd, which has its own file

    @classmethod
    def of(cls, status: Mapping[str, Any]) -> "Told":
        """From boot-status.json, whatever is missing in it."""
        return cls(
            source=str(status.get("source") or ""),
            ok=status.get("ok") is True,
            problems=tuple(
                (str(problem.get("path", "")), str(problem.get("message", "")))
                for problem in status.get("problems") or ()
            ),
            role=str(status.get("role") or ""),
            hostname=str(status.get("hostname") or ""),
            control=tuple(map(str, status.get("control") or ())),
        )


def render(
    told: Told,
    state: State | None,
    running: Revision | None,
    trouble: str = "",
    *,
    clock: float = 0.0,
    ill: str = "",
    failing: str = "",
) -> str:
    """The banner's text: lines of printable ASCII that fit a console.

    `state` is None where it cannot be read, `running` where there is no revision; `trouble` is
    what kept the VM from being brought up, if anything did. `clock` is the time of day less that
    of the monotonic clock, by which deadlines are. `ill` are daemons that restarting does not help,
    `failing` health checks.
    """
    role, hostname, control = told.role, told.hostname, told.control
    if running is not None:
        site = running.document.site
        role, hostname = str(running.document.role), site.hostname
        control = tuple(
            str(interface.ip)
            for nic in site.nics.values()
            if nic.role is NicRole.CONTROL
            for interface in nic.addresses
        )
    rows = [
        ("system VM", f"{hostname or '(no name yet)'}   {role or '(no role yet)'}"),
        ("sysvm", __version__),
        ("document", _document(state, running)),
        ("control", ", ".join(control) or "no address"),
        ("health", _health(told, state, trouble, clock, ill, failing)),
    ]
    if told.state_problem:
        rows.append(("STATE", told.state_problem))
    lines = [line for label, value in rows for line in _row(label, value)]
    if told.problems:
        lines += _problems(told)
    return "".join(f"{line}\n" for line in lines)


def write(paths: Paths, store: Store, trouble: str = "") -> None:
    """Write the banner if it is another one; what fails here fails nothing else."""
    try:
        text = _current(paths, store, trouble).encode()
        path = place(paths)
        if not path.exists() or path.read_bytes() != text:
            files.write(path, text, mode=0o644, durable=False)
    except Exception as error:  # noqa: BLE001 - a banner is no reason to fail a change
        log.warning("the console's banner cannot be written: %s", error)


def place(paths: Paths) -> Path:
    """The file that `sysvm-console` shows."""
    return paths.run / "banner"


def _current(paths: Paths, store: Store, trouble: str) -> str:
    told = replace(Told.of(_status(paths)), state_problem=files.note(paths.state_problem))
    try:
        state = store.state()
    except EngineError as error:
        return render(told, None, None, trouble or str(error))
    running = None
    if state.current is not None:
        try:
            running = store.revision(state.current)
        except EngineError as error:
            trouble = trouble or str(error)
    clock = time.time() - time.monotonic()
    ill, failing = files.note(paths.run / "ill"), files.note(paths.run / "health/ill")
    return render(told, state, running, trouble, clock=clock, ill=ill, failing=failing)


def _status(paths: Paths) -> Mapping[str, Any]:
    try:
        value = json.loads((paths.run / "boot-status.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _document(state: State | None, running: Revision | None) -> str:
    if state is None or running is None:
        return "none"
    info = running.info
    if info.cause == "boot" and info.generation == 0:
        return f"none yet (revision {info.number}, of the boot configuration)"
    return f"generation {info.generation}, revision {info.number}"


def _health(
    told: Told, state: State | None, trouble: str, clock: float, ill: str, failing: str
) -> str:
    if not told.ok:
        return f"CLOSED: {_why_closed(told)}"
    if trouble:
        return f"CLOSED: {trouble}"
    if state is None or state.current is None:
        return "CLOSED: nothing has been brought up yet"
    if state.degraded:
        return f"DEGRADED: {state.degraded}"
    if ill:
        return f"ALERT: {ill}"
    if failing:
        return f"checks fail: {failing}"
    if state.provisional and state.deadline is not None:
        until = dt.datetime.fromtimestamp(state.deadline + clock, dt.UTC)
        return f"ok; goes back unless confirmed by {until:%H:%M:%S} UTC"
    return "ok"


def _why_closed(told: Told) -> str:
    if not told.source or told.source == "none":
        return "nobody has said what this VM is (no boot configuration)"
    return f"its boot configuration ({told.source}) cannot be used"


def _problems(told: Told) -> Iterator[str]:
    yield ""
    more = len(told.problems) - _PROBLEMS
    for path, message in told.problems[:_PROBLEMS]:
        yield from _wrapped("  - ", f"{path or '/'}: {message}", "    ")
    if more > 0:
        yield f"  ... and {more} more; see the journal"


def _row(label: str, value: str) -> Sequence[str]:
    return _wrapped(f"  {label:<12}", value, _INDENT)


def _wrapped(first: str, text: str, rest: str) -> Sequence[str]:
    """The text on lines that fit, four at most, without anything that a terminal obeys."""
    harmless = "".join(c if " " <= c <= "~" else "?" for c in text)
    room = _WIDTH - len(rest)
    pieces = [harmless[i : i + room] for i in range(0, len(harmless), room)] or [""]
    if len(pieces) > 4:
        pieces = [*pieces[:3], f"{pieces[3][: room - 3]}..."]
    return [(first if index == 0 else rest) + piece for index, piece in enumerate(pieces)]
