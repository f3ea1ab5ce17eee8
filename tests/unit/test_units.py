"""Our systemd units, as far as their texts can tell."""

from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd/system"
EARLY = sorted(path for kind in ("path", "socket", "timer") for path in UNITS.glob(f"*.{kind}"))


@pytest.mark.parametrize("unit", EARLY, ids=lambda path: path.name)
def test_what_basic_target_waits_for_does_not_wait_for_the_restore(unit: Path) -> None:
    """D-Bus starts after basic.target, and the restore needs D-Bus: neither would ever start."""
    lines = unit.read_text().splitlines()
    after = " ".join(line for line in lines if line.startswith("After="))
    assert "sysvm-restore" not in after or "DefaultDependencies=no" in lines
