"""A recipe: which elements a template is made of, and what these say that it contains.

DIB reads the same file (its YAML front end), and the same elements. Besides DIB's own hooks, an
element of ours may have lists, one entry a line: `package-list`, `package-list-bare`,
`package-list-without`, `masked-units`, `left-out`, `modules`. The template has the union of each.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance import data
from appliance.errors import ApplianceError

LISTS = (
    "package-list",
    "package-list-bare",
    "package-list-without",
    "masked-units",
    "left-out",
    "modules",
)
SSH, NO_SSH = "sysvm-ssh", "sysvm-no-ssh"


def listed(path: Path) -> tuple[str, ...]:
    """The entries of a list file: one a line, `#` starts a comment. None, if it is not there."""
    if not path.exists():
        return ()
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return tuple(line for line in lines if line)


@dataclass(frozen=True, slots=True)
class Recipe:
    """The elements of a template, in order, and packages that were asked for besides."""

    name: str
    elements: tuple[Path, ...]
    file: Path
    extra_packages: tuple[str, ...] = ()
    extra_elements: tuple[str, ...] = field(default=(), compare=False)
    elements_path: tuple[Path, ...] = field(default=(), compare=False)

    @property
    def packages(self) -> tuple[str, ...]:
        """Debian's packages, sorted: the order of elements changes nothing in the template."""
        without = set(self._union("package-list-without"))
        wanted = {*self._union("package-list"), *self.extra_packages}
        return tuple(sorted(wanted - without))

    @property
    def bare(self) -> tuple[str, ...]:
        """Packages of which the files are wanted, and not what they depend on."""
        return self._union("package-list-bare")

    @property
    def masked_units(self) -> tuple[str, ...]:
        """Units that must never run."""
        return self._union("masked-units")

    @property
    def left_out(self) -> tuple[str, ...]:
        """Paths that are not unpacked from packages, and (`+` in front) exceptions to them."""
        # dpkg lets the last rule decide.
        rules = self._union("left-out")
        return tuple(sorted(rules, key=lambda rule: (rule.startswith("+"), rule)))

    @property
    def modules(self) -> tuple[str, ...]:
        """Kernel modules that stay; none means all."""
        return self._union("modules")

    @property
    def lists(self) -> tuple[str, ...]:
        """Everything that these lists say, for a digest."""
        parts = (self.packages, self.bare, self.masked_units, self.left_out, self.modules)
        return tuple("\n".join(part) for part in parts)

    def _union(self, name: str) -> tuple[str, ...]:
        entries = {entry for element in self.elements for entry in listed(element / name)}
        return tuple(sorted(entries))


def read(
    path: Path | None = None,
    *,
    elements: Sequence[str] = (),
    elements_path: Sequence[Path] = (),
    packages: Sequence[str] = (),
    ssh: bool = True,
) -> Recipe:
    """The recipe in this file (ours, by default) with further elements and packages.

    `elements_path` are folders of elements, searched before ours. Without `ssh`, the element that
    leaves SSH out takes the place of the one that has it. Raises ApplianceError.
    """
    path = path or data.recipes() / "sysvm.yaml"
    name, named = _parse(path)
    names = [*named, *elements]
    if not ssh:
        names = [NO_SSH if element == SSH else element for element in names]
        names += [] if NO_SSH in names else [NO_SSH]
    folders = (*elements_path, data.recipes() / "elements")
    found = tuple(_find(element, folders) for element in _expanded(names, folders))
    added = tuple(element for element in names if element not in named)
    return Recipe(
        name,
        tuple(element for element in found if element is not None),
        path.resolve(),
        tuple(packages),
        added,
        tuple(folder.resolve() for folder in folders),
    )


def list_files() -> tuple[Path, ...]:
    """Every list of every element of ours."""
    folder = data.recipes() / "elements"
    return tuple(path for name in LISTS for path in sorted(folder.glob(f"*/{name}")))


def from_environment() -> Recipe:
    """The recipe that DIB is building, inside one of its hooks.

    DIB has expanded the elements (IMAGE_ELEMENT); SYSVM_PACKAGES names further packages.
    """
    folders = [Path(folder) for folder in os.environ["ELEMENTS_PATH"].split(":") if folder]
    names = os.environ["IMAGE_ELEMENT"].split()
    found = (_find(name, folders) for name in names)
    packages = tuple(os.environ.get("SYSVM_PACKAGES", "").split())
    elements = tuple(path for path in found if path is not None)
    return Recipe("sysvm", elements, data.recipes() / "sysvm.yaml", packages)


def _parse(path: Path) -> tuple[str, tuple[str, ...]]:
    import yaml

    try:
        entries = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ApplianceError(f"the recipe {path} cannot be read: {error}") from error
    match entries:
        case [{"imagename": str(name), "elements": [*elements]}]:
            return name, tuple(map(str, elements))
    raise ApplianceError(
        f"the recipe {path} is not one image with a name and elements",
        "see image-recipes/sysvm.yaml, and `diskimage-builder --help` for the format",
    )


def _expanded(names: Iterable[str], folders: Sequence[Path]) -> tuple[str, ...]:
    """These elements and those that they depend on (`element-deps`), dependencies first."""
    done: dict[str, None] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in done or name in above:
            return
        path = _find(name, folders)
        for needed in _words(path / "element-deps") if path else ():
            visit(needed, (*above, name))
        done[name] = None

    for name in names:
        visit(name, ())
    return tuple(done)


def _words(path: Path) -> Iterator[str]:
    if path.exists():
        yield from path.read_text().split()


def _find(name: str, folders: Sequence[Path]) -> Path | None:
    """The element's folder; None for one of DIB's own, which say nothing that we read."""
    for folder in folders:
        if (folder / name).is_dir():
            return folder / name
    if name in _stock():
        return None
    raise ApplianceError(
        f"there is no element {name}", f"looked in {', '.join(map(str, folders))} and in DIB's own"
    )


def _stock() -> frozenset[str]:
    try:
        import diskimage_builder.paths as paths
    except ImportError:
        return frozenset()
    return frozenset(path.name for path in Path(paths.get_path("elements")).iterdir())
