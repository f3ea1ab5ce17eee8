"""How the demo tells what it tries; what it tries is proven in the lab."""

import io
import re

import pytest
from rich.console import Console

from appliance.demo import CHAPTERS
from appliance.demo.telling import Chapter, Cloud, Differs, Trial, tell
from appliance.errors import ApplianceError


def cloud(*, width: int = 80) -> tuple[Cloud, io.StringIO]:
    output = io.StringIO()
    return Cloud("none", Console(file=output, width=width, highlight=False)), output


def fails(error: Exception) -> Trial:
    def show(_: Cloud) -> str:
        raise error

    return Trial("something is tried", show)


def test_what_came_stands_below_what_was_done() -> None:
    shown, output = cloud()
    trials = (Trial("a guest asks", lambda _: "an address\nand a name"),)
    assert tell((Chapter("Guests", trials),), shown)
    lines = output.getvalue().splitlines()
    assert lines[1] == "1. Guests"
    assert lines[2].startswith("  ok      a guest asks  ")
    assert re.fullmatch(r" +\d\.\d s", lines[2].removeprefix("  ok      a guest asks"))
    assert lines[3:] == ["            an address", "            and a name"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Differs("port 25 answers"), ["port 25 answers"]),
        (ApplianceError("no lab", "boot one"), ["no lab", "boot one"]),
        (TimeoutError(), ["TimeoutError"]),
    ],
)
def test_the_first_failure_ends_it_and_says_why(error: Exception, said: list[str]) -> None:
    shown, output = cloud()
    never = Trial("never tried", lambda _: "")
    chapters = (Chapter("One", (fails(error), never)), Chapter("Two", (never,)))
    assert not tell(chapters, shown)
    lines = [line.strip() for line in output.getvalue().splitlines()]
    assert lines[2].startswith("FAILED  something is tried")
    assert lines[3:] == said


def test_it_fits_the_screen() -> None:
    shown, output = cloud()
    long = "word " * 40
    assert tell((Chapter("Long", (Trial(long, lambda _: long),)),), shown)
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) == 80
    assert not [line for line in lines if line != line.rstrip()]
    assert output.getvalue().count("word") == 80


def test_everything_is_told_once() -> None:
    told = [trial.what for chapter in CHAPTERS for trial in chapter.trials]
    assert len(set(told)) == len(told)
