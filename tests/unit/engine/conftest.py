"""What the tests of the engine share."""

from pathlib import Path

import pytest

from tests.unit.engine.machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)
