"""What is left of a lab, found by its name alone, and removed.

A lab that was killed while it came up, and one whose topology this version does not know, go down
as any other: nothing here asks what a lab was to be.
"""

import contextlib
import os
import shutil
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from appliance.lab import cgroup, hypervisor, network, state
from appliance.lab.process import Identity
from appliance.lab.state import Container
from appliance.lab.wait import TookTooLong

_SUPERVISORS = ("appliance.lab.supervisor", "appliance.lab.boot")
_ENDING = 10.0  # seconds
_ROUNDS = 20


def remove(name: str) -> None:
    """End and remove everything of the lab of this name."""
    home = state.folder() / name
    # Supervisors first: they must not boot again what is being ended.
    _end(_supervisors(home))
    _end(_noted(home))
    spaces = network.namespaces(name)
    # Whoever has just been made is found in the next round.
    for _ in range(_ROUNDS):
        groups = [pid for group in cgroup.groups(name) for pid in cgroup.members(group)]
        living = [pid for space in spaces for pid in network.members(space)]
        found = _identities({*groups, *living} - {os.getpid()})
        if not found:
            break
        _end(found)
    for group in cgroup.groups(name):
        # What stays is an empty folder, and no reason to leave the rest.
        with contextlib.suppress(TookTooLong):
            cgroup.remove(group)
    for folder in home.glob("*/"):
        hypervisor.tidy(folder)
    # The switch last: with its ports go the cables, whose names are free at once then.
    for space in sorted(spaces, key=lambda one: one == network.namespace(name, network.SWITCH)):
        network.remove(space)
    shutil.rmtree(home, ignore_errors=True)
    with contextlib.suppress(OSError):
        state.folder().rmdir()


def _end(processes: Iterable[Identity]) -> None:
    listed = list(processes)
    for process in listed:
        process.send(signal.SIGKILL)
    for process in listed:
        process.wait(_ENDING)


def _identities(pids: Iterable[int]) -> list[Identity]:
    return [process for pid in pids if (process := Identity.of(pid)) is not None]


def _supervisors(home: Path) -> Iterator[Identity]:
    """Those of its containers' supervisors that have noted nothing of themselves yet as well."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        mine = any(Path(word).parent == home for word in words if word.startswith("/"))
        if mine and any(word in _SUPERVISORS for word in words):
            yield from _identities((int(path.parent.name),))


def _noted(home: Path) -> Iterator[Identity]:
    """Its containers' processes, as their supervisors wrote them down."""
    for path in home.glob("*/status.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            status = Container(path.parent).status()
            yield from (one for one in (status.supervisor, status.leader, status.nspawn) if one)
