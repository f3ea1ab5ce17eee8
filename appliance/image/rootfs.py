"""The template's root file system, as layers to be laid over each other.

Three layers, each named after what it was made from: Debian's packages, the Python environment,
the agent. Editing the agent rebuilds the last one, in about a second.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from appliance import tools
from appliance.image import agent, base, cache, python, steps


@dataclass(frozen=True, slots=True)
class Layers:
    """Read-only folders; `lowers` is how an overlay mount wants them, topmost first."""

    base: Path
    python: Path
    agent: Path

    @property
    def lowers(self) -> tuple[Path, ...]:
        return (self.agent, self.python, self.base)


def layers(*, fresh: bool = False, console: Console | None = None) -> Layers:
    """The root file system's layers, built where the cache does not have them.

    `fresh` builds Debian's packages again, to have the newest ones. Raises ApplianceError.
    """
    tools.need_root()
    if fresh:
        cache.forget("base", base.key())
    debian = _layer("base", base.key(), "Debian's packages", base.build, console)
    environment = _layer("python", python.key(), "the Python environment", python.build, console)

    def build_agent(folder: Path) -> None:
        scratch = folder / "scratch"
        steps.in_private_mounts("agent", environment, debian, scratch)
        for path in (scratch / "upper").iterdir():
            # A chroot's programs touch /dev, /run and /tmp; none of it is the agent's.
            if path.name in ("etc", "opt", "usr", "var"):
                path.rename(folder / path.name)
        shutil.rmtree(scratch)

    name = cache.digest(agent.key(), debian.name, environment.name)
    return Layers(debian, environment, _layer("agent", name, "the agent", build_agent, console))


def _layer(
    kind: str, name: str, words: str, build: Callable[[Path], None], console: Console | None
) -> Path:
    made = cache.existing(kind, name)
    if made is not None:
        return made
    with _told(words, console):
        return cache.make(kind, name, build)


@contextmanager
def _told(words: str, console: Console | None) -> Iterator[None]:
    if console is None:
        yield
        return
    with console.status(f"building {words} …"):
        yield
    console.print(f"built {words}")
