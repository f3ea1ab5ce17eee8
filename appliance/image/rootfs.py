"""The template's root file system, as layers to be laid over each other.

Three layers, each named after what it was made from: Debian's packages, the Python environment,
the agent. Editing the agent rebuilds the last one, in about a second.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from appliance import tools
from appliance.image import agent, base, cache, locks, python, steps
from appliance.image.locks import Lock
from appliance.image.progress import Stages
from appliance.image.recipe import Recipe
from appliance.image.recipe import read as read_recipe

STAGES = ("Debian's packages", "the Python environment", "the agent")


@dataclass(frozen=True, slots=True)
class Layers:
    """Read-only folders, and the lock that they were made from.

    `lowers` is how an overlay mount wants them, topmost first.
    """

    base: Path
    python: Path
    agent: Path
    lock: Lock

    @property
    def lowers(self) -> tuple[Path, ...]:
        return (self.agent, self.python, self.base)


def layers(
    recipe: Recipe | None = None,
    *,
    fresh: bool = False,
    console: Console | None = None,
    stages: Stages | None = None,
) -> Layers:
    """The root file system's layers, built where the cache does not have them.

    `fresh` asks the archive for newer packages. Raises ApplianceError.
    """
    tools.need_root()
    recipe = recipe or read_recipe()
    stages = stages or Stages(console, STAGES)
    debs, environs, code = STAGES
    if fresh:
        locks.latest(recipe, fresh=True)
    lock = locks.in_force(recipe)
    debian = _layer("base", base.key(recipe), debs, lambda root: base.build(root, recipe), stages)
    environment = _layer(
        "python",
        python.key(recipe),
        environs,
        lambda folder: python.build(folder, recipe),
        stages,
    )

    def build_agent(folder: Path) -> None:
        scratch = folder / "scratch"
        steps.in_private_mounts("agent", environment, debian, scratch, epoch=lock.epoch)
        for path in (scratch / "upper").iterdir():
            # A chroot's programs touch /dev, /run and /tmp; none of it is the agent's.
            if path.name in ("etc", "opt", "usr", "var"):
                path.rename(folder / path.name)
        shutil.rmtree(scratch)

    name = cache.digest(agent.key(), debian.name, environment.name)
    layer = _layer("agent", name, code, build_agent, stages)
    return Layers(debian, environment, layer, lock)


def _layer(kind: str, name: str, words: str, build: Callable[[Path], None], stages: Stages) -> Path:
    made = cache.existing(kind, name)
    if made is not None:
        stages.skip(words)
        return made
    with stages.stage(words):
        return cache.make(kind, name, build)
