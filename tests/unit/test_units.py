"""Our systemd units, as far as their texts can tell."""

from pathlib import Path

import pytest

from agent.system.early import Early

UNITS = Path(__file__).parents[2] / "systemd/system"
EARLY = sorted(path for kind in ("path", "socket", "timer") for path in UNITS.glob(f"*.{kind}"))


@pytest.mark.parametrize("unit", EARLY, ids=lambda path: path.name)
def test_what_basic_target_waits_for_does_not_wait_for_the_restore(unit: Path) -> None:
    """D-Bus starts after basic.target, and the restore needs D-Bus: neither would ever start."""
    lines = unit.read_text().splitlines()
    after = " ".join(line for line in lines if line.startswith("After="))
    assert "sysvm-restore" not in after or "DefaultDependencies=no" in lines


# What the agent's code may besides where it looks for a boot configuration, and must not trip over.
OWN = ("DeviceAllow=", "ImportCredential=", "PrivateTmp=", "ReadWritePaths=", "RestrictAddress")
SANDBOX = (
    "CapabilityBoundingSet=",
    "DevicePolicy=",
    "LockPersonality=",
    "NoNewPrivileges=",
    "Protect",
    "Restrict",
    "SystemCall",
)


@pytest.mark.parametrize("name", ["sysvm-restore", "sysvm-boot", "sysvm-confirm@"])
def test_what_runs_the_agents_code_has_the_agents_sandbox(name: str) -> None:
    def sandbox(unit: str) -> list[str]:
        lines = (UNITS / f"{unit}.service").read_text().splitlines()
        return sorted(x for x in lines if x.startswith(SANDBOX) and not x.startswith(OWN))

    assert len(sandbox("sysvm-agent")) > 12
    assert sandbox(name) == sandbox("sysvm-agent")


def ordering(unit: str, *keys: str) -> set[str]:
    """The units that these keys of a unit name."""
    lines = (UNITS / f"{unit}.service").read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")]
    return {word for key, value in pairs if key in keys for word in value.split()}


def test_the_restore_gets_ready_beside_the_firewall_and_before_the_bus() -> None:
    """It waits for both by itself (agent/system/early.py): systemd would have it begin after."""
    after = ordering("sysvm-restore", "After")
    assert not {"sysvm-firewall.service", "network-pre.target", "dbus.socket"} & after
    assert "systemd-tmpfiles-setup.service" in after
    assert {"sysvm-firewall.service", "dbus.socket"} <= ordering(
        "sysvm-restore", "Wants", "Requires"
    )
    assert {"network.target", "network-online.target", "sysvm-agent.service"} <= ordering(
        "sysvm-restore", "Before"
    )
    before = ordering("sysvm-firewall", "Before")
    assert "network-pre.target" in before
    assert "sysvm-restore.service" not in before
    # What it marks as done is all that has to be: settings of the kernel's come before ours.
    assert "systemd-sysctl.service" in ordering("sysvm-firewall", "After")
    assert f"> {Early().firewall}\n" in (UNITS.parent / "share/firewall").read_text()
