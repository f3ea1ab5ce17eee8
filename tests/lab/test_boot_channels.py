"""The boot configuration by the channels that a container and a loop device can stand for."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.document.boot_source import Found, Source
from agent.system.boot_channels import Places, look
from agent.system.run import run
from appliance.lab import Lab
from appliance.lab.wait import wait_until
from tests.lab.helpers import EXAMPLE

CONTROL = "169.254.10.2/16"
OTHER = "169.254.99.9/16"
CMDLINE = "/var/cache/cloud/cmdline"
KEPT = "/var/lib/sysvm/boot.json"
WORDS = (
    "template=domP name=r-42-VM type=router eth0ip=10.1.1.1 eth0mask=255.255.255.0 "
    "eth1ip=169.254.99.9 eth1mask=255.255.0.0 eth2ip=203.0.113.10 eth2mask=255.255.255.0 "
    "gateway=203.0.113.1 dns1=198.51.100.53 domain=net1.example.internal logrotatefrequency=*:00"
)

# -- a VM -----------------------------------------------------------------------------------------


def status(lab: Lab) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(lab.vm.read("/run/sysvm/boot-status.json"))
    return value


def addresses(lab: Lab) -> set[str]:
    """Every IPv4 address of the VM but loopback's."""
    said = lab.vm.run(["ip", "-json", "-4", "address", "show"]).text
    return {
        f"{address['local']}/{address['prefixlen']}"
        for nic in json.loads(said)
        for address in nic.get("addr_info", [])
        if nic["ifname"] != "lo"
    }


def forget_everything(lab: Lab) -> None:
    """As if the VM had never been booted."""
    lab.vm.run(["sh", "-c", "rm -rf /var/lib/sysvm/* /var/cache/cloud/*"])


def take_away(lab: Lab) -> None:
    (lab.vm.container.credentials / "sysvm.boot").unlink()


@pytest.fixture
def lab(boot_lab: Callable[..., Lab]) -> Iterator[Lab]:
    made = boot_lab()
    made.vm.wait_ready()
    yield made
    made.down()


def test_a_credential_is_gone_by_kept_and_never_made_up_for(lab: Lab) -> None:
    good = lab.vm.boot_configuration()
    assert status(lab) == {
        "source": "credential",
        "ok": True,
        "problems": [],
        "role": "router",
        "hostname": good["hostname"],
        "control": ["169.254.10.2"],
    }
    assert addresses(lab) == {CONTROL}
    assert lab.vm.run(["stat", "-c", "%a", KEPT, "/run/sysvm/boot.json"]).text.split() == [
        "600",
        "600",
    ]
    document = {**json.loads(EXAMPLE.read_text()), "generation": 1}
    document.pop("user_data", None)
    answer = lab.vm.request("PUT", "/v1/document", json=document)
    assert answer.status == 201, answer.body
    pushed = addresses(lab)
    assert len(pushed) > 1

    # Broken: closed, though there is a revision, and a good configuration was kept.
    lab.vm.set_boot({**good, "role": "king"})
    lab.vm.reboot()
    lab.vm.wait_ready()
    assert addresses(lab) == set()
    assert (status(lab)["ok"], status(lab)["source"]) == (False, "credential")
    assert [problem["path"] for problem in status(lab)["problems"]] == ["/role"]
    assert "/role: is not one of 'router'" in lab.vm.journal("-u", "sysvm-restore")

    # Reset at a hypervisor's console, nobody there to hand in anything: everything comes back.
    take_away(lab)
    lab.vm.reboot()
    lab.vm.wait_ready()
    assert (status(lab)["ok"], status(lab)["source"]) == (True, "kept")
    assert addresses(lab) == pushed
    assert lab.manager.request("GET", "/v1/status").status == 200


def test_what_the_guest_agent_writes_late_opens_a_closed_vm_and_moves_an_open_one(
    lab: Lab,
) -> None:
    take_away(lab)
    forget_everything(lab)
    lab.vm.pull_plug()
    lab.vm.start()
    lab.vm.wait_ready()
    assert (status(lab)["ok"], status(lab)["source"]) == (False, "none")
    assert addresses(lab) == set()

    lab.vm.put(CMDLINE, WORDS.encode())
    wait_until(lambda: addresses(lab) == {OTHER}, 60, "the control address of the command line")
    wait_until(lambda: status(lab)["ok"], 10, "the status")
    assert (status(lab)["source"], status(lab)["hostname"]) == ("guest-agent", "r-42-VM")
    assert lab.vm.run(["hostname"]).text.strip() == "r-42-VM"
    assert "logrotatefrequency" in lab.vm.journal("-u", "sysvm-boot")
    assert lab.vm.read("/run/sysvm/resolv.conf").decode().splitlines()[-1] == (
        "nameserver 198.51.100.53"
    )

    # Broken while it runs: told, and nothing changes.
    lab.vm.put(CMDLINE, WORDS.replace("255.255.0.0", "255.0.255.0").encode())
    wait_until(lambda: bool(status(lab)["problems"]), 60, "the problem")
    assert status(lab)["problems"][0]["path"] == "/eth1mask"
    assert status(lab)["ok"] is True
    assert addresses(lab) == {OTHER}

    # Others, as when management moves the VM: it goes by the last, however quick they are.
    for address in ("20.1", "20.2", "20.3", "20.4", "10.2"):
        lab.vm.put(CMDLINE, WORDS.replace("99.9", address).encode())
    wait_until(lambda: addresses(lab) == {CONTROL}, 60, "the other control address")
    lab.vm.wait_ready()
    lab.vm.pull_plug()
    lab.vm.start()
    lab.vm.wait_ready()
    assert addresses(lab) == {CONTROL}
    assert status(lab)["source"] in {"guest-agent", "kept"}


# -- a labelled drive, of a file system that this machine's kernel surely has ---------------------


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[[Callable[[Path], object]], Found | None]]:
    """Makes a drive of what a function puts into a folder, and looks at it."""
    loops: list[str] = []
    folder, image = tmp_path / "content", tmp_path / "drive.img"
    folder.mkdir()
    nowhere = tmp_path / "nowhere"
    places = replace(
        Places(),
        credentials=nowhere,
        mount_point=tmp_path / "mounted",
        file_systems=("ext4",),
    )

    def made(fill: Callable[[Path], object]) -> Found | None:
        fill(folder)
        image.write_bytes(b"")
        with image.open("r+b") as stream:
            stream.truncate(4 * 1024 * 1024)
        argv = ["mkfs.ext4", "-q", "-F", "-L", "SYSVM", "-d", str(folder), str(image)]
        run(argv, timeout=30)
        argv = ["losetup", "--find", "--show", "--read-only", str(image)]
        loops.append(run(argv, timeout=10).text.strip())
        return look(places, "systemd-nspawn")

    yield made
    assert str(places.mount_point) not in Path("/proc/self/mounts").read_text()
    for loop in loops:
        run(["losetup", "--detach", loop], timeout=10)


Drive = Callable[[Callable[[Path], object]], Found | None]


def test_the_drive_labelled_sysvm_is_read_and_let_go(drive: Drive) -> None:
    found = drive(lambda folder: (folder / "boot.json").write_bytes(b'{"role": "router"}'))
    assert found is not None
    assert (found.source, found.data, found.problem) == (
        Source.DRIVE,
        b'{"role": "router"}',
        None,
    )


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (lambda folder: None, "the drive labelled SYSVM has no boot.json"),
        (
            lambda folder: (folder / "boot.json").symlink_to("/etc/shadow"),
            "boot.json is a symbolic link",
        ),
        (lambda folder: (folder / "boot.json").mkdir(), "boot.json is not a file"),
        (
            lambda folder: (folder / "boot.json").write_bytes(b" " * 300_000),
            "is larger than 262144 bytes",
        ),
    ],
)
def test_a_drive_with_something_else_is_broken(
    drive: Drive, fill: Callable[[Path], object], message: str
) -> None:
    found = drive(fill)
    assert found is not None
    assert found.problem is not None
    assert (found.data, found.problem.message) == (b"", message)
