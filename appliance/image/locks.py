"""A lock: every file that a root file system is installed from, by version and SHA-256.

Debian's archive forgets old versions, so a lock is made for a build and travels with its image;
what it names can be kept, and the image be built again from that, without a network.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from appliance import data
from appliance.errors import ApplianceError
from appliance.image import archive, cache, wheels
from appliance.image.archive import Deb
from appliance.image.recipe import Recipe, listed
from appliance.image.recipe import read as read_recipe

SCHEMA = 1
LOCK, DEBS = "SYSVM_LOCK", "SYSVM_DEBS"
"""The variables that a build's processes hand on to each other."""


@dataclass(frozen=True, slots=True)
class Lock:
    """What is installed: into the template, into the root that builds its Python, and by pip.

    `epoch`, in seconds since 1970, is the time that files made during a build carry. `python` are
    lines of python.lock.
    """

    epoch: int
    template: tuple[Deb, ...]
    builder: tuple[Deb, ...]
    python: tuple[str, ...]

    def hashes(self) -> Mapping[str, str]:
        """The SHA-256 of each package's file by "NAME=VERSION"."""
        found = {f"{deb.name}={deb.version}": deb.sha256 for deb in self.template}
        for pin in self.python:
            wanted, _, digest = pin.partition(" --hash=sha256:")
            found[wanted.replace("==", "=")] = digest
        return found


def builder_packages() -> tuple[str, ...]:
    """What builds the Python environment."""
    return listed(data.recipes() / "builder-packages")


def make(recipe: Recipe) -> Lock:
    """The newest packages of the archive that the recipe asks for, and python.lock's pins.

    The epoch is SOURCE_DATE_EPOCH, or now. Raises ApplianceError.
    """
    stamp = cache.digest(os.urandom(16))
    found: list[Lock] = []

    def resolve(folder: Path) -> None:
        lists = archive.Lists(folder / "lists")
        template = tuple(sorted({*lists.resolve(recipe.packages), *lists.alone(recipe.bare)}))
        builder = lists.resolve(builder_packages())
        found.append(Lock(_now(), template, builder, wheels.pins()))

    cache.make("resolve", stamp, resolve)
    cache.forget("resolve", stamp)
    return found[0]


@contextmanager
def held(
    recipe: Recipe, given: Path | None = None, kept: Path | None = None, *, fresh: bool = False
) -> Iterator[Lock]:
    """Have this process, and those that it starts, go by one lock: `given`, or the latest.

    Files are looked for in the folder `kept` first. Raises ApplianceError.
    """
    lock = read(given) if given else in_force(recipe)
    if fresh and not given:
        lock = latest(recipe, fresh=True)
    before = {name: os.environ.get(name) for name in (LOCK, DEBS, _EPOCH)}
    with tempfile.NamedTemporaryFile("w", prefix="sysvm-lock-", suffix=".json") as file:
        file.write(render(lock))
        file.flush()
        os.environ[LOCK] = file.name
        os.environ[_EPOCH] = str(lock.epoch)
        if kept is not None:
            os.environ[DEBS] = str(kept.resolve())
        try:
            yield lock
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def in_force(recipe: Recipe | None = None) -> Lock:
    """The lock that this build goes by: the file that SYSVM_LOCK names, or the latest."""
    given = os.environ.get(LOCK)
    return read(Path(given)) if given else latest(recipe or read_recipe())


def kept() -> Path | None:
    """The folder of kept files that SYSVM_DEBS names, if it does."""
    given = os.environ.get(DEBS)
    return Path(given) if given else None


def latest(recipe: Recipe, *, fresh: bool = False) -> Lock:
    """The lock that was last made for such a recipe; a new one if there is none, or if `fresh`."""
    lists = (
        *recipe.packages,
        "",
        *recipe.bare,
        "",
        *builder_packages(),
        "",
        *wheels.pins(),
        "",
        *archive.mirrors(),
    )
    name = cache.digest(Path(__file__), "\n".join(lists), os.environ.get(_EPOCH, ""))
    made = cache.existing("lock", name)
    if made is not None and fresh:
        before, now = read(made / _FILE), make(recipe)
        if replace(now, epoch=before.epoch) == before:
            return before
        cache.forget("lock", name)
        cache.make("lock", name, lambda folder: _write(now, folder))
        return now
    made = cache.make("lock", name, lambda folder: _write(make(recipe), folder))
    return read(made / _FILE)


def _write(lock: Lock, folder: Path) -> None:
    (folder / _FILE).write_text(render(lock))


def keep(lock: Lock, folder: Path) -> None:
    """Put every file that the lock names into `folder`. Raises ApplianceError."""
    folder.mkdir(parents=True, exist_ok=True)
    debs = archive.fetch((*lock.template, *lock.builder), folder)
    packages = wheels.fetch(lock.python, folder)
    for path in (*debs.values(), *packages.iterdir()):
        if path.parent != folder and not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)


def render(lock: Lock) -> str:
    """The lock as JSON text, a package a line."""
    document = {
        "schema": SCHEMA,
        "suite": archive.SUITE,
        "epoch": lock.epoch,
        "template": [asdict(deb) for deb in lock.template],
        "builder": [asdict(deb) for deb in lock.builder],
        "python": list(lock.python),
    }
    return _lines(document)


def _lines(document: Mapping[str, object]) -> str:
    """JSON with one line for each entry of a list, so that diff(1) shows packages."""
    parts = []
    for name, value in document.items():
        text = json.dumps(value)
        if isinstance(value, list) and value:
            entries = ",\n".join(f"    {json.dumps(entry)}" for entry in value)
            text = f"[\n{entries}\n  ]"
        parts.append(f"  {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def read(path: Path) -> Lock:
    """The lock in this file. Raises ApplianceError if it is not one."""
    try:
        document = json.loads(path.read_text())
        if (document["schema"], document["suite"]) != (SCHEMA, archive.SUITE):
            raise ApplianceError(
                f"{path} is a lock of schema {document['schema']} for {document['suite']}",
                f"this builds {archive.SUITE}, from locks of schema {SCHEMA}",
            )
        return Lock(
            int(document["epoch"]),
            _debs(document["template"]),
            _debs(document["builder"]),
            tuple(map(str, document["python"])),
        )
    except OSError as error:
        raise ApplianceError(f"the lock {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ApplianceError(
            f"{path} is not a lock ({error!r})", "`sysvm image lock` makes one"
        ) from error


def _debs(entries: Iterable[Mapping[str, object]]) -> tuple[Deb, ...]:
    return tuple(
        Deb(
            str(entry["name"]),
            str(entry["version"]),
            str(entry["architecture"]),
            str(entry["sha256"]),
            int(str(entry["size"])),
        )
        for entry in entries
    )


_EPOCH = "SOURCE_DATE_EPOCH"
_FILE = "lock.json"


def _now() -> int:
    given = os.environ.get(_EPOCH, "")
    if given and not given.isdigit():
        raise ApplianceError(f"{_EPOCH}={given} is not a number of seconds since 1970")
    return int(given) if given else int(time.time())
