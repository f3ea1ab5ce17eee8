"""Debian's archive: which packages a template is made of, and where their files come from.

apt decides and downloads, against package lists that mmdebstrap sets up for us, so that the
mirrors, keys and rules are those of a build. What a build then installs from is a folder of
these very files and nothing else; every file is checked against its lock before.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from agent.system.run import CommandFailed, Completed, run
from appliance import tools
from appliance.errors import ApplianceError
from appliance.image import cache, checksums, steps
from appliance.image.deb822 import paragraphs

SUITE = "trixie"
ARCHITECTURE = "amd64"
_TIMEOUT = 1800.0  # seconds; a minute with a near mirror


@dataclass(frozen=True, slots=True, order=True)
class Deb:
    """A package's file in the archive; `size` is in bytes."""

    name: str
    version: str
    architecture: str
    sha256: str
    size: int

    @property
    def file(self) -> str:
        """The file's name, as apt writes it."""
        version = self.version.replace(":", "%3a")
        return f"{self.name}_{version}_{self.architecture}.deb"


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


class Lists:
    """The archive's package lists as they are now, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        """Fetch the lists into the new `folder`. Raises ApplianceError."""
        tools.need_root()
        tools.need("mmdebstrap", "setpriv", "unshare")
        if shutil.which("apt-get") is None:
            raise ApplianceError("apt is not here", "build on Debian or Ubuntu")
        argv = [
            *steps.confined(),
            *("mmdebstrap", "--variant=custom", "--mode=root"),
            f"--architectures={ARCHITECTURE}",
            "--skip=cleanup/apt,cleanup/mmdebstrap",
            SUITE,
            str(folder),
            *mirrors(),
        ]
        try:
            run(argv, timeout=_TIMEOUT, env=tools.passed_on())
        except CommandFailed as error:
            raise unreachable(error) from error
        self._folder = folder

    def resolve(self, packages: Sequence[str]) -> tuple[Deb, ...]:
        """The newest files of Debian's essential packages, apt, these, and what they need."""
        wanted = ("install", "--print-uris", "?essential", "apt", *packages)
        try:
            printed = self._apt("apt-get", "-qq", "--yes", *wanted).text
        except CommandFailed as error:
            raise ApplianceError(
                f"Debian {SUITE} cannot install these packages together: {said(error)}",
                "look at the names in the elements' package-list",
            ) from error
        return self._printed(printed)

    def alone(self, packages: Sequence[str]) -> tuple[Deb, ...]:
        """The newest files of these packages, and nothing that they need. Raises ApplianceError."""
        if not packages:
            return ()
        try:
            return self._printed(
                self._apt("apt-get", "-qq", "download", "--print-uris", *packages).text
            )
        except CommandFailed as error:
            raise ApplianceError(
                f"Debian {SUITE} does not have these packages: {said(error)}",
                "look at the names in the elements' package-list-bare",
            ) from error

    def _printed(self, printed: str) -> tuple[Deb, ...]:
        """The files that apt-get prints: 'URI' NAME_VERSION_ARCHITECTURE.deb SIZE HASH."""
        files = (line.split(" ")[1] for line in printed.splitlines() if line.startswith("'"))
        names = [unquote(file).removesuffix(".deb").split("_") for file in files]
        known = self._known([f"{name}={version}" for name, version, _ in names])
        return tuple(sorted(known[name, version] for name, version, _ in names))

    def download(self, debs: Sequence[Deb], folder: Path) -> None:
        """Fetch these files into `folder`. Raises ApplianceError, naming each that is gone."""
        known = self._known([deb.name for deb in debs])
        gone = [deb for deb in debs if known.get((deb.name, deb.version)) != deb]
        if gone:
            listed = ", ".join(f"{deb.name} {deb.version}" for deb in gone)
            raise ApplianceError(
                f"the archive no longer has what the lock names: {listed}",
                "give the folder of the kept files with --debs, or make a new lock",
            )
        names = [f"{deb.name}={deb.version}" for deb in debs]
        try:
            self._apt("apt-get", "-qq", "download", *names, cwd=folder)
        except CommandFailed as error:
            raise unreachable(error) from error

    def _known(self, names: Sequence[str]) -> Mapping[tuple[str, str], Deb]:
        # A name that is not in the lists at all is an error to apt-cache; what is left says it.
        shown = self._apt("apt-cache", "show", *names, check=False).text
        found = (
            Deb(
                fields["Package"],
                fields["Version"],
                fields["Architecture"],
                fields["SHA256"],
                int(fields["Size"]),
            )
            for fields in paragraphs(shown)
        )
        return {(deb.name, deb.version): deb for deb in found}

    def _apt(
        self, program: str, *arguments: str, cwd: Path | None = None, check: bool = True
    ) -> Completed:
        settings = {
            "Dir": self._folder,
            "Dir::State::status": self._folder / "var/lib/dpkg/status",
            "APT::Architecture": ARCHITECTURE,
            "APT::Architectures::": ARCHITECTURE,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
        }
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        return run(
            [program, *options, *arguments],
            timeout=_TIMEOUT,
            env=tools.passed_on(),
            cwd=cwd,
            check=check,
        )


def fetch(debs: Iterable[Deb], kept: Path | None = None) -> Mapping[Deb, Path]:
    """Where these files are: in `kept`, or in our cache, downloaded if they have to be.

    Each is what the lock says, to the bit. Raises ApplianceError; what a damaged file is called,
    or which files can no longer be had.
    """
    pool = cache.folder() / "debs"
    pool.mkdir(parents=True, exist_ok=True)
    folders = [folder for folder in (kept, pool) if folder is not None]
    wanted = sorted(set(debs))
    found = {deb: path for deb in wanted for path in _found(deb, folders)[:1]}
    missing = [deb for deb in wanted if deb not in found]
    if missing:
        stamp = cache.digest(os.urandom(16))

        def download(folder: Path) -> None:
            try:
                lists = Lists(folder / "lists")
            except ApplianceError as error:
                names = ", ".join(f"{deb.name} {deb.version}" for deb in missing)
                where = f"not in {kept}" if kept else "not in the cache"
                raise ApplianceError(f"{error.what}; {where}: {names}", error.hint) from error
            lists.download(missing, folder)

        fresh = cache.make("download", stamp, download)
        try:
            for deb in missing:
                check(fresh / deb.file, deb.sha256)
                found[deb] = (fresh / deb.file).replace(pool / deb.file)
        finally:
            cache.forget("download", stamp)
    return found


def _found(deb: Deb, folders: Iterable[Path]) -> list[Path]:
    paths = [folder / deb.file for folder in folders if (folder / deb.file).is_file()]
    for path in paths[:1]:
        check(path, deb.sha256)
    return paths


def check(path: Path, sha256: str) -> None:
    """Raise ApplianceError unless this is the SHA-256 of the file."""
    if checksums.sha256(path) != sha256:
        raise ApplianceError(f"{path} is not the file that the lock names", "remove it")


def repository(debs: Mapping[Deb, Path], folder: Path) -> None:
    """Make the empty `folder` an archive of these files alone, for apt and mmdebstrap."""
    stanzas = []
    for deb, path in sorted(debs.items()):
        # apt trips over the percent sign of an epoch in a file's name.
        name = f"{deb.sha256}.deb"
        _link(path, folder / name)
        control = run(["dpkg-deb", "--field", str(path)], timeout=60).text.strip()
        stanzas.append(f"{control}\nFilename: ./{name}\nSize: {deb.size}\nSHA256: {deb.sha256}\n")
    (folder / "Packages").write_text("\n".join(stanzas))
    (folder / "Release").write_text(f"Suite: {SUITE}\nCodename: {SUITE}\n")


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # another file system
        shutil.copyfile(path, target)


def unreachable(error: CommandFailed) -> ApplianceError:
    """What to say when the archive cannot be used."""
    return ApplianceError(
        f"Debian {SUITE} could not be fetched: {said(error)}",
        "if a mirror does not answer, set SYSVM_MIRROR and SYSVM_SECURITY_MIRROR to ones that "
        "do (an empty SYSVM_SECURITY_MIRROR leaves security updates out)",
    )


def said(error: CommandFailed) -> str:
    """The last errors that apt or mmdebstrap told."""
    lines = error.stderr.decode(errors="replace").splitlines()
    of_dpkg = [line for line in lines if line.startswith("dpkg: error")]
    telling = [line for line in lines if line.startswith(("E:", "Err:", "W: Failed"))]
    return " ".join([*of_dpkg[:2], *telling[-4:]]) or error.reason
