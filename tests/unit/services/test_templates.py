"""Every template says where it comes from, and nothing that changes by itself."""

from pathlib import Path

import pytest

import agent

_TEMPLATES = Path(agent.__file__).parent / "templates"


@pytest.mark.parametrize(
    "path", sorted(p for p in _TEMPLATES.rglob("*") if p.is_file()), ids=lambda p: p.name
)
def test_first_line_names_the_source(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first == f"# From agent/templates/{path.relative_to(_TEMPLATES)}; do not edit"
