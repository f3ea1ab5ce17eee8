"""The agent's Python environment: locked, hashed, compiled, and without pip.

It is put together without a network, inside a throw-away trixie that has the compiler which one
package needs.
"""

import shutil
from pathlib import Path

from appliance.image import base, cache, locks, steps, wheels
from appliance.image.recipe import Recipe

PREFIX = Path("opt/sysvm")  # the environment's place, below the root
SITE_PACKAGES = PREFIX / f"lib/python{wheels.VERSION}/site-packages"


def key(recipe: Recipe | None = None) -> str:
    """What the environment's layer depends on."""
    lock = locks.in_force(recipe)
    return cache.digest(
        Path(__file__), Path(steps.__file__), str(lock.epoch), "\n".join(lock.python), _key(recipe)
    )


def build(folder: Path, recipe: Recipe | None = None) -> None:
    """Fill the empty `folder` with an overlay layer that holds nothing but /opt/sysvm."""
    lock = locks.in_force(recipe)
    files = wheels.fetch(lock.python, locks.kept())
    scratch = folder.with_name(f".partial-{folder.name}-scratch")
    try:
        steps.in_private_mounts("venv", builder(recipe), files, scratch, epoch=lock.epoch)
        (folder / PREFIX).parent.mkdir()
        (scratch / "upper" / PREFIX).rename(folder / PREFIX)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def builder(recipe: Recipe | None = None) -> Path:
    """A trixie root file system with what builds the environment and the boot loader."""
    lock = locks.in_force(recipe)
    return cache.make(
        "builder",
        _key(recipe),
        lambda root: base.bootstrap(root, locks.builder_packages(), lock.builder, lock.epoch),
    )


def _key(recipe: Recipe | None) -> str:
    lock = locks.in_force(recipe)
    return cache.digest(Path(base.__file__), str(lock.epoch), *map(repr, lock.builder))
