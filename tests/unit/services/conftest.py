"""Golden files: what was rendered once and looked at. SYSVM_UPDATE_GOLDEN=1 writes them anew."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.engine.model import Artifacts

_GOLDEN = Path(__file__).parents[2] / "golden"

Golden = Callable[[str, Artifacts], None]


@pytest.fixture
def golden() -> Golden:
    """Compares every file of the artifacts with its golden one, and that there are no others."""

    def compare(folder: str, artifacts: Artifacts) -> None:
        root = _GOLDEN / folder
        if os.environ.get("SYSVM_UPDATE_GOLDEN"):
            for old in [path for path in root.rglob("*") if path.is_file()]:
                old.unlink()
            for file in artifacts.files:
                (root / file.path).parent.mkdir(parents=True, exist_ok=True)
                (root / file.path).write_bytes(file.content)
        found = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        assert found == {file.path: file.content for file in artifacts.files}

    return compare
