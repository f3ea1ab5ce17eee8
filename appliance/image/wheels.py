"""The files of the agent's Python packages: which versions, and where they come from.

pip resolves and downloads them for the VM's Python, whatever Python runs this.
"""

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from agent.system.run import CommandFailed, run
from appliance import data, tools
from appliance.errors import ApplianceError
from appliance.image import cache
from appliance.image.recipe import listed

VERSION = "3.13"  # Debian trixie's
SOURCES = ("python-iptables",)  # what has no wheel, for any Python
# What is installed without the packages that it asks for, because nothing of ours uses them.
ALONE = ("websockify",)

_TIMEOUT = 600.0
_PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in (41, 39, 36, 34, 31, 28, 17)),
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"),
)


def lock_file() -> Path:
    """Where the versions and hashes are kept."""
    return data.recipes() / "python.lock"


def pins() -> tuple[str, ...]:
    """The lines of the lock: NAME==VERSION --hash=sha256:DIGEST."""
    lines = lock_file().read_text().splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def fetch(wanted: Sequence[str], kept: Path | None = None) -> Path:
    """A folder with the file of each of these pins: from `kept`, or downloaded.

    Raises ApplianceError.
    """

    def fill(folder: Path) -> None:
        missing = set(wanted)
        for file in sorted(kept.iterdir()) if kept else ():
            if file.name.endswith(_SUFFIXES) and (found := pin(file)) in missing:
                shutil.copyfile(file, folder / file.name)
                missing.remove(found)
        if missing:
            _download_locked(sorted(missing), folder)

    return cache.make("wheels", cache.digest(Path(__file__), "\n".join(wanted)), fill)


def refresh_lock() -> tuple[str, ...]:
    """Resolve the newest versions that the list of packages allows, and write the lock.

    Returns the pinned packages. Markers are evaluated by the Python that runs this, so that the
    environment is checked for completeness when it is built.
    """
    wanted = listed(data.recipes() / "python-packages")
    names = tuple(entry for entry in wanted if not entry.startswith((*SOURCES, *ALONE)))
    alone = tuple(entry for entry in wanted if entry.startswith(ALONE))
    sources = tuple(entry for entry in wanted if entry.startswith(SOURCES))

    def fetch(folder: Path) -> None:
        _download([*names], folder)
        _download(["--no-deps", *alone], folder)
        _download_sources(sources, folder)

    stamp = cache.digest(os.urandom(16))
    folder = cache.make("resolve", stamp, fetch)
    try:
        pins = sorted(pin(file) for file in folder.iterdir())
    finally:
        cache.forget("resolve", stamp)
    head = (
        "# Made by `sysvm image lock --python` from python-packages: versions and hashes, for "
        f"Python {VERSION}.\n"
    )
    lock_file().write_text(head + "".join(f"{pin}\n" for pin in pins))
    return tuple(pin.partition(" ")[0] for pin in pins)


def _download_locked(lines: Sequence[str], folder: Path) -> None:
    sources = [line for line in lines if line.startswith(SOURCES)]
    wheels = [line for line in lines if line not in sources]
    for chosen, download in ((wheels, _download), (sources, _download_sources)):
        if chosen:
            requirements = folder / "requirements.txt"
            requirements.write_text("".join(f"{line}\n" for line in chosen))
            # Whether anything is missing is looked at when the environment is made.
            download(["--no-deps", "--require-hashes", "-r", str(requirements)], folder)
            requirements.unlink()


def _download(what: Iterable[str], folder: Path) -> None:
    target = [f"--platform={platform}" for platform in _PLATFORMS]
    abis = [f"--abi={abi}" for abi in (f"cp{VERSION.replace('.', '')}", "abi3", "none")]
    only = ["--only-binary=:all:", f"--python-version={VERSION}", "--implementation=cp"]
    _pip([*only, *target, *abis, *what], folder)


def _download_sources(what: Iterable[str], folder: Path) -> None:
    _pip(["--no-deps", "--no-binary=:all:", *what], folder)


def _pip(arguments: list[str], folder: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]
    try:
        run(
            [*argv, "--dest", str(folder), *arguments],
            timeout=_TIMEOUT,
            env=tools.passed_on(),
        )
    except CommandFailed as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        errors = [line for line in said if line.startswith("ERROR")]
        raise ApplianceError(
            f"the agent's Python packages could not be downloaded: {' '.join(errors or said[-3:])}",
            "check that pip reaches its index (pip's own settings and PIP_* variables are used), "
            "or give the folder of the kept files with --debs",
        ) from error


def pin(file: Path) -> str:
    """A line of the lock, for this downloaded file."""
    # A wheel's name is NAME-VERSION-…, a source's NAME-VERSION.tar.gz.
    name, version = re.fullmatch(
        r"(.+?)-(\d[^-]*?)(?:-.*\.whl|\.tar\.gz|\.zip)", file.name
    ).groups()  # type: ignore[union-attr]  # pip itself named it
    normal = re.sub(r"[-_.]+", "-", name).lower()
    return f"{normal}=={version} --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


_SUFFIXES = (".whl", ".tar.gz", ".zip")
