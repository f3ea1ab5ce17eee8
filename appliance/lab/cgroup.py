"""A control group for each container: two systemds must not share one tree.

Where systemd is the host's PID 1, it hands out a scope. Elsewhere (many CI machines), a folder
in each hierarchy that the container's systemd uses does.
"""

import errno
import os
from pathlib import Path

from appliance.lab.wait import wait_until

_LEAVING = 10.0  # seconds
_ROOT = Path("/sys/fs/cgroup")


def enter(name: str) -> tuple[str, ...]:
    """Make this container's control group; what to put before the command that is to be in it.

    Without systemd on the host, this process itself enters the group, and the prefix is empty.
    """
    if Path("/run/systemd/system").is_dir():
        scope = ("systemd-run", "--scope", "--quiet", "--collect", "--property=Delegate=yes")
        return (*scope, f"--unit=sysvm-lab-{name}", "--")
    for path in _folders(name):
        path.mkdir(exist_ok=True)
        (path / "cgroup.procs").write_text(str(os.getpid()))
    return ()


def members(name: str) -> tuple[int, ...]:
    """The processes in this container's control group and below it."""
    pids: set[int] = set()
    for path in _folders(name):
        for procs in path.rglob("cgroup.procs"):
            pids.update(map(int, procs.read_text().split()))
    return tuple(sorted(pids))


def remove(name: str) -> None:
    """Remove what is left of this container's control groups. Nothing may run in them.

    A process that has just been killed may stay in its group for a moment.
    """
    wait_until(lambda: _removed(name), _LEAVING, f"empty control group of {name}")


def _removed(name: str) -> bool:
    try:
        for path in _folders(name):
            for folder in sorted(path.rglob("*/"), key=lambda found: -len(found.parts)):
                folder.rmdir()
            if path.is_dir():
                path.rmdir()
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    return True


def _folders(name: str) -> tuple[Path, ...]:
    parents = [_ROOT / "unified", _ROOT / "systemd"]
    if (_ROOT / "cgroup.controllers").exists():
        parents = [_ROOT]
    return tuple(path / f"sysvm-lab-{name}" for path in parents if path.is_dir())
