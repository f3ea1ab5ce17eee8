"""The table of what the proxy withstands (docs/console.md): each line has tests, and they exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
NAMED = re.compile(r"`((?:[\w/]+/)?test_\w+\.py)::(test_\w+)`")


def rows() -> dict[int, tuple[list[tuple[str, str]], list[tuple[str, str]]]]:
    """The tests of each line: what is refused, and what goes through."""
    text = (ROOT / "docs/console.md").read_text()
    section = text.partition("## What it withstands\n")[2].partition("\n## ")[0]
    return {
        int(number): (NAMED.findall(refused), NAMED.findall(passed))
        for number, _, refused, passed in ROW.findall(section)
    }


def test_each_of_the_eighteen_points_is_tested_both_ways() -> None:
    found = rows()
    assert list(found) == list(range(1, 19))
    for number, (refused, passed) in found.items():
        assert refused, number
        assert passed, number


@pytest.mark.parametrize("number", range(1, 19))
def test_the_named_tests_are_there(number: int) -> None:
    for file, name in (one for tests in rows()[number] for one in tests):
        path = ROOT / file if file.startswith("tests/") else HERE / file
        functions = {
            node.name for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.FunctionDef)
        }  # fmt: skip
        assert name in functions, f"{file}::{name}"
