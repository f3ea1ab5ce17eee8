"""What a build is at, and how long it will take, from how long each stage took the last time."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.text import Text

from appliance.image import cache

_UNKNOWN = 20.0  # seconds that a stage is taken for that has never been built


class Stages:
    """The stages of a build, told on a console as they come: one line for each that was built."""

    def __init__(self, console: Console | None, plan: Sequence[str]) -> None:
        self._console = console
        self._known = _remembered()
        self._left = list(plan)
        self._done = 0.0  # expected seconds of the stages that are over
        self._at: tuple[str, float] | None = None
        self._bar: Progress | None = None

    def expected(self, words: str) -> float:
        """How long this stage will take, in seconds."""
        return self._known.get(words, _UNKNOWN)

    @property
    def total(self) -> float:
        """How long all stages take that are over, under way or to come, in seconds."""
        return self._done + sum(map(self.expected, self._left))

    def completed(self, now: float) -> float:
        """How much of it is over; a stage that takes longer than expected waits at its end."""
        if self._at is None:
            return self._done
        words, since = self._at
        return self._done + min(now - since, 0.97 * self.expected(words))

    def skip(self, words: str) -> None:
        """This stage has been built before."""
        if words in self._left:
            self._left.remove(words)

    @contextmanager
    def stage(self, words: str) -> Iterator[None]:
        """Tell that this is being built, and when it is."""
        if words not in self._left:
            self._left.append(words)
        began = time.monotonic()
        self._at = (words, began)
        with self._shown(words):
            yield
        self._at = None
        self._left.remove(words)
        took = time.monotonic() - began
        self._done += self.expected(words)
        _remember(words, took)
        if self._console is not None:
            self._console.print(f"built {words} in {took:.0f} s")

    @contextmanager
    def _shown(self, words: str) -> Iterator[None]:
        if self._console is None or not self._console.is_terminal:
            yield
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}"), _Bar(self), _Left(self))
        with Progress(*columns, console=self._console, transient=True) as bar:
            bar.add_task(f"building {words} …", total=None)
            yield


class _Bar(ProgressColumn):
    """How much of the whole build is over."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self._stages = stages

    def render(self, task: Task) -> ProgressBar:  # noqa: ARG002  # rich's interface
        done = self._stages.completed(time.monotonic())
        return ProgressBar(total=self._stages.total, completed=done, width=30)


class _Left(ProgressColumn):
    """How long the rest of the build will take."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self._stages = stages

    def render(self, task: Task) -> Text:  # noqa: ARG002  # rich's interface
        left = self._stages.total - self._stages.completed(time.monotonic())
        return Text(f"{left:.0f} s left")


def _file() -> Path:
    return cache.folder() / "durations.json"


def _remembered() -> Mapping[str, float]:
    with suppress(OSError, ValueError):
        found = json.loads(_file().read_text())
        return {str(words): float(took) for words, took in found.items()}
    return {}


def _remember(words: str, took: float) -> None:
    text = json.dumps({**_remembered(), words: round(took, 1)}, indent=1)
    # It is a convenience: a build does not fail for it.
    with suppress(OSError):
        beside = _file().with_suffix(".new")
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text)
        beside.rename(_file())
