"""The agent or the power ends at any step, or what was kept cannot be read."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from agent.engine.host import HostFull
from agent.engine.model import Committed, Observed, RolledBack, Unchanged
from tests.unit.engine.documents import router, with_forward, with_services, with_tunnels
from tests.unit.engine.machine import Machine, same
from tests.unit.engine.memory import Died

SCRIPT = Path(__file__).parents[3] / "systemd/share/firewall"

CHANGES = {
    "everything comes": (None, with_services(2)),
    "a forward comes": (with_forward(1), with_forward(2, port=81)),
    "services come": (router(1), with_services(2)),
    "services go": (with_services(1), router(2)),
    "everything goes": (with_services(1), with_forward(2)),
    "tunnels come": (router(1), with_tunnels(2, a="secret of a", b="secret of b")),
    "a tunnel changes": (with_tunnels(1, a="first secret"), with_tunnels(2, a="second secret")),
    "tunnels go": (with_tunnels(1, a="secret of a", b="secret of b"), router(2)),
}


def _points(folder: Path, before: bytes | None, after: bytes) -> tuple[int, Observed, Observed]:
    """How many fault points the change passes, and what the machine is before and after."""
    machine = Machine(folder / "count")
    if before:
        machine.engine.push(before)
    old = machine.host.snapshot()
    machine.host.points.clear()
    assert isinstance(machine.engine.push(after), Committed)
    return len(machine.host.points), old, machine.host.snapshot()


@pytest.mark.parametrize("change", CHANGES)
def test_death_at_any_step_leaves_the_old_revision_or_the_new_one(
    tmp_path: Path, change: str
) -> None:
    before, after = CHANGES[change]
    count, old, new = _points(tmp_path, before, after)
    assert count > 8
    seen = set()
    for point in range(1, count + 1):
        machine = Machine(tmp_path / str(point))
        if before:
            machine.engine.push(before)
        machine.host.points.clear()
        machine.host.deaths = [str(point)]
        with pytest.raises(Died):
            machine.engine.push(after)
        machine.engine = machine.start()
        machine.engine.recover()
        after_death = machine.host.snapshot()
        assert same(after_death, old) or same(after_death, new), f"a mixture at point {point}"
        seen.add(same(after_death, new))
        generation = machine.engine.current().info.generation
        assert (generation == 2) is same(after_death, new)
        assert isinstance(machine.engine.push(after), Committed | Unchanged)
        assert same(machine.host.snapshot(), new)
    assert seen == {True, False}


@pytest.mark.parametrize("change", CHANGES)
def test_power_cut_at_any_step_boots_the_old_revision_or_the_new_one(
    tmp_path: Path, change: str
) -> None:
    before, after = CHANGES[change]
    count, old, new = _points(tmp_path, before, after)
    for point in range(1, count + 1):
        machine = Machine(tmp_path / str(point))
        if before:
            machine.engine.push(before)
        machine.host.points.clear()
        machine.host.deaths = [str(point)]
        with pytest.raises(Died):
            machine.engine.push(after)
        machine.reboot()
        assert any(same(machine.host.snapshot(), whole) for whole in (old, new)), point
        assert machine.engine.recover() is None


def _ahead(machine: Machine) -> dict[str, str] | None:
    """What share/firewall would put in before the restore; None where it waits for that."""
    folder = machine.folder / "firewall"
    (folder / "told").write_text(f"{hashlib.sha256(b'').hexdigest()}  /dev/null\n")
    decides = SCRIPT.read_text().partition("has_nic()")[0]
    decides = decides.replace("/var/lib/sysvm", str(machine.folder)) + "of_one_mind"
    if subprocess.run(["sh", "-c", decides], check=False, capture_output=True).returncode:
        return None
    network = (folder / "network").read_text()
    names = [line.split()[1] for line in network.splitlines() if line.startswith("file ")]
    texts = {name: folder / name for name in ("sets", "v4", "v6")}
    texts |= {name: folder / "files" / name for name in names}
    found = {name: path.read_text() if path.exists() else "" for name, path in texts.items()}
    return found | {"network": network}


def _confirmed(machine: Machine) -> int:
    state: dict[str, int] = json.loads((machine.folder / "state.json").read_bytes())
    return state["confirmed"]


FIREWALLS = {
    "a forward changes": (with_forward(2), with_forward(3, port=81)),
    "what was there before comes back": (with_forward(2, port=81), with_forward(3, port=80)),
    "services come": (with_forward(2), with_services(3)),
    "only services change": (with_services(2), with_services(3, name="vm2")),
}


@pytest.mark.parametrize("lost", [0, 1, 2])
@pytest.mark.parametrize("change", FIREWALLS)
def test_boot_goes_ahead_of_the_restore_as_the_confirmed_revision_or_not_at_all(
    tmp_path: Path, change: str, lost: int
) -> None:
    """The power is cut after every single write of an apply.

    What need not be durable of the last pushes is lost: of none, of the one that is cut, of the one
    before, too.
    """
    before, after = FIREWALLS[change]

    def make(name: str) -> Machine:
        machine = Machine(tmp_path / name)
        machine.engine.push(with_forward(1, port=80))
        if lost < 2:
            machine.engine.push(before)
        machine.disk.slow.clear()
        machine.engine.push(before)
        return machine

    machine = make("count")
    old, ran = _ahead(machine), _confirmed(machine)
    done = machine.disk.writes
    assert isinstance(machine.engine.push(after), Committed)
    writes, new = machine.disk.writes - done, _ahead(machine)
    assert old is not None
    assert new is not None
    seen = set()
    for cut in range(1, writes + 1):
        machine = make(str(cut))
        assert _ahead(machine) == old
        machine.disk.dies_after = machine.disk.writes + cut
        with pytest.raises(Died):
            machine.engine.push(after)
        if lost:
            machine.disk.lose()
        found = _ahead(machine)
        assert found in (None, old if _confirmed(machine) == ran else new), cut
        seen.add(found is None)
        machine.reboot()
        assert _ahead(machine) == (old if _confirmed(machine) == ran else new), cut
    assert seen >= ({True} if lost == 2 else {False})


def test_commit_that_found_the_disk_full_leaves_nothing_to_go_ahead_by(machine: Machine) -> None:
    """Nor does a write that fails in the middle of a commit."""
    machine.engine.push(with_forward(1))
    old = _ahead(machine)
    assert old is not None
    refused = 0
    for generation in range(2, 40):
        machine.disk.full_at = machine.disk.writes + generation - 1
        try:
            outcome = machine.engine.push(with_forward(generation, port=81))
        except HostFull:
            refused += 1
            continue
        if isinstance(outcome, Committed):
            break
        assert isinstance(outcome, RolledBack)
        refused += 1
        assert _ahead(machine) in (None, old)
        machine.reboot()
        assert _ahead(machine) == old
    assert refused > 5


def test_death_while_rolling_back_rolls_back(tmp_path: Path) -> None:
    for point in range(1, 40):
        machine = Machine(tmp_path / str(point))
        machine.engine.push(router(1))
        old = machine.host.snapshot()
        machine.host.failing_probes = {"dnsmasq.service"}
        machine.host.points.clear()
        machine.host.deaths = [str(point)]
        try:
            machine.engine.push(with_services(2))
        except Died:
            machine.engine = machine.start()
            machine.engine.recover()
        assert same(machine.host.snapshot(), old), point


def test_broken_state_falls_back_to_the_newest_whole_revision(machine: Machine) -> None:
    machine.engine.push(with_forward(1))
    before = machine.host.snapshot()
    for content in (b"", b"{", b"[]", b'{"current": 1, "flux": 2}', b"\x00" * 64):
        (machine.folder / "state.json").write_bytes(content)
        machine.reboot()
        assert machine.host.snapshot() == before


def test_broken_revision_falls_back_to_the_one_before(machine: Machine) -> None:
    machine.engine.push(with_forward(1))
    before = machine.host.snapshot()
    machine.engine.push(with_forward(2, port=81))
    path = machine.folder / "revisions" / "3.json"
    path.write_bytes(path.read_bytes().replace(b"10.1.1.10", b"10.1.1.11"))
    machine.reboot()
    assert machine.host.snapshot() == before


def test_only_the_last_revisions_are_kept(machine: Machine) -> None:
    for generation in range(1, 15):
        machine.engine.push(with_forward(generation, port=80 + generation))
    numbers = [info.number for info in machine.engine.revisions()]
    assert len(numbers) == 10
    assert numbers[0] == 15
