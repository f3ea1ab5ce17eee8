"""What a root file system consists of: Debian's packages, Python's, and the kernel.

Read from the root file system itself, not from what was asked for.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

from appliance.errors import ApplianceError
from appliance.image.deb822 import Paragraph, paragraphs
from appliance.image.python import SITE_PACKAGES

# The database lies on the root, with what it describes; /var/lib/dpkg is a link to it.
STATUS_FILES = ("usr/lib/sysvm/dpkg/status", "var/lib/dpkg/status")


@dataclass(frozen=True, slots=True)
class DebianPackage:
    """An installed package; `needs` are the names of the installed packages that it depends on."""

    name: str
    version: str
    architecture: str
    source: str
    maintainer: str
    homepage: str
    needs: tuple[str, ...]
    licences: tuple[str, ...]  # as its copyright file names them, where that is machine-readable


@dataclass(frozen=True, slots=True)
class PythonPackage:
    """An installed distribution of the agent's environment; names are normalised (PEP 503)."""

    name: str
    version: str
    needs: tuple[str, ...]
    licence: str  # an SPDX expression, or what stands in its place; empty: it does not say
    homepage: str


@dataclass(frozen=True, slots=True)
class Contents:
    """A root file system's packages, sorted by name; `kernel` is what uname -r will say."""

    debian: tuple[DebianPackage, ...]
    python: tuple[PythonPackage, ...]
    kernel: str = ""


def read(*layers: Path) -> Contents:
    """The contents of a root file system: one folder, or layers, topmost first.

    Raises ApplianceError if there is no root file system of Debian.
    """
    found = (_first(layers, Path(name)) for name in STATUS_FILES)
    status = next((path for path in found if path is not None), None)
    if status is None:
        folders = " or ".join(map(str, layers))
        raise ApplianceError(f"{folders} is not a root file system: it has no dpkg/status")
    # Each layer adds to the folder: the environment its packages, the agent itself.
    sites = [layer / SITE_PACKAGES for layer in layers]
    kernels = [name for layer in layers for name in _kernels(layer)]
    return Contents(
        tuple(sorted(_debian(status.read_text(), layers), key=lambda package: package.name)),
        tuple(sorted(_python(sites), key=lambda package: package.name)),
        max(kernels, default=""),
    )


def _kernels(layer: Path) -> Iterator[str]:
    for path in (layer / "usr/lib/modules").glob("*/modules.builtin"):
        yield path.parent.name


def _first(layers: Sequence[Path], path: Path) -> Path | None:
    return next((layer / path for layer in layers if (layer / path).exists()), None)


# -- Debian ------------------------------------------------------------------------------------


def _debian(status: str, layers: Sequence[Path]) -> Iterator[DebianPackage]:
    installed = [
        fields
        for fields in paragraphs(status)
        if fields.get("Status", "").endswith(" ok installed")
    ]
    providers = _providers(installed)
    for fields in installed:
        needs = set(_needs(fields, providers)) - {fields["Package"]}
        copyright_file = _first(layers, Path(f"usr/share/doc/{fields['Package']}/copyright"))
        text = copyright_file.read_text(errors="replace") if copyright_file else ""
        yield DebianPackage(
            fields["Package"],
            fields["Version"],
            fields["Architecture"],
            fields.get("Source", fields["Package"]).partition(" ")[0],
            fields.get("Maintainer", ""),
            fields.get("Homepage", ""),
            tuple(sorted(needs)),
            licences(text),
        )


def _providers(installed: Sequence[Paragraph]) -> dict[str, str]:
    """Which installed package stands for a name, real or virtual."""
    found: dict[str, str] = {}
    for fields in installed:
        for provided in fields.get("Provides", "").split(","):
            found.setdefault(provided.partition("(")[0].strip(), fields["Package"])
    return found | {fields["Package"]: fields["Package"] for fields in installed}


def _needs(fields: Paragraph, providers: dict[str, str]) -> Iterator[str]:
    for relation in ("Pre-Depends", "Depends"):
        for alternatives in fields.get(relation, "").split(","):
            names = (re.split(r"[\s(:]", name.strip())[0] for name in alternatives.split("|"))
            # The first alternative that is there; that one is, is dpkg's business.
            yield from [providers[name] for name in names if name in providers][:1]


def licences(text: str) -> tuple[str, ...]:
    """The licences that a machine-readable copyright file (DEP 5) names; none if it is not one."""
    if not text.startswith("Format"):
        return ()
    found: dict[str, None] = {}
    for fields in paragraphs(text):
        if "Files" in fields or "Format" in fields:
            short = fields.get("License", "").partition("\n")[0].strip(" ,;.")
            if short:
                found[short] = None
    return tuple(found)


# -- Python ------------------------------------------------------------------------------------


def _python(sites: Sequence[Path]) -> Iterator[PythonPackage]:
    installed = [PathDistribution(path) for site in sites for path in site.glob("*.dist-info")]
    names = {normal(distribution.name) for distribution in installed}
    for distribution in installed:
        needs = (requirement for requirement in distribution.requires or ())
        # What only an extra needs was not asked for.
        needed = {normal(re.split(r"[^\w.-]", need)[0]) for need in needs if "extra ==" not in need}
        yield PythonPackage(
            normal(distribution.name),
            distribution.version,
            tuple(sorted(needed & names)),
            _licence(distribution),
            _said(distribution, "Home-page"),
        )


def _licence(distribution: Distribution) -> str:
    about = distribution.metadata
    expression = _said(distribution, "License-Expression")
    if expression:
        return expression
    for classifier in about.get_all("Classifier") or ():
        # "License :: OSI Approved :: BSD License": the last part says it.
        if classifier.startswith("License :: ") and not classifier.endswith(":: OSI Approved"):
            return str(classifier.rpartition(" :: ")[2])
    return _said(distribution, "License").partition("\n")[0].strip()


def _said(distribution: Distribution, field: str) -> str:
    """A field of its metadata; a missing one is empty."""
    values = distribution.metadata.get_all(field)
    return str(values[0]) if values else ""


def normal(name: str) -> str:
    """A distribution's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
