"""The lab itself: what every other lab test stands on."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent.system.run import Completed, run
from appliance.errors import ApplianceError
from appliance.lab import Lab, consoles, remains, state
from appliance.lab.node import NoLease
from appliance.lab.process import Identity, spawn
from appliance.lab.wait import wait_until
from tests.lab.conftest import Boot, lab_name


def traces(name: str) -> list[str]:
    """Whatever of a lab of this name can be seen on the host."""
    found = [str(path) for path in Path("/run/netns").glob(f"{name}-*")]
    found += [str(path) for path in Path("/etc/netns").glob(f"{name}-*")]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/*{name}-*")]
    found += [line for line in Path("/proc/self/mounts").read_text().split("\n") if name in line]
    for process in Path("/proc").glob("[0-9]*"):
        if Identity.of(int(process.name)) is None:
            continue
        try:
            line = (process / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"/{name}/".encode() in line or f"={name}-".encode() in line:
            found.append(line.decode())
    if (state.folder() / name).exists():
        found.append(str(state.folder() / name))
    return found


@pytest.fixture(scope="module")
def bare(boot_lab: Boot) -> Lab:
    """A lab whose agent need not answer."""
    return boot_lab()


def test_its_vm_runs_systemd_with_its_links_down(boot_lab: Boot) -> None:
    vm = boot_lab().vm
    assert vm.run(["cat", "/proc/1/comm"]).text.strip() == "systemd"
    links = json.loads(vm.run(["ip", "-json", "link"]).text)
    macs = {link["ifname"]: link["address"] for link in links if link["ifname"] != "lo"}
    assert macs == {nic.name: nic.mac for nic in vm.spec.nics}


def test_down_leaves_no_trace() -> None:
    lab = Lab.up(name=lab_name())
    assert traces(lab.name)
    lab.down()
    assert traces(lab.name) == []


def test_screens_and_the_port_that_leads_to_them_leave_no_trace() -> None:
    lab = Lab.up("proxy", name=lab_name())
    for vm in lab.vms.values():
        vm.wait_ready()
    port = urlsplit(consoles.show(lab, "vm1").url).port
    screen = consoles.screen_of(lab, "vm1")
    another = lab.hypervisor.desktop(lab.guests["vm1"], 5907)
    numbers = [(one.folder / "display").read_text() for one in (screen, another)]
    assert numbers[0] != numbers[1]
    places = [Path(f"/tmp/.X11-unix/X{number}") for number in numbers]
    locks = [Path(f"/tmp/.X{number}-lock") for number in numbers]
    assert all(map(Path.exists, places))
    owners = [lock.read_text() for lock in locks]
    server = f"0100007F:{port:04X} 00000000:0000 0A"
    assert server in Path("/proc/net/tcp").read_text()
    lab.down()
    assert traces(lab.name) == []
    for place, lock, owner in zip(places, locks, owners, strict=True):
        # Another lab may have been given the number meanwhile.
        assert not lock.exists() or lock.read_text() != owner
        assert not place.exists() or lock.exists()
    assert server not in Path("/proc/net/tcp").read_text()


def test_a_half_built_lab_goes_down() -> None:
    name = lab_name()
    lab = Lab.up(name=name)
    # Processes and files of it are missing, as after a crash in the middle.
    supervisor, nspawn = lab.vm.status.supervisor, lab.vm.status.nspawn
    assert supervisor is not None
    assert nspawn is not None
    supervisor.send(9)
    assert supervisor.wait(5)
    (lab.vm.container.path / "status.json").unlink()
    Lab.find(name).down()
    assert traces(name) == []
    assert nspawn.wait(5)


def sysvm(folder: Path, *words: str) -> Completed:
    """The command line, about labs of its own alone."""
    program = str(Path(sys.executable).with_name("sysvm"))
    return run([program, *words], timeout=120, check=False, env={"SYSVM_LAB": str(folder)})


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a lab that may be left half made; in a folder of its own."""
    monkeypatch.setenv("SYSVM_LAB", str(tmp_path))
    name = lab_name()
    yield name
    remains.remove(name)


def test_a_lab_whose_maker_is_killed_goes_down_with_all_others(killed: str, tmp_path: Path) -> None:
    """Wherever it is killed: here, while the second of two VMs is started."""
    name = killed
    program = Path(sys.executable).with_name("sysvm")
    up = [str(program), "lab", "up", "--name", name, "--topology", "sites"]
    maker = spawn(up, env={"SYSVM_LAB": str(tmp_path)})
    second = tmp_path / name / "vmb" / "settings.json"
    wait_until(second.exists, 60, "the second VM's folder", every=0.001)
    maker.kill()
    maker.wait()
    # Others that this version does not know, or that had not begun to be one.
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/lab.json").write_text('{"topology": "of another version"}')
    (tmp_path / "none").mkdir()
    shown = sysvm(tmp_path, "lab", "status").text
    assert shown.count("half made") == 2
    refused = sysvm(tmp_path, "lab", "shell", "--name", "odd")
    assert refused.returncode != 0
    done = sysvm(tmp_path, "lab", "down", "--all")
    assert done.returncode == 0, done.text
    assert {f"lab {one} is down" for one in (name, "none", "odd")} == set(done.text.splitlines())
    assert traces(name) == []
    assert not tmp_path.exists() or not list(tmp_path.iterdir())
    assert "no lab is up" in sysvm(tmp_path, "lab", "status").text


def test_two_labs_do_not_see_each_other(boot_lab: Boot) -> None:
    one, other = boot_lab(), boot_lab()
    one.guests["vm1"].run(["ip", "address", "add", "10.1.1.50/24", "dev", "eth0"])
    one.guests["vm2"].run(["ip", "address", "add", "10.1.1.51/24", "dev", "eth0"])
    other.guests["vm1"].run(["ip", "address", "add", "10.1.1.52/24", "dev", "eth0"])
    assert one.guests["vm1"].pings("10.1.1.51")
    assert not one.guests["vm1"].pings("10.1.1.52")


def test_a_second_lab_of_the_same_name_is_refused(bare: Lab) -> None:
    with pytest.raises(ApplianceError, match="up already"):
        Lab.up(name=bare.name)


def test_a_reboot_keeps_the_disk_and_nothing_that_the_kernel_knew(bare: Lab) -> None:
    vm = bare.vm
    vm.put("/var/lib/sysvm/kept", b"on disk")
    vm.put("/run/lost", b"in memory")
    vm.run(["ip", "link", "set", "eth0", "up"])
    vm.run(["ip", "address", "add", "192.0.2.77/24", "dev", "eth0"])
    vm.run(["iptables", "-t", "mangle", "-N", "lost"])
    before = vm.status.boots
    vm.reboot()
    assert vm.status.boots == before + 1
    assert vm.read("/var/lib/sysvm/kept") == b"on disk"
    assert vm.run(["test", "-e", "/run/lost"], check=False).returncode != 0
    assert "192.0.2.77" not in vm.run(["ip", "address"]).text
    assert "lost" not in vm.run(["iptables-save"]).text


def test_the_vm_can_restart_itself(bare: Lab) -> None:
    boots = bare.vm.status.boots
    bare.vm.run(["systemctl", "reboot"])
    bare.vm.wait_reboot(boots)
    assert bare.vm.running


def test_a_pulled_plug_stops_everything_and_keeps_the_disk(bare: Lab) -> None:
    vm = bare.vm
    vm.put("/var/lib/sysvm/plug", b"kept")
    leader = vm.leader
    vm.pull_plug()
    assert not vm.running
    assert Identity.of(leader) is None
    with pytest.raises(ApplianceError, match="not running"):
        vm.run(["true"])
    vm.start()
    assert vm.read("/var/lib/sysvm/plug") == b"kept"


def test_credentials_reach_the_vm_and_can_be_taken_back(bare: Lab) -> None:
    vm = bare.vm
    folder = "/run/credentials/@system"
    told = json.loads(vm.read(f"{folder}/sysvm.boot"))
    assert told == vm.boot_configuration()
    assert told["control"]["allowed_names"] == ["sysvm-manager"]
    vm.pull_plug()
    vm.set_fault("swap")
    vm.start()
    assert vm.read(f"{folder}/sysvm.fault") == b"swap"
    vm.pull_plug()
    vm.set_fault(None)
    vm.start()
    assert vm.run(["ls", folder]).text.split() == ["sysvm.boot"]


def test_the_internet_serves_a_page_and_names(bare: Lab) -> None:
    internet = bare.internet
    answer = internet.get("http://198.51.100.10/hello")
    assert answer.status == 200
    assert answer.headers["x-client"] == "198.51.100.10"
    assert internet.lookup("www.example.test") == ("198.51.100.10",)
    assert internet.lookup("nothing.example.test") == ()
    assert internet.curl("http://shop.example.test/").text == "internet sees 198.51.100.20\n"
    assert internet.visitors()[-1] == "198.51.100.20"


def test_a_guest_takes_what_dhcp_gives(boot_lab: Boot) -> None:
    lab = boot_lab()
    guest, server = lab.guests["vm1"], lab.guests["vm2"]
    with pytest.raises(NoLease):
        guest.dhcp(attempts=1)
    server.run(["ip", "address", "add", "10.7.7.1/24", "dev", "eth0"])
    given = ["--dhcp-range=10.7.7.9,10.7.7.9,12h", "--dhcp-option=option:mtu,1400"]
    given += ["--domain=cloud.test", "--dhcp-option=option:router,10.7.7.1"]
    quiet = ["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--port=0"]
    leases = ["--user=root", "--group=root", f"--dhcp-leasefile={server.folder}/leases"]
    dnsmasq = server.popen(["dnsmasq", *quiet, *leases, *given])
    try:
        lease = guest.dhcp()
    finally:
        dnsmasq.kill()
        dnsmasq.communicate()
    assert (lease.address, lease.prefix, lease.seconds) == ("10.7.7.9", 24, 43200)
    assert (lease.routers, lease.domain, lease.mtu) == (("10.7.7.1",), "cloud.test", 1400)
    shown = guest.run(["ip", "address", "show", "eth0"]).text
    assert "10.7.7.9/24" in shown
    assert "mtu 1400" in shown
    assert "via 10.7.7.1" in guest.run(["ip", "route", "show", "default"]).text
    assert guest.run(["cat", "/etc/resolv.conf"]).text == "search cloud.test\n" + (
        "nameserver 10.7.7.1\n" if lease.nameservers else ""
    )
    guest.forget()
    assert "10.7.7.9" not in guest.run(["ip", "address"]).text


@pytest.mark.parametrize("protocol", ["http", "tcp", "udp"])
def test_a_node_serves_and_says_who_asked(bare: Lab, protocol: str) -> None:
    one, other = bare.guests["vm1"], bare.guests["vm2"]
    one.run(["ip", "address", "replace", "10.9.9.1/24", "dev", "eth0"])
    other.run(["ip", "address", "replace", "10.9.9.2/24", "dev", "eth0"])
    with one.serve(8080, protocol=protocol) as server:
        match protocol:
            case "http":
                said = other.get("http://10.9.9.1:8080/x").body
            case "tcp":
                with other.connect("10.9.9.1", 8080) as sock:
                    said = sock.recv(100)
            case _:
                said = other.ask("10.9.9.1", 8080, b"") or b""
        assert said == b"vm1 sees 10.9.9.2\n"
        wait_until(server.exchanges, 2, "the exchange in the log")
        assert [entry["client"] for entry in server.exchanges()] == ["10.9.9.2"]
    if protocol != "udp":
        wait_until(lambda: not other.reaches("10.9.9.1", 8080), 5, "the server to be gone")


def test_a_new_agent_is_installed_into_the_running_vm(lab: Lab) -> None:
    leader = lab.vm.leader
    before = lab.vm.run(["systemctl", "show", "-P", "MainPID", "sysvm-agent"]).text
    lab.vm.reload()
    lab.vm.wait_ready()
    assert lab.vm.leader == leader
    assert lab.vm.run(["systemctl", "show", "-P", "MainPID", "sysvm-agent"]).text != before


def test_nothing_of_a_lab_is_in_the_hosts_own_network(bare: Lab) -> None:
    links = os.listdir("/sys/class/net")  # noqa: PTH208
    assert not {name for name in links if name.startswith(("vm", "br-", "internet"))}
    assert bare.vm.running
