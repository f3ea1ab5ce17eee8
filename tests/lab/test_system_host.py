"""The machine as a whole, in a network of the test's own: stage, check, perform, observe."""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Interface, ip_network
from pathlib import Path

import pytest

from agent.engine.host import CheckFailed, HostFull, Scope, StepFailed
from agent.engine.model import (
    AddAddress,
    Address,
    AddressSet,
    Command,
    Desired,
    DnsAnswers,
    Family,
    File,
    Flip,
    Observed,
    Probe,
    PutSet,
    PutTable,
    RemoveAddress,
    RemoveSet,
    Route,
    RouteExists,
    SetSysctl,
    SetType,
    Step,
    Sysctl,
    Table,
)
from agent.system import xtables
from agent.system.host import LinuxHost
from agent.system.namespaces import Scratch
from agent.system.paths import Paths
from agent.system.run import run
from appliance.lab.process import spawn
from appliance.lab.wait import wait_until
from tests.unit.engine.memory import NOTHING

NIC = "eth0"
SCOPE = Scope(frozenset(), frozenset({"net.ipv4.conf.eth0.rp_filter"}))


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    made = Scratch("test")
    yield made
    made.close()


@pytest.fixture
def host(scratch: Scratch, tmp_path: Path) -> Iterator[LinuxHost]:
    tmp_path.chmod(0o755)
    paths = Paths(run=tmp_path / "run", state=tmp_path / "state")

    def make() -> LinuxHost:
        run(["ip", "link", "add", NIC, "type", "veth", "peer", "name", "peer"], timeout=5)
        for nic in (NIC, "peer"):
            run(["ip", "link", "set", nic, "up"], timeout=5)
        return LinuxHost(paths)

    made = scratch.do(make)
    yield made
    scratch.do(made.close)


@pytest.fixture
def perform(scratch: Scratch, host: LinuxHost) -> Callable[..., None]:
    """Do steps, each twice."""

    def do(*steps: Step, revision: int = 1) -> None:
        for step in steps:
            for _ in range(2):
                scratch.do(lambda step=step: host.perform(step, revision))  # type: ignore[misc]

    return do


@pytest.fixture
def observe(scratch: Scratch, host: LinuxHost) -> Callable[[], Observed]:
    return lambda: scratch.do(lambda: host.observe(SCOPE))


def desired(*files: File) -> Desired:
    return replace(NOTHING, files={file.path: file for file in files})


def test_steps_done_twice_are_seen_once_and_undone(
    perform: Callable[..., None], observe: Callable[[], Observed]
) -> None:
    before = observe()
    address = Address(NIC, IPv4Interface("10.1.1.1/24"))
    guests = AddressSet("guests", Family.V4, SetType.NET, frozenset({"10.1.1.0/24"}))
    text = (
        "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
        "-A INPUT -m set --match-set guests src -j ACCEPT\nCOMMIT\n"
    )
    empty = xtables.empty(Table.FILTER)
    sysctl = Sysctl("net.ipv4.conf.eth0.rp_filter", "1")
    perform(
        PutSet(guests, None),
        PutTable(Family.V4, Table.FILTER, text, empty),
        SetSysctl(sysctl, "0"),
        AddAddress(address),
    )
    seen = observe()
    assert seen.sets == {"guests": guests}
    assert seen.firewall == {**before.firewall, (Family.V4, Table.FILTER): text}
    assert seen.sysctls == {sysctl.key: "1"}
    assert seen.addresses == {address}
    perform(
        RemoveAddress(address),
        SetSysctl(Sysctl(sysctl.key, before.sysctls[sysctl.key]), "1"),
        PutTable(Family.V4, Table.FILTER, empty, text),
        RemoveSet(guests),
    )
    assert observe() == before


def test_first_address_of_a_network_goes_without_the_others(
    perform: Callable[..., None], observe: Callable[[], Observed]
) -> None:
    first, second = (Address(NIC, IPv4Interface(f"10.1.1.{n}/24")) for n in (1, 2))
    perform(AddAddress(first), AddAddress(second), RemoveAddress(first))
    assert observe().addresses == {second}


def test_table_that_another_hand_emptied_before_the_edit_is_replaced(
    perform: Callable[..., None], observe: Callable[[], Observed], scratch: Scratch
) -> None:
    head = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
    was = f"{head}-A INPUT -s 10.0.0.1/32 -j ACCEPT\nCOMMIT\n"
    now = f"{head}-A INPUT -s 10.0.0.2/32 -j ACCEPT\nCOMMIT\n"
    edits = "*filter\n-D INPUT 1\n-I INPUT 1 -s 10.0.0.2/32 -j ACCEPT\nCOMMIT\n"
    step = PutTable(Family.V4, Table.FILTER, now, was, edits)
    perform(PutTable(Family.V4, Table.FILTER, was, xtables.empty(Table.FILTER)))
    perform(step)
    assert observe().firewall[Family.V4, Table.FILTER] == now
    scratch.do(lambda: run(["iptables-nft", "-F"], timeout=5))
    perform(step)
    assert observe().firewall[Family.V4, Table.FILTER] == now


def test_table_that_loses_its_last_rule_loses_its_hooks(
    perform: Callable[..., None], observe: Callable[[], Observed], scratch: Scratch
) -> None:
    empty = xtables.empty(Table.NAT)
    text = empty.replace("COMMIT", "-A PREROUTING -s 10.0.0.1/32 -j RETURN\nCOMMIT")
    perform(PutTable(Family.V4, Table.NAT, text, empty))
    perform(PutTable(Family.V4, Table.NAT, empty, text, "*nat\n-D PREROUTING 1\nCOMMIT\n"))
    assert observe().firewall[Family.V4, Table.NAT] == empty
    assert scratch.do(lambda: run(["nft", "list", "tables"], timeout=5).text) == ""


def test_failing_step_says_what_and_why(perform: Callable[..., None]) -> None:
    with pytest.raises(StepFailed, match=r"PutTable: .*iptables-nft-restore"):
        perform(PutTable(Family.V4, Table.FILTER, "*filter\n-A nowhere -j DROP\nCOMMIT\n", ""))


# -- check -------------------------------------------------------------------------------------


def test_checker_sees_the_staged_revision_and_nobody_else_does(
    scratch: Scratch, host: LinuxHost, observe: Callable[[], Observed]
) -> None:
    path = host.paths.current / "haproxy/haproxy.cfg"
    seen = host.paths.run / "seen"
    copy = ("cp", str(path), str(seen))
    host.stage(1, desired(File("haproxy/haproxy.cfg", b"one")))
    scratch.do(lambda: host.check(1, [Command(copy)]))  # before there is any revision
    assert seen.read_bytes() == b"one"
    assert not path.exists()
    host.perform(Flip(()), 1)
    host.stage(2, desired(File("haproxy/haproxy.cfg", b"two")))
    scratch.do(lambda: host.check(2, [Command(copy)]))
    assert seen.read_bytes() == b"two"
    assert path.read_bytes() == b"one"
    scratch.do(lambda: host.check(1, [Command(copy)]))
    assert seen.read_bytes() == b"one"
    assert observe().revision == 1


def test_checker_that_fails_leaves_no_mount(scratch: Scratch, host: LinuxHost) -> None:
    host.stage(1, desired(File("a", b"one")))
    for _ in range(2):
        with pytest.raises(CheckFailed, match="exit code 1"):
            scratch.do(lambda: host.check(1, [Command(("false",))]))
    seen = host.paths.run / "mounts"
    scratch.do(lambda: host.check(1, [Command(("cp", "/proc/self/mountinfo", str(seen)))]))
    mounted = [line for line in seen.read_text().splitlines() if str(host.paths.revisions) in line]
    assert len(mounted) == 1
    assert str(host.paths.revisions) not in Path("/proc/self/mountinfo").read_text()


def test_scratch_keeps_nothing_of_what_it_did(scratch: Scratch) -> None:
    class Large:
        pass

    made = scratch.do(Large)
    left = weakref.ref(made)
    del made
    wait_until(lambda: left() is None, 5, "it is gone")


def test_checker_that_hangs_is_ended(scratch: Scratch, host: LinuxHost) -> None:
    host.stage(1, desired())
    with pytest.raises(CheckFailed, match=r"longer than 0\.1 s") as refused:
        scratch.do(lambda: host.check(1, [Command(("sleep", "60"), "/x", timeout=0.1)]))
    assert refused.value.path == "/x"


def test_checker_has_loopback_and_no_other_network(scratch: Scratch, host: LinuxHost) -> None:
    host.stage(1, desired())
    seen = host.paths.run / "links"
    rule = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT DROP [0:0]\nCOMMIT\n"
    scratch.do(lambda: host.rehearse({}, {(Family.V4, Table.FILTER): rule}))
    scratch.do(lambda: host.check(1, [Command(("ping", "-c1", "-W2", "127.0.0.1"))]))
    scratch.do(lambda: host.check(1, [Command(("cp", "/proc/net/dev", str(seen)))]))
    names = [line.split(":")[0].strip() for line in seen.read_text().splitlines() if ":" in line]
    assert NIC not in names
    assert "lo" in names


def test_mounts_of_the_host_do_not_stay_in_the_scratch(tmp_path: Path) -> None:
    """Else a share that is unmounted would stay in use."""
    outer = Scratch("outer")

    def check() -> None:
        run(["mount", "--make-rshared", "/"], timeout=5)
        run(["mount", "-t", "tmpfs", "probe", str(tmp_path)], timeout=5)
        inner = Scratch("inner")

        def seen() -> bool:
            return str(tmp_path) in run(["cat", "/proc/self/mountinfo"], timeout=5).text

        assert inner.do(seen)
        run(["umount", str(tmp_path)], timeout=5)
        assert not inner.do(seen)
        inner.close()

    outer.do(check)
    outer.close()


# -- room --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["size=2m", "nr_inodes=70", "ro"])
def test_full_or_read_only_disk_is_told_before_anything_is_staged(
    tmp_path: Path, options: str
) -> None:
    scratch = Scratch("test")

    def check() -> None:
        run(["mount", "-t", "tmpfs", "probe", str(tmp_path)], timeout=5)
        host = LinuxHost(Paths(run=tmp_path / "run", state=tmp_path / "state"))
        run(["mount", "-o", f"remount,{options}", str(tmp_path)], timeout=5)
        many = [File(f"{n}", bytes(200_000)) for n in range(10)]
        with pytest.raises(HostFull, match=str(tmp_path)):
            host.stage(1, desired(*many))
        assert host.revisions.numbers() == []
        assert list(host.paths.objects.iterdir()) == []
        host.close()

    scratch.do(check)
    scratch.close()


# -- probes ------------------------------------------------------------------------------------


def test_name_server_must_answer_with_the_addresses(scratch: Scratch, host: LinuxHost) -> None:
    argv = "dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root"
    argv += " --listen-address=127.0.0.1 --bind-interfaces --pid-file="
    argv += " --host-record=web.test,10.1.1.5,2001:db8::5 --host-record=two.test,10.1.1.6,10.1.1.7"
    server = ip_network("127.0.0.1").network_address
    unit = "dnsmasq.service"

    def asked(name: str, *expect: str) -> tuple[bool, str]:
        probe: Probe = DnsAnswers(unit, server, name, expect)
        (result,) = host.probe([probe], 0.3)
        return result.passed, result.detail

    def check() -> None:
        passed, detail = asked("web.test")
        assert not passed
        assert "web.test" in detail
        daemon = spawn(argv.split())
        try:
            wait_until(lambda: asked("web.test", "10.1.1.5")[0], 10, "dnsmasq answers")
            assert asked("web.test")[0]
            assert asked("web.test", "2001:db8::5", "10.1.1.5")[0]
            passed, detail = asked("web.test", "10.1.1.6")
            assert not passed
            assert "answers 10.1.1.5 for web.test, not 10.1.1.6" in detail
            assert not asked("two.test", "10.1.1.6")[0]
            passed, detail = asked("missing.test", "10.1.1.5")
            assert not passed
            assert "REFUSED" in detail or "NXDOMAIN" in detail
        finally:
            daemon.kill()
            daemon.wait()

    scratch.do(check)


def test_route_must_be_one_of_ours(scratch: Scratch, host: LinuxHost) -> None:
    route = Route(ip_network("172.16.0.0/12"), None, NIC)
    probe: Probe = RouteExists("sysvm", route)
    assert [result.passed for result in scratch.do(lambda: host.probe([probe], 0.05))] == [False]
    scratch.do(lambda: host.netlink.add_route(route))
    assert [result.passed for result in scratch.do(lambda: host.probe([probe], 0.05))] == [True]
