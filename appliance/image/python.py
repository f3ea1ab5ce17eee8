"""The agent's Python environment: locked, hashed, compiled, and without pip.

The host resolves and downloads for the VM's Python; the environment is put together without a
network, inside a throw-away trixie that has the compiler which one package needs.
"""

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from agent.system.run import CommandFailed, run
from appliance import data, tools
from appliance.errors import ApplianceError
from appliance.image import base, cache, steps

VERSION = "3.13"  # Debian trixie's
PREFIX = Path("opt/sysvm")  # the environment's place, below the root
SITE_PACKAGES = PREFIX / f"lib/python{VERSION}/site-packages"
SOURCES = ("python-iptables",)  # what has no wheel, for any Python

_DOWNLOAD_TIMEOUT = 600.0
_PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in (41, 39, 36, 34, 31, 28, 17)),
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"),
)


def lock_file() -> Path:
    """Where the versions and hashes are kept."""
    return data.recipes() / "python.lock"


def key() -> str:
    """What the environment's layer depends on."""
    recipes = data.recipes()
    return cache.digest(
        Path(__file__), Path(steps.__file__), lock_file(), recipes / "builder-packages"
    )


def build(folder: Path) -> None:
    """Fill the empty `folder` with an overlay layer that holds nothing but /opt/sysvm."""
    lock = lock_file()
    wheels = cache.make("wheels", cache.digest(Path(__file__), lock), _download_locked)
    scratch = folder.with_name(f".partial-{folder.name}-scratch")
    try:
        steps.in_private_mounts("venv", builder(), wheels, scratch)
        (folder / PREFIX).parent.mkdir()
        (scratch / "upper" / PREFIX).rename(folder / PREFIX)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def builder() -> Path:
    """A trixie root file system with what builds the environment and the boot loader."""
    packages = data.recipes() / "builder-packages"
    return cache.make(
        "builder",
        cache.digest(Path(base.__file__), packages, *base.mirrors()),
        lambda root: base.bootstrap(root, base.listed(packages)),
    )


def refresh_lock() -> tuple[str, ...]:
    """Resolve the newest versions that the list of packages allows, and write the lock.

    Returns the pinned packages. Markers are evaluated by the Python that runs this, so that the
    environment is checked for completeness when it is built.
    """
    wanted = base.listed(data.recipes() / "python-packages")
    names = tuple(entry for entry in wanted if not entry.startswith(SOURCES))
    sources = tuple(entry for entry in wanted if entry.startswith(SOURCES))

    def fetch(folder: Path) -> None:
        _download([*names], folder)
        _download_sources(sources, folder)

    stamp = cache.digest(os.urandom(16))
    folder = cache.make("resolve", stamp, fetch)
    try:
        pins = sorted(pin(file) for file in folder.iterdir())
    finally:
        cache.forget("resolve", stamp)
    head = (
        "# Made by `sysvm image lock` from python-packages: versions and hashes, for Python 3.13.\n"
    )
    lock_file().write_text(head + "".join(f"{pin}\n" for pin in pins))
    return tuple(pin.partition(" ")[0] for pin in pins)


def _download_locked(folder: Path) -> None:
    lines = [line for line in lock_file().read_text().splitlines() if not line.startswith("#")]
    wheels = folder / "wheels.lock"
    sources = folder / "sources.lock"
    wheels.write_text("".join(f"{line}\n" for line in lines if not line.startswith(SOURCES)))
    sources.write_text("".join(f"{line}\n" for line in lines if line.startswith(SOURCES)))
    _download(["--require-hashes", "-r", str(wheels)], folder)
    _download_sources(["--require-hashes", "-r", str(sources)], folder)
    wheels.unlink()
    sources.unlink()


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
            timeout=_DOWNLOAD_TIMEOUT,
            env=tools.passed_on(),
        )
    except CommandFailed as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        errors = [line for line in said if line.startswith("ERROR")]
        raise ApplianceError(
            f"the agent's Python packages could not be downloaded: {' '.join(errors or said[-3:])}",
            "check that pip reaches its index (pip's own settings and PIP_* variables are used)",
        ) from error


def pin(file: Path) -> str:
    """A line of the lock, for this downloaded file."""
    # A wheel's name is NAME-VERSION-…, a source's NAME-VERSION.tar.gz.
    name, version = re.fullmatch(
        r"(.+?)-(\d[^-]*?)(?:-.*\.whl|\.tar\.gz|\.zip)", file.name
    ).groups()  # type: ignore[union-attr]  # pip itself named it
    normal = re.sub(r"[-_.]+", "-", name).lower()
    return f"{normal}=={version} --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
