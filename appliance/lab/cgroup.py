"""A control group for each container: two systemds must not share one tree.

Where systemd is the host's PID 1, it hands out a scope. Elsewhere (many CI machines), a folder
in each hierarchy that the container's systemd uses does.
"""

import contextlib
import errno
import os
from pathlib import Path

from appliance.lab.wait import wait_until

_LEAVING = 10.0  # seconds
_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "sysvm-lab-"


def enter(name: str) -> tuple[str, ...]:
    """Make this container's control group; what to put before the command that is to be in it.

    Without systemd on the host, this process itself enters the group, and the prefix is empty.
    """
    if Path("/run/systemd/system").is_dir():
        scope = ("systemd-run", "--scope", "--quiet", "--collect", "--property=Delegate=yes")
        return (*scope, f"--unit={_PREFIX}{name}", "--")
    for path in _folders(name):
        path.mkdir(exist_ok=True)
        (path / "cgroup.procs").write_text(str(os.getpid()))
    return ()


def members(name: str) -> tuple[int, ...]:
    """The processes in this container's control group and below it."""
    pids: set[int] = set()
    for path in _folders(name):
        for folder, _, _ in os.walk(path):
            # A container that ends takes its groups with it, while they are looked at.
            with contextlib.suppress(OSError):
                pids.update(map(int, Path(folder, "cgroup.procs").read_text().split()))
    return tuple(sorted(pids))


def groups(lab: str) -> tuple[str, ...]:
    """The containers of this lab that have a control group."""
    found = {path.name for parent in _parents() for path in parent.glob(f"{_PREFIX}{lab}-*")}
    return tuple(sorted(name.removeprefix(_PREFIX) for name in found))


def remove(name: str) -> None:
    """Remove what is left of this container's control groups. Nothing may run in them.

    A process that has just been killed may stay in its group for a moment.
    """
    wait_until(lambda: _removed(name), _LEAVING, f"empty control group of {name}")


def _removed(name: str) -> bool:
    try:
        for path in _folders(name):
            for folder, _, _ in os.walk(path, topdown=False):
                with contextlib.suppress(FileNotFoundError):
                    Path(folder).rmdir()
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    return True


def _parents() -> tuple[Path, ...]:
    parents = [_ROOT / "unified", _ROOT / "systemd"]
    if (_ROOT / "cgroup.controllers").exists():
        parents = [_ROOT]
    return tuple(path for path in parents if path.is_dir())


def _folders(name: str) -> tuple[Path, ...]:
    return tuple(path / f"{_PREFIX}{name}" for path in _parents())
