"""The steps of a build that need mounts: each runs in a process with mounts of its own.

The process is started by unshare(1): whatever becomes of it, or of us, its mounts go with it,
and the host never sees them.
"""

import ctypes
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.system.run import run
from appliance.image import wheels

TIMEOUT = 300.0

# Without docstrings, which are 3 MiB of the agent's memory that nothing in the VM reads.
_COMPILE = ("-m", "compileall", "-q", "-o", "2", "--invalidation-mode", "unchecked-hash")


def confined(*options: str) -> tuple[str, ...]:
    """What goes before a command so that its mounts and processes end with it, and it with us.

    `options` are further ones of unshare(1).
    """
    own = ("--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc")
    return ("setpriv", "--pdeathsig=KILL", "unshare", *own, *options)


def in_private_mounts(step: str, *arguments: Path | str, epoch: int = 0) -> None:
    """Run one of this module's steps in a process that has mounts of its own.

    What a step makes depends on its arguments and on `epoch`, in seconds since 1970.
    """
    source = Path(__file__).resolve().parents[2]
    run(
        [*confined(), sys.executable, "-m", __name__, step, *map(str, arguments)],
        timeout=TIMEOUT,
        env={"PYTHONPATH": str(source), "SOURCE_DATE_EPOCH": str(epoch)},
    )


def venv(builder: Path, wheels: Path, scratch: Path) -> None:
    """Make /opt/sysvm over the builder's root; it comes to lie in `scratch`/upper."""
    root = overlay((builder,), scratch)
    (root / "wheels").mkdir()
    mount(wheels, root / "wheels", flags=_MS_BIND)
    mount("proc", root / "proc", "proc")
    # No network: what the lock does not name must not get in.
    chroot = ("unshare", "--net", "chroot", str(root))
    run([*chroot, "python3", "-m", "venv", "--system-site-packages", "/build"], timeout=TIMEOUT)
    pip = ("/build/bin/python3", "-m", "pip")
    offline = ("--no-index", "--no-deps", "--quiet", "--disable-pip-version-check")
    sources = [f"/wheels/{path.name}" for path in wheels.glob("*.tar.gz")]
    built = ("wheel", *offline, "--no-build-isolation", "--wheel-dir", "/built")
    # Debugging information would name pip's temporary folder.
    env = {"SOURCE_DATE_EPOCH": os.environ["SOURCE_DATE_EPOCH"], "CFLAGS": "-g0"}
    run([*chroot, *pip, *built, *sources], timeout=TIMEOUT, env=env)
    run([*chroot, "python3", "-m", "venv", "--without-pip", "/opt/sysvm"], timeout=TIMEOUT)
    names = [f"/wheels/{path.name}" for path in wheels.glob("*.whl")]
    names += [f"/built/{path.name}" for path in (root / "built").glob("*.whl")]
    into = ("--python", "/opt/sysvm/bin/python3")
    run(
        [*chroot, *pip, *into, "install", *offline, "--no-compile", *sorted(names)], timeout=TIMEOUT
    )
    said = run([*chroot, *pip, *into, "check"], timeout=TIMEOUT, check=False)
    if missing := unmet(said.text) or said.stderr.decode(errors="replace").strip():
        raise RuntimeError(f"the agent's Python packages do not fit together: {missing}")
    for tests in (root / "opt/sysvm/lib").glob("python*/site-packages/*/tests"):
        run(["rm", "-r", str(tests)], timeout=TIMEOUT)
    run([*chroot, "/opt/sysvm/bin/python3", *_COMPILE, "/opt/sysvm/lib"], timeout=TIMEOUT)
    for compiled in (root / "opt/sysvm/lib").rglob("*.opt-2.pyc"):
        # Under the name that an interpreter without options looks for.
        compiled.rename(compiled.with_name(compiled.name.replace(".opt-2.pyc", ".pyc")))


def unmet(said: str) -> str:
    """What pip's check complains of, apart from what those lack that are wanted alone."""
    lines = (line for line in said.splitlines() if line != "No broken requirements found.")
    return "; ".join(line for line in lines if not line.startswith(wheels.ALONE))


def agent(venv_layer: Path, base_layer: Path, scratch: Path) -> None:
    """Install the agent over the other layers; what it adds comes to lie in `scratch`/upper."""
    from appliance.image.agent import install_agent

    root = overlay((venv_layer, base_layer), scratch)
    install_agent(root)


def merge(target: Path, *lowers: Path) -> None:
    """Copy the root file system that these layers make, topmost first, into `target`."""
    scratch = Path(tempfile.mkdtemp(prefix="sysvm-merge-"))
    try:
        mount("overlay", scratch, "overlay", options=f"lowerdir={':'.join(map(str, lowers))}")
        run(["cp", "-a", f"{scratch}/.", str(target)], timeout=TIMEOUT)
        unmount(scratch)
    finally:
        scratch.rmdir()


def archive(folder: Path, *lowers: Path) -> None:
    """Write the archive of the root file system that these layers make, topmost first."""
    from appliance.image import root_archive

    with _merged(lowers) as root:
        root_archive.write(root, folder, int(os.environ["SOURCE_DATE_EPOCH"]))


def account(folder: Path, *lowers: Path) -> None:
    """Write what can be said of that archive, without keeping it."""
    from appliance.image import root_archive

    with _merged(lowers) as root:
        root_archive.write_account(root, folder, int(os.environ["SOURCE_DATE_EPOCH"]))


def settle(disk: Path) -> None:
    """Lay out the file systems of this raw disk anew (`file_systems`)."""
    from appliance.image import file_systems

    file_systems.settle_in_place(disk, int(os.environ["SOURCE_DATE_EPOCH"]))


@contextmanager
def _merged(lowers: Sequence[Path]) -> Iterator[Path]:
    """The root file system that these layers make, topmost first, to be read."""
    scratch = Path(tempfile.mkdtemp(prefix="sysvm-merged-"))
    try:
        mount("overlay", scratch, "overlay", options=f"lowerdir={':'.join(map(str, lowers))}")
        yield scratch
        unmount(scratch)
    finally:
        scratch.rmdir()


def overlay(lowers: tuple[Path, ...], scratch: Path) -> Path:
    """Mount these layers, topmost first, with `scratch`/upper above them; the merged folder."""
    upper, work, merged = (scratch / name for name in ("upper", "work", "merged"))
    for folder in (upper, work, merged):
        folder.mkdir(parents=True)
    options = f"lowerdir={':'.join(map(str, lowers))},upperdir={upper},workdir={work}"
    mount("overlay", merged, "overlay", options=options)
    return merged


_MS_BIND = 4096
_LIBC = ctypes.CDLL(None, use_errno=True)


def mount(
    source: Path | str, target: Path, kind: str = "none", *, flags: int = 0, options: str = ""
) -> None:
    """mount(2)."""
    arguments = [os.fsencode(source), os.fsencode(target), kind.encode()]
    if _LIBC.mount(*arguments, ctypes.c_ulong(flags), options.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot mount {kind}: {os.strerror(number)}", str(target))


def unmount(target: Path) -> None:
    """umount2(2)."""
    if _LIBC.umount2(os.fsencode(target), 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot unmount: {os.strerror(number)}", str(target))


_STEPS: Mapping[str, Callable[..., None]] = {
    "venv": venv,
    "agent": agent,
    "merge": merge,
    "account": account,
    "archive": archive,
    "settle": settle,
}

if __name__ == "__main__":
    _STEPS[sys.argv[1]](*map(Path, sys.argv[2:]))
