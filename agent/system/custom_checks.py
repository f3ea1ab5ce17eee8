"""Operators' own checks: where they are, which are run, and within which limits.

Each runs in a unit of its own, which systemd makes and the kernel holds to its limits: whatever a
check forks, and however it detaches it, ends with the unit. It is root, that it may look at
everything, and writes nowhere but in a /tmp of its own. That guards against mistakes and not
against malice: only root can put a check here, and it may ask systemd and the agent as root may.
"""

import contextlib
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from agent.monitor.checks import CannotTell, Custom, CustomRun
from agent.monitor.health import Level
from agent.system.run import CommandFailed, Completed, run

# The image's own, and what was put on the state partition: the first of a name is the one.
FOLDERS = (Path("/etc/sysvm/checks.d"), Path("/var/lib/sysvm/checks"))
AT_MOST = 32
SECONDS = 10
OUTPUT = 64 * 1024  # bytes
MEMORY = 64  # MiB
TASKS = 16
_PATIENCE = 20.0  # seconds beyond those of the check, for systemd on a busy machine
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_RESULT = re.compile(r"Finished with result: ([a-z-]+)")
_STATUS = re.compile(r"terminated with: code=([a-z]+), status=([0-9]+)")
_XFSZ = 25  # the signal of who writes more than may be (setrlimit(2))

LIMITS: Mapping[str, str] = {
    "RuntimeMaxSec": f"{SECONDS}s",
    "TimeoutStopSec": "1s",
    "KillMode": "control-group",
    "MemoryMax": f"{MEMORY}M",
    "MemorySwapMax": "0",
    "TasksMax": str(TASKS),
    "LimitFSIZE": str(OUTPUT),
    "LimitDATA": f"{2 * MEMORY}M",
    "LimitNOFILE": "256",
    "LimitCORE": "0",
    "OOMScoreAdjust": "800",
    "Nice": "10",
    "CPUQuota": "50%",
}
# It may look at the network's tables and at files that are not its own.
SANDBOX: Mapping[str, str] = {
    "CapabilityBoundingSet": "CAP_NET_ADMIN CAP_NET_RAW CAP_DAC_READ_SEARCH",
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    # Which in systemd 257 leaves /run as it is where the output goes to a file below it.
    "ReadOnlyPaths": "/run",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "LockPersonality": "yes",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallArchitectures": "native",
    "Environment": "LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    "WorkingDirectory": "/",
    "UMask": "0077",
    "LogLevelMax": "warning",
    "StandardInput": "null",
    "StandardError": "null",
}


def find(folders: Sequence[Path] = FOLDERS, taken: Sequence[str] = ()) -> tuple[Custom, ...]:
    """The checks that there are, in order of their names; `taken` are names that they cannot have.

    Files that nobody may execute are none. Raises CannotTell where a folder cannot be read.
    """
    found: dict[str, Custom] = {}
    for folder in folders:
        for custom in _in(folder, taken):
            found.setdefault(custom.name, custom)
    return tuple(found[name] for name in sorted(found))[:AT_MOST]


def _in(folder: Path, taken: Sequence[str]) -> Iterator[Custom]:
    try:
        files = sorted(folder.iterdir())
        trouble = _may_be_changed(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise CannotTell(f"{folder}: {error.strerror}") from error
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            mode = file.lstat().st_mode
            if not stat.S_ISDIR(mode) and mode & 0o111 and not file.name.startswith("."):
                yield _judged(file, trouble, taken)


def _judged(file: Path, trouble: str, taken: Sequence[str]) -> Custom:
    name = "".join(c if c.isprintable() else "?" for c in file.name)[:63]
    if not _NAME.fullmatch(file.name):
        return Custom(name, "its name is not one of letters, digits, dots and dashes")
    if file.name in taken:
        return Custom(f"{name}.custom", f"a check of the VM is called {file.name}")
    if not stat.S_ISREG(file.lstat().st_mode):
        return Custom(name, f"{file} is not a file")
    return Custom(name, trouble or _may_be_changed(file))


def _may_be_changed(path: Path) -> str:
    """Who but root could change what root runs here, if anybody."""
    status = path.lstat()
    if status.st_uid != 0:
        return f"{path} is not root's"
    return f"others than root may write {path}" if status.st_mode & 0o022 else ""


def run_one(name: str, level: Level, scratch: Path, folders: Sequence[Path] = FOLDERS) -> CustomRun:
    """Run a check that `find` has found, to its end or its limits. Raises CannotTell."""
    file = next((one for folder in folders if (one := folder / name).exists()), None)
    if file is None:
        raise CannotTell(f"there is no {name} any more")
    output, unit = scratch / f"{name}.out", f"sysvm-check-{name}.service"
    argv = ["systemd-run", "--wait", "--collect", f"--unit={unit}"]
    settings = {**SANDBOX, **LIMITS, "StandardOutput": f"truncate:{output}"}
    argv += [f"--property={key}={value}" for key, value in settings.items()]
    try:
        ended = run([*argv, "--", str(file), level], timeout=SECONDS + _PATIENCE, check=False)
        return outcome(ended, _read(output))
    except CommandFailed as error:
        _end(unit)
        raise CannotTell(f"systemd did not run it: {error.reason}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            output.unlink()


def _end(unit: str) -> None:
    """Have nothing of it stay, when systemd is too busy to see to that itself."""
    with contextlib.suppress(CommandFailed):
        run(["systemctl", "kill", "--signal=SIGKILL", unit], timeout=_PATIENCE)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(OUTPUT)
    except FileNotFoundError:
        return b""


def outcome(ended: Completed, output: bytes) -> CustomRun:
    """What systemd-run says of how a unit ended. Raises CannotTell where it never began."""
    said = ended.stderr.decode(errors="replace")
    result, status = _RESULT.search(said), _STATUS.search(said)
    if result is None:
        raise CannotTell(f"it could not be started: {' '.join(said.split())[-300:]}")
    how, number = (status[1], int(status[2])) if status else ("", 0)
    limit = ""
    if result[1] == "timeout":
        limit = f"it did not end within {SECONDS} s, and was killed"
    elif result[1] == "oom-kill":
        limit = f"it took more than {MEMORY} MiB of memory, and was killed"
    elif len(output) >= OUTPUT or (how in {"killed", "dumped"} and number == _XFSZ):
        limit = f"it wrote more than {OUTPUT // 1024} KiB, and was cut off"
    elif how in {"killed", "dumped"}:
        limit = f"it was killed by signal {number}"
    return CustomRun(number if how == "exited" else None, output, limit)
