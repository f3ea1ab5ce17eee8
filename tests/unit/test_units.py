"""Our systemd units, as far as their texts can tell."""

import re
from pathlib import Path

import pytest

from agent.system.early import Early

UNITS = Path(__file__).parents[2] / "systemd/system"
INSTEAD = UNITS.parent / "instead"  # of a package's
EARLY = sorted(path for kind in ("path", "socket", "timer") for path in UNITS.glob(f"*.{kind}"))


@pytest.mark.parametrize("unit", EARLY, ids=lambda path: path.name)
def test_what_basic_target_waits_for_does_not_wait_for_the_restore(unit: Path) -> None:
    """D-Bus starts after basic.target, and the restore needs D-Bus: neither would ever start."""
    lines = unit.read_text().splitlines()
    after = " ".join(line for line in lines if line.startswith("After="))
    assert "sysvm-restore" not in after or "DefaultDependencies=no" in lines


AGENTS_CODE = ("sysvm-agent", "sysvm-restore", "sysvm-boot", "sysvm-confirm@")
# What a unit may have of its own: where it looks for a boot configuration, and must not trip over.
OWN = ("DeviceAllow=", "ImportCredential=", "PrivateTmp=", "ReadWritePaths=")
SANDBOX = ("Capabilit", "Device", "Lock", "NoNew", "Private", "Protect", "Restrict", "SystemCall")


def settings(path: Path) -> list[str]:
    """A unit's lines that keep it from something."""
    lines = path.read_text().splitlines()
    return [line for line in lines if line.startswith(SANDBOX) and not line.startswith("RestartS")]


def test_what_runs_the_agents_code_has_one_sandbox() -> None:
    """One file: a drop-in of the agent's, to which the others' folders have links."""
    code = {p.stem for p in UNITS.glob("*.service") if "-m agent.main " in p.read_text()}
    assert code == set(AGENTS_CODE)
    files = {(UNITS / f"{name}.service.d/sandbox.conf").resolve() for name in AGENTS_CODE}
    assert files == {(UNITS / "sysvm-agent.service.d/sandbox.conf").resolve()}
    assert len(settings(files.pop())) > 15


@pytest.mark.parametrize("name", AGENTS_CODE)
def test_a_unit_has_nothing_of_the_sandbox_itself_but_what_it_may_besides(name: str) -> None:
    own = [line for line in settings(UNITS / f"{name}.service") if not line.startswith(OWN)]
    assert own == ["RestrictAddressFamilies=AF_VSOCK"] * (name in {"sysvm-restore", "sysvm-boot"})


def ordering(unit: str, *keys: str, folder: Path = UNITS) -> set[str]:
    """The units that these keys of a unit name."""
    lines = (folder / f"{unit}.service").read_text().splitlines()
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


def test_names_are_told_as_soon_as_the_vm_is_closed() -> None:
    """Beside the restore, which is what else starts dnsmasq."""
    text = (INSTEAD / "dnsmasq.service").read_text()
    after = ordering("dnsmasq", "After", "Requires", folder=INSTEAD)
    assert "sysvm-firewall.service" in after
    assert not {word for word in after if "network" in word or "restore" in word}
    assert "DefaultDependencies=no\n" in text  # else it waits for basic.target
    assert "dnsmasq.service" in ordering("sysvm-firewall", "Wants")
    assert "ConditionPathExists=/run/sysvm/current/dnsmasq/dnsmasq.conf\n" in text


def test_memory_that_daemons_are_promised_is_promised_to_their_slice() -> None:
    """Else it is no promise: a unit has at most its share of its slice's (cgroups(7))."""
    promised = re.compile(r"^MemoryMin=(\d+)M$", re.MULTILINE)
    units = [
        path
        for folder in (UNITS, INSTEAD)
        for path in folder.rglob("*")
        if path.is_file() and "slice" not in path.parent.name
    ]
    parts = [int(size) for path in units for size in promised.findall(path.read_text())]
    whole = promised.findall((UNITS / "system.slice.d/sysvm.conf").read_text())
    assert len(parts) == 4
    assert [str(sum(parts))] == whole
