"""The bill of materials: every package in the image, in CycloneDX 1.6.

The library writes the format; this says which packages, under which licences, and which needs
which. The document depends on its arguments alone: no random number, no time of day.
"""

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.contact import OrganizationalEntity
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.spdx import fixup_id, is_expression, is_supported_id
from packageurl import PackageURL

from appliance.image.contents import Contents, DebianPackage, PythonPackage

VERSION = SchemaVersion.V1_6
_NAMESPACE = uuid.UUID("0d4c3c0e-0c44-5e0f-9e4b-2f1ac6a5f2d6")
_DISTRIBUTION = "debian-13"

# Debian's short names that are not SPDX's. Versions of the GNU licences follow a rule, below.
_SPDX = {
    "expat": "MIT",
    "mit license": "MIT",
    "bsd-2-clauses": "BSD-2-Clause",
    "zlib/libpng": "Zlib",
    "boost-1.0": "BSL-1.0",
    "apache-2": "Apache-2.0",
    "openldap-2.8": "OLDAP-2.8",
    "psf-2": "PSF-2.0",
    "artistic": "Artistic-1.0-Perl",
    "cc0": "CC0-1.0",
}


def render(
    contents: Contents,
    *,
    name: str,
    version: str,
    digest: str,
    epoch: int,
    hashes: Mapping[str, str] | None = None,
) -> str:
    """The bill of materials of an image, as CycloneDX JSON.

    `digest` is the SHA-256 of the root file system's archive, `epoch` the document's time in
    seconds since 1970, `hashes` the SHA-256 of packages' files by "NAME=VERSION".
    """
    known = hashes or {}
    image = Component(
        name=name,
        version=version,
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref="image",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
    )
    debian = {package.name: _debian(package, known) for package in contents.debian}
    python = {package.name: _python(package, known) for package in contents.python}
    parts = [*debian.values(), *python.values()]
    bom = Bom(components=parts, serial_number=uuid.uuid5(_NAMESPACE, f"{name}:{version}:{digest}"))
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    bom.metadata.component = image
    bom.register_dependency(image, parts)
    for package in contents.debian:
        bom.register_dependency(debian[package.name], _of(debian, package.needs))
    for distribution in contents.python:
        needed = _of(python, distribution.needs)
        interpreter = [debian["python3"]] if "python3" in debian else []
        bom.register_dependency(python[distribution.name], [*needed, *interpreter])
    written = make_outputter(bom, OutputFormat.JSON, VERSION).output_as_string(indent=1)
    return f"{written}\n"


def _of(components: Mapping[str, Component], names: Iterable[str]) -> list[Component]:
    return [components[name] for name in names]


def _debian(package: DebianPackage, hashes: Mapping[str, str]) -> Component:
    qualifiers = {"arch": package.architecture, "distro": _DISTRIBUTION}
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"deb:{package.name}",
        purl=PackageURL("deb", "debian", package.name, package.version, qualifiers),
        supplier=OrganizationalEntity(name=package.maintainer) if package.maintainer else None,
        licenses=_licences(package.licences),
        hashes=_hashes(hashes, package.name, package.version),
        external_references=_website(package.homepage),
    )


def _python(package: PythonPackage, hashes: Mapping[str, str]) -> Component:
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"pypi:{package.name}",
        purl=PackageURL("pypi", None, package.name, package.version),
        licenses=_declared(package.licence),
        hashes=_hashes(hashes, package.name, package.version),
        external_references=_website(package.homepage),
    )


def _hashes(hashes: Mapping[str, str], name: str, version: str) -> list[HashType]:
    found = hashes.get(f"{name}={version}")
    return [HashType(alg=HashAlgorithm.SHA_256, content=found)] if found else []


def _website(url: str) -> list[ExternalReference]:
    if not url:
        return []
    return [ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri(url))]


def _licences(names: tuple[str, ...]) -> list[DisjunctiveLicense]:
    """By SPDX identifier where there is one, else by the name that the package gives."""
    licences = {spdx(part) for name in names for part in _alternatives(name)}
    return [_licence(name) for name in sorted(licences)]


def _declared(licence: str) -> list[DisjunctiveLicense | LicenseExpression]:
    """What a distribution of Python declares: "A OR B" stays the choice that it is."""
    name = spdx(licence)
    if name and not is_supported_id(name) and is_expression(name):
        return [LicenseExpression(name)]
    return [_licence(name)] if name else []


def _licence(name: str) -> DisjunctiveLicense:
    return DisjunctiveLicense(id=name) if is_supported_id(name) else DisjunctiveLicense(name=name)


def _alternatives(name: str) -> list[str]:
    # "GPL-2+ or Artistic", "A and/or B": which of them holds for what, the copyright file says.
    for joiner in (" and/or ", " or ", " and ", " OR ", " AND ", ", "):
        name = name.replace(joiner, "\n")
    return [part.strip() for part in name.split("\n") if part.strip()]


def spdx(name: str) -> str:
    """Debian's short name of a licence in SPDX's words, where they have one."""
    lower = name.lower()
    if lower in _SPDX:
        return _SPDX[lower]
    for family in ("AGPL", "LGPL", "GFDL", "GPL"):
        version = lower.removeprefix(family.lower()).lstrip("-v")
        if (
            not lower.startswith(family.lower())
            or not version.rstrip("+").replace(".", "").isdigit()
        ):
            continue
        number = version.rstrip("+")
        kind = "or-later" if version.endswith("+") else "only"
        full = f"{family}-{number if '.' in number else f'{number}.0'}-{kind}"
        if is_supported_id(full):
            return full
    return fixup_id(name) or name
