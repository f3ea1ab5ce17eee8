"""What differs between two images: their packages, and their files.

An image is given as its manifest (with the listing beside it), as an archive of its root file
system, as a folder that holds one, or as a listing alone.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from appliance.errors import ApplianceError
from appliance.image import contents, listing
from appliance.image.deb822 import paragraphs
from appliance.image.listing import Entry, Listing

Packages = Mapping[str, Mapping[str, str]]
"""Versions by name, for each kind of package."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the images: its packages (None where only files are known) and its files."""

    packages: Packages | None
    files: Listing


@dataclass(frozen=True, slots=True)
class Change:
    """A package whose version differs; empty: it is not there."""

    kind: str
    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class FileChange:
    """A path that differs, and in what: "added", "removed", or some of Entry's fields."""

    path: str
    what: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """All that differs; nothing does if it is false."""

    packages: tuple[Change, ...]
    files: tuple[FileChange, ...]

    def __bool__(self) -> bool:
        return bool(self.packages or self.files)

    def as_json(self) -> str:
        """The difference as a JSON object."""
        return json.dumps(asdict(self), indent=2) + "\n"


def diff(before: Side, after: Side) -> Difference:
    """What has to change in one image to make the other."""
    return Difference(tuple(_packages(before, after)), tuple(_files(before.files, after.files)))


def _packages(before: Side, after: Side) -> Iterator[Change]:
    if before.packages is None or after.packages is None:
        return
    for kind in sorted({*before.packages, *after.packages}):
        one, other = before.packages.get(kind, {}), after.packages.get(kind, {})
        for name in sorted({*one, *other}):
            if one.get(name) != other.get(name):
                yield Change(kind, name, one.get(name, ""), other.get(name, ""))


_ASPECTS: Mapping[str, Callable[[Entry], object]] = {
    "kind": lambda entry: entry.kind,
    "content": lambda entry: entry.content,
    "mode": lambda entry: entry.mode,
    "owner": lambda entry: entry.owner,
    "capability": lambda entry: entry.capability,
}


def _files(before: Listing, after: Listing) -> Iterator[FileChange]:
    for path in sorted({*before, *after}):
        one, other = before.get(path), after.get(path)
        if one is None or other is None:
            yield FileChange(path, ("added",) if one is None else ("removed",))
        elif one != other:
            differing = (name for name, of in _ASPECTS.items() if of(one) != of(other))
            yield FileChange(path, tuple(differing))


def tables(difference: Difference) -> Iterator[Table]:
    """The difference, to be read by people."""
    if difference.packages:
        table = Table("package", "of", "before", "after", box=None, pad_edge=False)
        for change in difference.packages:
            table.add_row(change.name, change.kind, change.before or "-", change.after or "-")
        yield table
    if difference.files:
        table = Table("file", "what differs", box=None, pad_edge=False)
        for file in difference.files:
            table.add_row(Text(f"/{file.path}"), ", ".join(file.what))
        yield table


def read(path: Path) -> Side:
    """The image that `path` stands for. Raises ApplianceError."""
    if path.is_dir():
        found = contents.read(path)
        versions = {
            "debian": {package.name: package.version for package in found.debian},
            "python": {package.name: package.version for package in found.python},
        }
        return Side(versions, listing.of_folder(path))
    if path.suffix == ".json":
        return _of_manifest(path)
    if _begins(path, listing.HEAD.encode()):
        return Side(None, listing.parse(path.read_text()))
    return Side(_of_archive(path), listing.of_archive(path))


def _of_manifest(path: Path) -> Side:
    try:
        manifest = json.loads(path.read_text())
        packages = {
            kind: {package["name"]: package["version"] for package in found}
            for kind, found in manifest["packages"].items()
        }
        beside = path.parent / manifest["root"]["listing"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ApplianceError(f"{path} is not an image's manifest ({error!r})") from error
    if not beside.is_file():
        raise ApplianceError(
            f"{beside.name}, which lists the files of {path.name}, is not beside it",
            "keep the files of a build together",
        )
    return Side(packages, listing.parse(beside.read_text()))


def _of_archive(path: Path) -> Packages | None:
    status = listing.member(path, contents.STATUS_FILES)
    if status is None:
        return None
    installed = (
        fields for fields in paragraphs(status) if fields.get("Status", "").endswith("installed")
    )
    return {"debian": {fields["Package"]: fields["Version"] for fields in installed}}


def _begins(path: Path, head: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(head)) == head
    except OSError as error:
        raise ApplianceError(f"{path} cannot be read: {error.strerror}") from error
