"""The template's Debian packages: a trixie root file system made by mmdebstrap."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from agent.system.run import CommandFailed, run
from appliance import tools
from appliance.errors import ApplianceError
from appliance.image import cache, kernel
from appliance.image.recipe import Recipe
from appliance.image.recipe import listed as listed_in
from appliance.image.recipe import read as read_recipe

SUITE = "trixie"
listed = listed_in
BOOTSTRAP_TIMEOUT = 1800.0  # seconds; half a minute with a near mirror

DPKG_DATABASE = Path("usr/lib/sysvm/dpkg")  # on the root, with what it describes
# What a root file system that is thrown away does without.
_UNREAD = ("/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/doc/*")


def key(recipe: Recipe | None = None) -> str:
    """What the packages' layer depends on."""
    recipe = recipe or read_recipe()
    return cache.digest(Path(__file__), Path(kernel.__file__), *recipe.lists, *mirrors())


def build(root: Path, recipe: Recipe | None = None) -> None:
    """Fill the empty folder `root` with the template's packages, nothing of them started."""
    recipe = recipe or read_recipe()
    bootstrap(root, recipe.packages, recipe.left_out)
    if recipe.modules:
        kernel.prune(root, recipe.modules)
    # A host key that is in a template is everybody's.
    for host_key in (root / "etc/ssh").glob("ssh_host_*"):
        host_key.unlink()
    # The build machine's name and resolver are nobody else's business.
    (root / "etc/hostname").write_text("sysvm\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
    (root / "etc/resolv.conf").write_text("")
    for path in (root / "etc/hostname", root / "etc/resolv.conf"):
        path.chmod(0o644)
    for unit in recipe.masked_units:
        mask = root / "etc/systemd/system" / unit
        mask.unlink(missing_ok=True)
        mask.symlink_to("/dev/null")
    # Units that no file of ours names: a socket for SSH over the hypervisor's vsock.
    generators = root / "etc/systemd/system-generators"
    generators.mkdir(parents=True, exist_ok=True)
    (generators / "systemd-ssh-generator").symlink_to("/dev/null")
    preset(root, ())
    # Debian's packages enable what they ship; the preset takes it back.
    run(["chroot", str(root), "systemctl", "preset-all"], timeout=60)
    # Spares each first boot the linker's cache and the journal's catalogue, which are made here.
    for stale in (["ldconfig"], ["journalctl", "--update-catalog"]):
        run(["chroot", str(root), *stale], timeout=60)
    for stamp in ("etc/.updated", "var/.updated"):
        (root / stamp).touch()
    for leftover in ("var/cache/apt", "var/lib/apt/lists", "var/log"):
        for path in (root / leftover).rglob("*"):
            if path.is_file():
                path.unlink()
    # It describes the root file system, and so lies on it; /var is the VM's own state.
    (root / DPKG_DATABASE).parent.mkdir(parents=True, exist_ok=True)
    (root / "var/lib/dpkg").rename(root / DPKG_DATABASE)
    (root / "var/lib/dpkg").symlink_to(f"../../{DPKG_DATABASE}")


def preset(root: Path, units: tuple[str, ...]) -> None:
    """Say which units start at boot: these, and no other."""
    path = root / "usr/lib/systemd/system-preset/00-sysvm.preset"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [*(f"enable {unit}" for unit in units), "disable *"]
    path.write_text("\n".join(lines) + "\n")


def bootstrap(root: Path, packages: tuple[str, ...], left_out: tuple[str, ...] = _UNREAD) -> None:
    """Install Debian's essential packages, apt and these into the empty folder `root`.

    `left_out` are patterns of paths that are not unpacked; `+` in front makes an exception.
    """
    tools.need_root()
    tools.need("mmdebstrap", "unshare")
    if shutil.which("dpkg-deb") is None:
        raise ApplianceError("dpkg is not here", "build on Debian or Ubuntu")
    argv = [
        # Whatever becomes of it, its mounts of /proc and /dev go with its own name space.
        *("unshare", "--mount", "--propagation", "private"),
        "mmdebstrap",
        "--variant=apt",
        "--mode=root",
        "--architectures=amd64",
        f"--include={','.join(packages)}",
        *(f"--dpkgopt={_path_rule(pattern)}" for pattern in left_out),
        SUITE,
        str(root),
        *mirrors(),
    ]
    try:
        run(argv, timeout=BOOTSTRAP_TIMEOUT, env=tools.passed_on())
    except CommandFailed as error:
        raise ApplianceError(
            f"mmdebstrap could not build Debian {SUITE}: {_last_errors(error)}",
            "if a mirror does not answer, set SYSVM_MIRROR and SYSVM_SECURITY_MIRROR to ones that "
            "do (an empty SYSVM_SECURITY_MIRROR leaves security updates out)",
        ) from error


def _path_rule(pattern: str) -> str:
    kind = "include" if pattern.startswith("+") else "exclude"
    return f"path-{kind}={pattern.removeprefix('+')}"


def mirrors() -> tuple[str, ...]:
    """The package sources, as sources.list lines; none of them means mmdebstrap's own defaults.

    SYSVM_MIRROR replaces Debian's main mirror. Most mirrors carry the security suite beside it,
    under `debian-security`; SYSVM_SECURITY_MIRROR says otherwise. DIB's own names for the two,
    DIB_DISTRIBUTION_MIRROR and DIB_DEBIAN_SECURITY_MIRROR, serve where ours are not set.
    """
    return tuple(_mirrors())


def _mirrors() -> Iterator[str]:
    main = _setting("SYSVM_MIRROR", "DIB_DISTRIBUTION_MIRROR", "").rstrip("/")
    if not main:
        return
    beside = f"{main.removesuffix('/debian')}/debian-security"
    names = ("SYSVM_SECURITY_MIRROR", "DIB_DEBIAN_SECURITY_MIRROR")
    security = _setting(*names, beside).rstrip("/")
    yield f"deb {main} {SUITE} main"
    yield f"deb {main} {SUITE}-updates main"
    if security:
        yield f"deb {security} {SUITE}-security main"


def _setting(ours: str, dibs: str, default: str) -> str:
    return os.environ.get(ours, os.environ.get(dibs, default))


def _last_errors(error: CommandFailed) -> str:
    lines = error.stderr.decode(errors="replace").splitlines()
    telling = [line for line in lines if line.startswith(("E:", "Err:", "W: Failed"))]
    return " ".join(telling[-4:]) or error.reason
