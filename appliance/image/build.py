"""Builds the template: layers, then the disk by DIB, then the formats that hypervisors take.

Each stage is kept in the cache under the hash of what it was made from: a build that was
interrupted goes on where it was, and another format costs its conversion only.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import agent
from appliance import data, tools
from appliance.image import (
    block_device,
    boot_loader,
    cache,
    dib,
    file_systems,
    formats,
    initrd,
    kernel,
    locks,
    python,
    release,
    rootfs,
)
from appliance.image.formats import Format
from appliance.image.progress import Stages
from appliance.image.recipe import Recipe
from appliance.image.rootfs import Layers

DISK = "the disk"
ACCOUNTS = "manifest and bill of materials"


@dataclass(frozen=True, slots=True)
class Built:
    """A template: its layers, its raw disk in the cache, and the files that were written.

    `accounts` are the manifest and what else is written beside the image (`release`).
    """

    layers: Layers
    disk: Path
    files: dict[Format, tuple[Path, ...]]
    accounts: tuple[Path, ...]


def name() -> str:
    """What the files of this version's template are called, without a suffix."""
    return f"sysvm-{agent.__version__}-amd64"


def build(
    recipe: Recipe,
    wanted: Iterable[Format],
    output: Path,
    console: Console | None = None,
    *,
    url: str | None = None,
    sign: str | None = None,
) -> Built:
    """Write the template of this recipe to the folder `output` in these formats.

    Goes by the lock in force (`locks.held`). `url` is where `output` will be reached, `sign` the
    key that signs the checksums. Raises ApplianceError.
    """
    tools.need_root()
    wanted = tuple(dict.fromkeys(wanted))
    stages = Stages(console, (*rootfs.STAGES, DISK, *wanted, ACCOUNTS))
    layers = rootfs.layers(recipe, stages=stages)
    disk = build_disk(recipe, layers, stages)
    files = {}
    made = formats.write_all(disk, wanted, output, name(), epoch=layers.lock.epoch)
    for form in wanted:
        with stages.stage(form):
            written, paths = next(made)
        files[written] = paths
    with stages.stage(ACCOUNTS):
        own = data.recipes() / "elements"
        elements = [path for path in recipe.elements if not path.is_relative_to(own)]
        accounts = release.account(
            files, disk, layers, output, name(), url=url, sign=sign, elements=elements
        )
    return Built(layers, disk, files, accounts)


def build_disk(recipe: Recipe, layers: Layers, stages: Stages) -> Path:
    """The raw disk of this recipe, made of these layers by DIB. Raises ApplianceError."""
    key = disk_key(recipe, layers)
    kept = cache.existing("disk", key)
    if kept is None:
        with stages.stage(DISK):
            # Outside DIB, whose hooks would otherwise build it in silence.
            python.builder(recipe)
            kept = cache.make("disk", key, lambda folder: _make_disk(recipe, folder))
    else:
        stages.skip(DISK)
    return kept / f"{recipe.name}.raw"


def disk_key(recipe: Recipe, layers: Layers) -> str:
    """What the raw disk depends on."""
    code = tuple(
        Path(str(module.__file__))
        for module in (boot_loader, block_device, dib, file_systems, initrd)
    )
    settings = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith("DIB_"))
    layer_names = (layers.base.name, layers.python.name, layers.agent.name)
    parts = (*code, Path(kernel.__file__), *recipe.elements, recipe.file)
    return cache.digest(*layer_names, *parts, *recipe.extra_elements, *settings)


def _make_disk(recipe: Recipe, folder: Path) -> None:
    with locks.held(recipe):
        dib.build(recipe, folder)
