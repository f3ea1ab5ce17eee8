"""The template's Debian packages: a trixie root file system made by mmdebstrap."""

import shutil
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from agent.system.run import CommandFailed, run
from appliance import tools
from appliance.errors import ApplianceError
from appliance.image import archive, cache, kernel, locks, steps
from appliance.image.archive import SUITE, Deb
from appliance.image.recipe import Recipe
from appliance.image.recipe import listed as listed_in
from appliance.image.recipe import read as read_recipe

listed = listed_in
BOOTSTRAP_TIMEOUT = 1800.0  # seconds; half a minute with a near mirror

DPKG_DATABASE = Path("usr/lib/sysvm/dpkg")  # on the root, with what it describes
# What a root file system that is thrown away does without.
_UNREAD = ("/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/doc/*")


# They would make units that no file of ours names, and each costs a process at boot.
_MASKED_GENERATORS = (
    "debug",  # a shell without a password, for who edits the kernel's command line
    "getty",  # log-in prompts, where nobody can log in
    "gpt-auto",  # mounts whatever partitions look like somebody's
    "hibernate-resume",
    "rc-local",
    "run",
    "ssh",  # a socket for SSH over the hypervisor's vsock
    "system-update",
    "sysv",
    "tpm2",
)
# What is of no use in the template, or would make each build another.
_LEFTOVERS = (
    "etc/*-",
    "etc/.pwd.lock",
    "var/backups/**/*",
    "var/cache/apt/**/*",
    "var/cache/debconf/*-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/apt/lists/**/*",
    "var/lib/dpkg/*-old",
    "var/lib/dpkg/lock*",
    "var/lib/systemd/random-seed",
    "var/log/**/*",
)
_QUICK = "force-unsafe-io"  # a build that is cut short is thrown away
_FILE_MIRROR = "/usr/share/mmdebstrap/hooks/file-mirror-automount"  # part of mmdebstrap


def key(recipe: Recipe | None = None) -> str:
    """What the packages' layer depends on."""
    recipe = recipe or read_recipe()
    lock = locks.in_force(recipe)
    code = (Path(__file__), Path(kernel.__file__))
    return cache.digest(*code, *recipe.lists, str(lock.epoch), *map(repr, lock.template))


def build(root: Path, recipe: Recipe | None = None) -> None:
    """Fill the empty folder `root` with the template's packages, nothing of them started."""
    recipe = recipe or read_recipe()
    lock = locks.in_force(recipe)
    bootstrap(root, recipe.packages, lock.template, lock.epoch, recipe.left_out, recipe.bare)
    if recipe.modules:
        kernel.prune(root, recipe.modules)
    # A host key that is in a template is everybody's.
    for host_key in (root / "etc/ssh").glob("ssh_host_*"):
        host_key.unlink()
    # The build machine's name and resolver are nobody else's business.
    (root / "etc/hostname").write_text("sysvm\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
    (root / "etc/hostname").chmod(0o644)
    # Written at boot, with whom the boot configuration names.
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").symlink_to("/run/sysvm/resolv.conf")
    for unit in recipe.masked_units:
        mask = root / "etc/systemd/system" / unit
        mask.unlink(missing_ok=True)
        mask.symlink_to("/dev/null")
    generators = root / "etc/systemd/system-generators"
    generators.mkdir(parents=True, exist_ok=True)
    for name in _MASKED_GENERATORS:
        (generators / f"systemd-{name}-generator").symlink_to("/dev/null")
    preset(root, ())
    # Debian's packages enable what they ship; the preset takes it back.
    run(["chroot", str(root), "systemctl", "preset-all"], timeout=60)
    # Spares each first boot the linker's cache and the journal's catalogue, which are made here.
    for stale in (["ldconfig"], ["journalctl", "--update-catalog"]):
        run(["chroot", str(root), *stale], timeout=60)
    for stamp in ("etc/.updated", "var/.updated"):
        (root / stamp).touch()
    strip_privileges(root)
    for leftover in _LEFTOVERS:
        for path in sorted(root.glob(leftover)):
            if path.is_file():
                path.unlink()
    # It describes the root file system, and so lies on it; /var is the VM's own state.
    (root / DPKG_DATABASE).parent.mkdir(parents=True, exist_ok=True)
    (root / "var/lib/dpkg").rename(root / DPKG_DATABASE)
    (root / "var/lib/dpkg").symlink_to(f"../../{DPKG_DATABASE}")


def strip_privileges(root: Path) -> None:
    """Take the setuid and setgid bits from every file below `root`.

    Whoever has a shell in the VM is root; daemons, which are not, have nothing to gain by any of
    them. D-Bus's helper starts services for the bus, and here systemd does.
    """
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            path.chmod(stat.S_IMODE(mode) & 0o1777)


def preset(root: Path, units: tuple[str, ...]) -> None:
    """Say which units start at boot: these, and no other."""
    path = root / "usr/lib/systemd/system-preset/00-sysvm.preset"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [*(f"enable {unit}" for unit in units), "disable *"]
    path.write_text("\n".join(lines) + "\n")


def bootstrap(
    root: Path,
    packages: tuple[str, ...],
    debs: Iterable[Deb],
    epoch: int,
    left_out: tuple[str, ...] = _UNREAD,
    bare: tuple[str, ...] = (),
) -> None:
    """Install Debian's essential packages, apt and these into the empty folder `root`.

    They come from the files `debs`, and from nowhere else. What is made on the way carries the
    time `epoch`, in seconds since 1970, where it can. `left_out` are patterns of paths that are
    not unpacked; `+` in front makes an exception. Of the packages `bare` there are the files, which
    dpkg knows, and not what they depend on; their scripts are not run. Raises ApplianceError.
    """
    tools.need_root()
    tools.need("mmdebstrap", "setpriv", "unshare")
    if shutil.which("dpkg-deb") is None:
        raise ApplianceError("dpkg is not here", "build on Debian or Ubuntu")
    files = archive.fetch(debs, locks.kept())
    with (
        # Beside the cache, for hard links; and by a path that mmdebstrap can mount in the root.
        tempfile.TemporaryDirectory(prefix="repository-", dir=cache.folder()) as repository,
        tempfile.TemporaryDirectory(prefix="sysvm-") as neutral,
    ):
        archive.repository(files, Path(repository))
        Path(repository).chmod(0o755)
        place = Path(neutral) / "repository"
        place.symlink_to(repository)
        try:
            run(
                _mmdebstrap(root, place, packages, left_out),
                timeout=BOOTSTRAP_TIMEOUT,
                env={"SOURCE_DATE_EPOCH": str(epoch)},
            )
        except CommandFailed as error:
            raise ApplianceError(
                f"Debian {SUITE} could not be installed from what is locked: {archive.said(error)}",
                "a lock serves the packages that it was made for: `sysvm image lock` makes a new "
                "one",
            ) from error
        for deb in sorted(files):
            if deb.name in bare:
                _unpack(root, deb, files[deb])
        _forget_build(root, place)
    _check_installed(root, files)


def _mmdebstrap(
    root: Path, repository: Path, packages: tuple[str, ...], left_out: tuple[str, ...]
) -> list[str]:
    return [
        # Whatever becomes of it or of us, its mounts of /proc and /dev go, and so does it. No
        # network: what the lock does not name must not get in.
        *steps.confined("--net"),
        "mmdebstrap",
        "--variant=apt",
        "--mode=root",
        f"--architectures={archive.ARCHITECTURE}",
        f"--include={','.join(packages)}",
        *(f"--dpkgopt={_path_rule(pattern)}" for pattern in left_out),
        f"--dpkgopt={_QUICK}",
        f"--hook-dir={_FILE_MIRROR}",
        SUITE,
        str(root),
        f"deb [trusted=yes] file://{repository} ./",
    ]


def _unpack(root: Path, deb: Deb, file: Path) -> None:
    """Have the root's own dpkg unpack this file, whatever the package depends on."""
    inside = root / deb.file
    shutil.copyfile(file, inside)
    dpkg = ("chroot", str(root), "dpkg", "--force-depends")
    run([*dpkg, "--unpack", f"/{deb.file}"], timeout=60)
    inside.unlink()
    # What it would do to the system is for what it depends on to be there.
    for script in (root / "var/lib/dpkg/info").glob(f"{deb.name}.p*"):
        script.unlink()
    run([*dpkg, "--configure", deb.name], timeout=60)


def _forget_build(root: Path, repository: Path) -> None:
    """Remove what tells of the build machine, and what served the build alone."""
    # mmdebstrap's mount point for the repository.
    for folder in (repository, *repository.parents):
        inside = root / folder.relative_to("/")
        if inside == root or not inside.is_dir() or any(inside.iterdir()):
            break
        inside.rmdir()
    # The template is replaced, and not upgraded: it has no package source.
    (root / "etc/apt/sources.list").write_text("")
    options = root / "etc/dpkg/dpkg.cfg.d/99mmdebstrap"
    options.write_text(options.read_text().replace(f"{_QUICK}\n", ""))


def _check_installed(root: Path, debs: Iterable[Deb]) -> None:
    query = ("dpkg-query", f"--admindir={root / 'var/lib/dpkg'}", "--show")
    shown = run([*query, "--showformat=${Package} ${Version}\\n"], timeout=60).text
    installed = {tuple(line.split()) for line in shown.splitlines()}
    locked = {(deb.name, deb.version) for deb in debs}
    if installed != locked:
        names = ", ".join(sorted(" ".join(pair) for pair in installed ^ locked))
        raise ApplianceError(
            f"what the lock names and what was installed differ: {names}",
            "a lock serves the packages that it was made for: `sysvm image lock` makes a new one",
        )


def _path_rule(pattern: str) -> str:
    kind = "include" if pattern.startswith("+") else "exclude"
    return f"path-{kind}={pattern.removeprefix('+')}"
