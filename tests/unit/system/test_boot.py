import hashlib
import json
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.document.boot import parse
from agent.document.boot_source import Settled, Source
from agent.engine.model import Link
from agent.system import boot
from agent.system.boot_channels import Places
from agent.system.paths import Paths
from tests.unit.document.test_boot import MAC, SMALL, WHOLE
from tests.unit.document.test_cloudstack_boot import ROUTER, links

LINKS = (Link("eth0", MAC, 1500, up=False),)


class Machine:
    """Folders that stand for a machine, with one channel: the guest agent's file."""

    def __init__(self, folder: Path) -> None:
        self.paths = Paths(run=folder / "run", state=folder / "state")
        self.paths.run.mkdir()
        self.paths.state.mkdir()
        self.channel = folder / "cmdline"
        nowhere = folder / "nowhere"
        self.places = Places(
            credentials=nowhere, mount_point=nowhere, kernel=nowhere, port=nowhere,
            from_port=self.paths.run / "from-port", guest_agent=self.channel, kvp_pool=nowhere,
            udev=nowhere, blkid="/bin/false", rpctool="/bin/false", xenstore_read="/bin/false",
        )  # fmt: skip
        self.links: Sequence[Link] = LINKS

    def hand_in(self, value: object) -> None:
        self.channel.write_text(json.dumps(value))

    def boot(self) -> Settled:
        settled = boot.settle(self.paths, self.places, lambda: self.links)
        boot.record(self.paths, settled)
        return settled

    def reboot(self) -> Settled:
        for path in self.paths.run.rglob("*"):
            if path.is_file():
                path.unlink()
        return self.boot()

    def status(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.paths.run / "boot-status.json").read_bytes())
        return value


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(boot, "NIC_WAIT", 0.0)
    return Machine(tmp_path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_handed_in_is_gone_by_and_told(machine: Machine) -> None:
    machine.hand_in(WHOLE)
    settled = machine.boot()
    assert settled.source is Source.GUEST_AGENT
    assert boot.load(machine.paths) == settled.config == parse(json.dumps(WHOLE).encode())
    assert machine.status() == {
        "source": "guest-agent",
        "ok": True,
        "problems": [],
        "role": "router",
        "hostname": "r-1",
        "control": ["169.254.10.2"],
    }
    assert not boot.is_closed(machine.paths)
    assert mode(machine.paths.run / "boot.json") == 0o600
    assert mode(machine.paths.state / "boot.json") == 0o600
    assert mode(machine.paths.run / "boot-status.json") == 0o644
    assert (machine.paths.run / "resolv.conf").read_text() == (
        "search net1.example.internal\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n"
    )
    assert (machine.paths.run / "time/ntp.sources").read_text() == (
        "server ntp.example.internal iburst\nserver 192.0.2.1 iburst\nserver 2001:db8::1 iburst\n"
    )


def test_cloudstacks_words_are_gone_by(machine: Machine) -> None:
    machine.links = links(3)
    machine.channel.write_text(ROUTER)
    assert machine.boot().config is not None
    assert machine.status()["hostname"] == "r-42-VM"


def test_a_reboot_without_any_channel_goes_by_what_was_kept(machine: Machine) -> None:
    machine.hand_in(SMALL)
    first = machine.boot()
    machine.channel.unlink()
    second = machine.reboot()
    assert second.source is Source.KEPT
    assert second.config == first.config == boot.load(machine.paths)
    assert machine.status()["ok"] is True


def test_what_is_broken_closes_the_vm_whatever_was_kept(machine: Machine) -> None:
    machine.hand_in(SMALL)
    machine.boot()
    machine.hand_in({**SMALL, "role": "king", "hostname": "a\nb"})
    settled = machine.reboot()
    assert settled.broken
    assert boot.load(machine.paths) is None
    assert boot.is_closed(machine.paths)
    assert machine.status()["ok"] is False
    assert [problem["path"] for problem in machine.status()["problems"]] == ["/hostname", "/role"]
    # And it was not kept: without it, the good one still is.
    machine.channel.unlink()
    assert machine.reboot().source is Source.KEPT
    assert not boot.is_closed(machine.paths)


def test_nothing_at_all_is_told_and_closes_nothing_that_was_pushed(machine: Machine) -> None:
    settled = machine.boot()
    assert settled.source is Source.NONE
    assert boot.load(machine.paths) is None
    assert machine.status()["problems"][0]["message"].startswith("no channel has")
    assert not boot.is_closed(machine.paths)


@pytest.mark.parametrize("rot", [b"", b"\x00" * 100, b'{"role": "router"}'])
def test_what_was_kept_and_is_rotten_is_an_error_not_nothing(machine: Machine, rot: bytes) -> None:
    (machine.paths.state / "boot.json").write_bytes(rot)
    settled = machine.boot()
    assert (settled.source, settled.config) == (Source.KEPT, None)
    assert all("kept by an earlier boot" in p["message"] for p in machine.status()["problems"])


def test_a_running_vm_is_not_closed_by_what_it_cannot_understand(machine: Machine) -> None:
    machine.hand_in(SMALL)
    running = machine.boot().config
    machine.hand_in({"role": "router"})
    late = boot.settle(machine.paths, machine.places, lambda: LINKS)
    boot.record(machine.paths, late, running)
    assert boot.load(machine.paths) == running
    assert machine.status()["ok"] is True
    assert machine.status()["problems"]


def test_nics_may_be_late(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot, "NIC_WAIT", 60.0)
    machine.hand_in(SMALL)
    seen = iter([(), (), LINKS])
    settled = boot.settle(machine.paths, machine.places, lambda: next(seen))
    assert settled.config is not None


def test_nics_that_do_not_come_are_told(machine: Machine) -> None:
    machine.links = ()
    machine.hand_in(SMALL)
    assert [problem.path for problem in machine.boot().problems] == [f"/nics/{MAC}"]


def test_a_full_disk_keeps_nothing_and_stops_nothing(machine: Machine) -> None:
    machine.hand_in(SMALL)
    machine.paths.state.rmdir()
    machine.paths.state.write_text("in the way")
    assert machine.boot().config is not None
    assert machine.status()["ok"] is True


def test_settings_that_are_no_longer_there_are_taken_back(machine: Machine) -> None:
    machine.hand_in(WHOLE)
    machine.boot()
    machine.hand_in(SMALL)
    machine.boot()
    assert (machine.paths.run / "resolv.conf").read_text() == ""
    assert (machine.paths.run / "time/ntp.sources").read_text() == ""


def test_what_came_by_the_port_is_there_for_later_looks(machine: Machine) -> None:
    machine.places = replace(machine.places, port=machine.paths.run / "no-such-port")
    machine.places.from_port.write_text(json.dumps(SMALL))
    assert machine.boot().source is Source.VIRTIO_SERIAL


def test_the_mark_of_what_came_late_is_taken_away_before_the_look(machine: Machine) -> None:
    mark = machine.paths.run / "boot-late"
    mark.touch()
    machine.hand_in(SMALL)

    def links() -> Sequence[Link]:
        assert not mark.exists()
        return LINKS

    assert boot.settle(machine.paths, machine.places, links).config is not None


def test_credential_that_is_gone_by_is_vouched_for_until_another_channel_is(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For share/firewall, which compares by sha256sum what the next boot is told."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "sysvm.boot").write_text(json.dumps(WHOLE))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    machine.places = replace(machine.places, credentials=folder)
    told = machine.paths.state / "firewall/told"
    machine.boot()
    digest = hashlib.sha256((folder / "sysvm.boot").read_bytes()).hexdigest()
    assert told.read_text() == f"{digest}  /run/credentials/@system/sysvm.boot\n"
    (folder / "sysvm.boot").write_text("{")
    machine.reboot()
    assert not told.exists()
    (folder / "sysvm.boot").write_text(json.dumps(SMALL))
    machine.reboot()
    assert told.exists()
    (folder / "sysvm.boot").unlink()
    machine.hand_in(SMALL)
    machine.reboot()
    assert not told.exists()
