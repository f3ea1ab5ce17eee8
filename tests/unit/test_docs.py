"""What the pages of docs/ point at is there: files, headings, tests."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("image-recipes/**/*.md")))
MADE_UP = {"tests/unit/services/test_tftp.py"}  # what a developer adds in developing.md


def lines(page: Path) -> Iterator[tuple[str, bool]]:
    """The lines of a page, and whether each is of a block of code."""
    code = False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            code = not code
        yield line, code


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = (line for line, code in lines(page) if line.startswith("#") and not code)
    return {
        re.sub(r"[^\w\- ]", "", heading.lstrip("#").strip().lower()).replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = "\n".join(line for line, code in lines(page) if not code)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_are_named_are_there(page: Path) -> None:
    for file, function in re.findall(r"`([\w/]*test_\w+\.py)(?:::(\w+))?`", page.read_text()):
        if file in MADE_UP:
            continue
        found = [
            path for path in ROOT.glob("tests/**/test_*.py") if f"/{path}".endswith(f"/{file}")
        ]
        assert found, file
        texts = (path.read_text() for path in found)
        assert not function or any(f"def {function}(" in text for text in texts), function
