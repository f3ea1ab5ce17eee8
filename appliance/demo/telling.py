"""How the demo tells what it tries: trials in chapters, up to the first that does not go well."""

import json
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from agent.document.document import merge
from agent.system.run import CommandFailed
from appliance import data
from appliance.errors import ApplianceError
from appliance.lab import Lab
from appliance.lab.http import Response
from appliance.lab.node import Guest, NoLease
from appliance.lab.wait import TookTooLong

WIDEST = 100  # columns


class Differs(Exception):
    """What came is not what should have come."""


@dataclass(slots=True)
class Cloud:
    """The lab that the demo is shown on, and what is remembered from one trial to the next."""

    name: str
    console: Console
    generation: int = 0
    link: str = ""  # to a guest's console
    undrained: str = ""  # the revision before the load balancer's server was drained

    @property
    def lab(self) -> Lab:
        return Lab.find(self.name)

    @property
    def vm1(self) -> Guest:
        return self.lab.guests["vm1"]

    @property
    def vm2(self) -> Guest:
        return self.lab.guests["vm2"]

    def get(self, path: str) -> Any:
        """What the agent answers, over its socket."""
        answer = self.lab.vm.request("GET", path)
        expect(answer.status == 200, f"GET {path}: HTTP {answer.status}")
        return answer.json()

    def packets(self, comment: str) -> int:
        """What the rules that come from this place in the document have counted."""
        rows = self.get("/v1/show/rules")
        return sum(row["packets"] for row in rows if row["comment"] == comment)

    def revision(self) -> str:
        return f"revision {self.get('/v1/status')['running']['revision']}"

    def pids(self) -> Mapping[str, int]:
        """The main process of each daemon that the document wants."""
        return {row["unit"]: row["main_pid"] for row in self.get("/v1/services") if row["wanted"]}

    def push(self, change: object) -> Response:
        """Push the example with this merge patch over it, as the next generation."""
        document = merge(json.loads(example().read_bytes()), change)
        document["generation"] = self.generation + 1
        return self.lab.manager.push(json.dumps(document).encode())


@dataclass(frozen=True, slots=True)
class Trial:
    """One line of the demo: what is done, and the doing, which returns what came."""

    what: str
    show: Callable[[Cloud], str]


@dataclass(frozen=True, slots=True)
class Chapter:
    """Trials under one title."""

    title: str
    trials: tuple[Trial, ...]


def example(name: str = "router.json") -> Path:
    """A file of the examples."""
    return data.examples() / name


def expect(condition: object, came: str) -> None:
    """Go on if it is so; raise Differs with what came instead if it is not."""
    if not condition:
        raise Differs(came)


def tell(chapters: Sequence[Chapter], cloud: Cloud) -> bool:
    """Show trials up to the first that does not go as it should; whether all did."""
    for number, chapter in enumerate(chapters, 1):
        cloud.console.print()
        cloud.console.print(f"{number}. {chapter.title}", style="bold")
        if not all(_told(trial, cloud) for trial in chapter.trials):
            return False
    return True


def _told(trial: Trial, cloud: Cloud) -> bool:
    """Show one trial; whether it went as it should."""
    began = time.monotonic()
    well, hint = False, ""
    try:
        with cloud.console.status(trial.what):
            came = trial.show(cloud)
        well = True
    except Differs as error:
        came = str(error)
    except ApplianceError as error:
        came, hint = error.what, error.hint
    except (CommandFailed, NoLease, TookTooLong, HTTPException, OSError) as error:
        came = str(error) or type(error).__name__
    taken = f"{time.monotonic() - began:.1f} s"
    verdict = "ok" if well else "FAILED"
    came = f"{came}\n{hint}" if hint else came
    for line in _lines(verdict, trial.what, came, taken, min(cloud.console.width, WIDEST)):
        cloud.console.print(line, soft_wrap=True)
    return well


def _lines(verdict: str, what: str, came: str, taken: str, width: int) -> Iterator[Text]:
    """What was done with how long it took, and what came below it; no wider than the screen."""
    style = "green" if verdict == "ok" else "bold red"
    first, *more = textwrap.wrap(what, width - 18)
    yield Text.assemble((f"  {verdict:<6}  ", style), f"{first:<{width - 18}} {taken:>7}")
    for line in more:
        yield Text(f"          {line}")
    for line in came.splitlines():
        for part in textwrap.wrap(line, width - 12, break_on_hyphens=False) or [""]:
            yield Text(f"            {part}", "dim" if verdict == "ok" else "red")
