"""The boot configuration and the engine: at the first boot, when it changes, when it is late."""

import hashlib
import json
import subprocess
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from agent.document.boot import BootConfig, parse
from agent.engine.model import Address, Committed, Degraded, Family, Provisional, Table, Unchanged
from agent.engine.restore import document_of
from agent.engine.store import Store
from agent.engine.transaction import Engine
from tests.unit.engine.documents import BOOT, router, with_forward, with_services
from tests.unit.engine.memory import (
    CONTROL,
    GUEST,
    PUBLIC,
    MemoryHost,
    OneWriter,
    PlainDisk,
    StillClock,
)

MORE: dict[str, Any] = {
    **BOOT,
    "domain": "net1.example.internal",
    "routes": {"10.0.0.0/8": {"via": "169.254.1.1"}},
    "nics": {
        **BOOT["nics"],  # type: ignore[dict-item]
        GUEST: {"role": "guest", "addresses": {"10.1.1.1/24": {}}},
        PUBLIC: {"role": "public", "addresses": {"203.0.113.10/24": {}}},
    },
}
MOVED = {**BOOT, "nics": {CONTROL: {"role": "control", "addresses": {"169.254.99.9/16": {}}}}}


def config(value: dict[str, Any]) -> BootConfig:
    return parse(json.dumps(value).encode())


class Machine:
    """A machine in memory that is booted with one configuration or another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = MemoryHost()
        self.clock = StillClock()

    def engine(self, boot: dict[str, Any] | None) -> Engine:
        known = config(boot) if boot is not None else None
        store = Store(self.folder, PlainDisk())
        return Engine(self.host, store, self.clock, OneWriter(), known)

    def boot(
        self, boot: dict[str, Any] | None, *, closed: bool = False, network: bool = False
    ) -> Engine:
        """Switch it on; `closed`: with the confirmed firewall, as sysvm-firewall loads it.

        `network`: with what it then connects, and starts.
        """
        before = self.host
        self.host = replace(MemoryHost(), deaths=before.deaths)
        if closed:
            self.host.tables, self.host.sets = dict(before.tables), dict(before.sets)
        if network:
            self.host.present, self.host.sysctls = dict(before.present), dict(before.sysctls)
            self.host.addresses, self.host.routes = set(before.addresses), set(before.routes)
            folder = self.folder / "firewall/files"
            self.host.ahead = {
                str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in folder.rglob("*")
                if path.is_file()
            }
            self.host.units = {
                f"{path.split('/')[0]}.service": "active" for path in self.host.ahead
            }
        engine = self.engine(boot)
        self.outcome = engine.restore()
        return engine

    def addresses(self) -> set[str]:
        return {str(address.interface) for address in self.host.addresses}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_until_the_first_push_the_control_nic_alone_is_up(machine: Machine) -> None:
    machine.boot(MORE)
    assert isinstance(machine.outcome, Committed)
    assert machine.addresses() == {"169.254.10.2/16"}
    assert [link.mac for link in machine.host.present.values() if link.up] == [CONTROL]
    assert {str(route.destination) for route in machine.host.routes} == {"10.0.0.0/8"}
    assert ":FORWARD DROP" in machine.host.tables[Family.V4, Table.FILTER]


def test_what_the_boot_configuration_says_is_in_its_document() -> None:
    site = document_of(config(MORE)).site
    assert site.domain == "net1.example.internal"
    assert list(site.nics) == [CONTROL]


def test_another_boot_configuration_takes_the_place_of_the_first(machine: Machine) -> None:
    machine.boot(BOOT)
    engine = machine.boot(MOVED)
    assert machine.addresses() == {"169.254.99.9/16"}
    again = machine.boot(MOVED)
    assert again.state().current == engine.state().current


def test_what_was_pushed_stays_whatever_the_boot_configuration_becomes(machine: Machine) -> None:
    machine.boot(BOOT).push(router(1))
    before = machine.addresses()
    machine.boot(MOVED)
    assert machine.addresses() == before


def test_without_any_boot_configuration_what_was_pushed_comes_back(machine: Machine) -> None:
    machine.boot(BOOT).push(router(1))
    before = machine.addresses()
    machine.boot(None)
    assert isinstance(machine.outcome, Committed)
    assert machine.addresses() == before


def test_a_late_boot_configuration_opens_a_vm_that_was_closed(machine: Machine) -> None:
    machine.boot(None)
    assert isinstance(machine.outcome, Degraded)
    assert machine.addresses() == set()
    assert isinstance(machine.engine(BOOT).adopt(), Committed)
    assert machine.addresses() == {"169.254.10.2/16"}
    assert isinstance(machine.engine(BOOT).adopt(), Unchanged)


def test_a_late_boot_configuration_replaces_the_one_that_was_kept(machine: Machine) -> None:
    machine.boot(BOOT)
    assert isinstance(machine.engine(MOVED).adopt(), Committed)
    assert machine.addresses() == {"169.254.99.9/16"}
    machine.boot(MOVED)
    assert machine.addresses() == {"169.254.99.9/16"}


def test_a_late_boot_configuration_leaves_what_was_pushed(machine: Machine) -> None:
    machine.boot(BOOT).push(router(1))
    before = machine.addresses()
    engine = machine.engine(MOVED)
    engine.adopt()
    assert machine.addresses() == before
    assert engine.current().document.generation == 1
    machine.boot(BOOT)
    assert machine.addresses() == before


def test_a_late_boot_configuration_leaves_a_revision_on_trial_alone(machine: Machine) -> None:
    engine = machine.boot(BOOT)
    engine.push(router(1))
    assert isinstance(engine.push(router(2, nat={}), confirm_within=60), Provisional)
    number = engine.state().current
    assert isinstance(machine.engine(MOVED).adopt(), Unchanged)
    assert machine.engine(BOOT).state().provisional
    assert machine.engine(BOOT).state().current == number


# -- what comes before what ----------------------------------------------------------------------


def test_guests_are_served_before_systemd_can_be_asked(machine: Machine) -> None:
    machine.boot(BOOT).push(with_services(1))
    machine.boot(BOOT)
    log = machine.host.log
    asked = log.index("ask systemd")
    daemons = {"StartUnit", "StopUnit", "ReloadUnit", "RestartUnit", "LoadConnection"}
    assert {"PutTable", "SetLink", "AddAddress", "AddRoute", "Flip"} <= set(log[:asked])
    assert not daemons & set(log[:asked])
    assert set(log[asked + 1 :]) == {"StartUnit"}
    assert machine.host.units["dnsmasq.service"] == "active"


def test_nothing_is_looked_at_or_done_before_the_vm_is_closed(machine: Machine) -> None:
    machine.boot(BOOT).push(with_services(1))
    machine.boot(BOOT)
    before = machine.host.log[: machine.host.log.index("wait until closed")]
    assert [word for word in before if not word.startswith("rehearse")] == []
    assert before == []


def test_firewall_that_the_kernel_holds_already_is_neither_rehearsed_nor_replaced(
    machine: Machine,
) -> None:
    machine.boot(BOOT).push(with_forward(1))
    wanted = machine.host.snapshot()
    machine.boot(BOOT, closed=True)
    assert not {word.split()[0] for word in machine.host.log} & {"rehearse", "PutTable", "PutSet"}
    assert machine.host.snapshot().firewall == wanted.firewall


def test_firewall_that_is_another_is_rehearsed_and_replaced(machine: Machine) -> None:
    machine.boot(BOOT).push(with_forward(1))
    wanted = machine.host.snapshot()
    for change in ("kernel", "kept", "origin"):
        machine.boot(BOOT, closed=True)
        if change == "kernel":
            text = machine.host.tables[Family.V4, Table.NAT]
            by_hand = text.replace("COMMIT", "-A PREROUTING -j ACCEPT\nCOMMIT")
            machine.host.tables[Family.V4, Table.NAT] = by_hand
        else:
            name = {"kept": "v4", "origin": "origin"}[change]
            path = machine.folder / "firewall" / name
            path.write_bytes(path.read_bytes().replace(b"0", b"1"))
        machine.host.log.clear()
        machine.engine(BOOT).restore()
        assert any(word.startswith("rehearse") for word in machine.host.log), change
        assert machine.host.snapshot().firewall == wanted.firewall


def test_network_that_came_up_ahead_stays_and_the_neighbours_are_told(machine: Machine) -> None:
    machine.boot(BOOT).push(with_forward(1))
    wanted = machine.host.snapshot()
    machine.boot(BOOT, closed=True, network=True)
    steps = {word.split()[0] for word in machine.host.log}
    assert not steps & {"SetLink", "AddAddress", "AddRoute", "SetSysctl"}
    assert machine.host.log.count("Announce") == 1
    assert machine.host.snapshot().addresses == wanted.addresses


def test_daemon_that_started_ahead_goes_on(machine: Machine) -> None:
    machine.boot(BOOT).push(with_services(1))
    wanted = machine.host.snapshot()
    machine.boot(BOOT, closed=True, network=True)
    assert machine.host.ahead.keys() == {
        path for path in wanted.files if path.startswith("dnsmasq/")
    }
    assert machine.host.log.count("Flip") == 1
    assert machine.host.log.count("StartUnit") == len(wanted.units) - 1
    assert not {"RestartUnit", "ReloadUnit"} & set(machine.host.log)
    assert machine.host.snapshot() == wanted


def test_daemon_that_started_ahead_by_what_an_older_agent_wrote_is_told(machine: Machine) -> None:
    machine.boot(BOOT).push(with_services(1))
    wanted = machine.host.snapshot()
    path = machine.folder / "firewall/files/dnsmasq/dnsmasq.conf"
    path.write_bytes(path.read_bytes() + b"# of old\n")
    machine.boot(BOOT, closed=True, network=True)
    assert machine.host.log.count("RestartUnit") == 1
    assert machine.host.snapshot() == wanted


def test_files_of_daemons_that_start_ahead_go_with_them(machine: Machine) -> None:
    engine = machine.boot(BOOT)
    folder = machine.folder / "firewall"
    for generation, services in enumerate((True, False, True, False), 1):
        engine.push((with_services if services else with_forward)(generation))
        assert bool(list(folder.glob("files/*/*"))) is services
        assert ("file dnsmasq/hosts\n" in (folder / "network").read_text()) is services


def test_network_of_another_revision_that_came_up_ahead_goes(machine: Machine) -> None:
    machine.boot(BOOT).push(with_forward(1))
    wanted = machine.host.snapshot()
    stray = Address("eth2", ip_interface("203.0.113.99/24"))
    machine.host.addresses.add(stray)
    machine.boot(BOOT, closed=True, network=True)
    assert machine.host.snapshot().addresses == wanted.addresses


def test_kept_network_fits_the_kept_firewall(machine: Machine) -> None:
    """share/firewall has sha256sum say so."""
    machine.boot(BOOT).push(with_services(1))
    folder = machine.folder / "firewall"
    assert "ip address add 203.0.113.10/24 dev eth2 broadcast 203.0.113.255\n" in (
        folder / "network"
    ).read_text().splitlines(keepends=True)

    def fits() -> bool:
        argv = ["sha256sum", "--status", "-c", str(folder / "sums")]
        return subprocess.run(argv, check=False).returncode == 0

    assert fits()
    for name in ("v4", "v6", "network", "files/dnsmasq/hosts"):
        path = folder / name
        text = path.read_bytes()
        path.write_bytes(text.replace(b"1", b"2"))
        assert not fits(), name
        path.write_bytes(text)
    machine.engine(BOOT).push(with_forward(2, port=81))
    assert fits()


def test_kept_network_is_of_the_revision_that_is_confirmed(machine: Machine) -> None:
    engine = machine.boot(BOOT)

    def kept() -> str:
        return (machine.folder / "firewall" / "sums").read_text().partition("\n")[0]

    engine.push(with_forward(1))
    first = engine.state().confirmed
    assert kept() == f"# revision {first}"
    trial = engine.push(with_forward(2, port=81), confirm_within=60)
    assert isinstance(trial, Provisional)
    assert kept() == f"# revision {first}"
    engine.confirm(trial.revision)
    assert kept() == f"# revision {trial.revision}"
    machine.boot(BOOT)
    assert kept() == f"# revision {trial.revision}"


def test_revisions_that_are_not_restored_are_not_read(machine: Machine) -> None:
    engine = machine.boot(BOOT)
    for generation in (1, 2, 3):
        engine.push(with_forward(generation, port=80 + generation))
    for path in (machine.folder / "revisions").glob("[12].json"):
        path.write_bytes(b"broken")
    machine.boot(BOOT)
    assert isinstance(machine.outcome, Committed)
