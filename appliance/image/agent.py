"""Puts the agent into a root file system: the lab's, the image's, or a running VM's.

There is one way to install it, so that what the lab boots is what the image contains.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from agent.system.run import run
from appliance import data
from appliance.image import base, cache
from appliance.image.python import PREFIX, SITE_PACKAGES

# Where each part of `systemd/` goes, below the root.
_PLACES = {
    "system": "usr/lib/systemd/system",
    "instead": "etc/systemd/system",  # of a unit that a package brings
    "tmpfiles.d": "usr/lib/tmpfiles.d",
    "sysusers.d": "usr/lib/sysusers.d",
    "sysctl.d": "usr/lib/sysctl.d",
    "rules.d": "usr/lib/udev/rules.d",
    "modules-load.d": "usr/lib/modules-load.d",
    "journald.conf.d": "usr/lib/systemd/journald.conf.d",
    "logind.conf.d": "usr/lib/systemd/logind.conf.d",
    "system.conf.d": "usr/lib/systemd/system.conf.d",
    "share": "usr/lib/sysvm",
}
_LAUNCHER = """\
#!/bin/sh
exec /{prefix}/bin/python3 -I -S /{site}/agent/cli "$@"
"""
_TEMPLATES = "agent/services/compiled"
_TIMEOUT = 120.0


def key() -> str:
    """What the agent's layer depends on, besides the layers below it."""
    code = (Path(__file__), Path(base.__file__))
    return cache.digest(*code, data.agent_source(), data.units())


def install_agent(root: Path, enter: Sequence[str] | None = None) -> None:
    """Install the agent, its units and its command below `root`.

    `root` is a root file system with the template's packages and Python. `enter` is what to put
    before a command to run it in there: chroot, unless the root is a running system's.
    """
    inside = tuple(enter) if enter is not None else ("chroot", str(root))
    site = root / SITE_PACKAGES
    fresh, package = site / ".agent-new", site / "agent"
    shutil.rmtree(fresh, ignore_errors=True)
    if data.agent_source().is_dir():
        _copy(data.agent_source(), fresh)
    # The path that tracebacks show is the final one.
    names = ("-s", f"/{SITE_PACKAGES}/.agent-new", "-p", f"/{SITE_PACKAGES}/agent")
    quick = ("-q", "-j", "0", "--invalidation-mode", "unchecked-hash")
    compiler = (*inside, f"/{PREFIX}/bin/python3", "-m", "compileall", *quick, *names)
    run([*compiler, f"/{SITE_PACKAGES}/.agent-new"], timeout=_TIMEOUT)
    # An overlay cannot rename a folder of a lower layer, so it is removed, and not moved away.
    shutil.rmtree(package, ignore_errors=True)
    fresh.rename(package)
    # The same templates give the same modules each time: sets are gone through in one order.
    python = (*inside, f"/{PREFIX}/bin/python3")
    templates = "from agent.services import compile_templates; compile_templates()"
    run([*python, "-P", "-s", "-B", "-c", templates], timeout=_TIMEOUT, env={"PYTHONHASHSEED": "0"})
    run([*python, "-m", "compileall", *quick, f"/{SITE_PACKAGES}/{_TEMPLATES}"], timeout=_TIMEOUT)
    _install_units(root)
    launcher = root / "usr/bin/sysvmctl"
    launcher.write_text(_LAUNCHER.format(prefix=PREFIX, site=SITE_PACKAGES))
    launcher.chmod(0o755)
    # The day on which an account was made is the build's epoch, where there is one.
    day = {name: value for name, value in os.environ.items() if name == "SOURCE_DATE_EPOCH"}
    run([*inside, "systemd-sysusers"], timeout=_TIMEOUT, env=day)
    run([*inside, "systemctl", "preset-all"], timeout=_TIMEOUT)


def _install_units(root: Path) -> None:
    units = data.units()
    record = root / "usr/lib/sysvm/.installed"
    # What an earlier version installed and this one does not have is gone afterwards.
    before = set(record.read_text().splitlines()) if record.exists() else set()
    now = {}
    for part, place in _PLACES.items():
        for file in _tree(units / part):
            now[f"{place}/{file.relative_to(units / part)}"] = file
    for name in before - now.keys():
        (root / name).unlink(missing_ok=True)
    for name, source in now.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target)
        target.chmod(
            0o755 if os.access(source, os.X_OK) and source.stat().st_mode & 0o111 else 0o644
        )
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text("".join(f"{name}\n" for name in sorted(now)))
    presets = units / "presets"
    base.preset(root, base.listed(presets) if presets.exists() else ())


def _tree(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def _copy(source: Path, target: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "compiled")
    shutil.copytree(source, target, ignore=ignored, copy_function=shutil.copyfile)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
