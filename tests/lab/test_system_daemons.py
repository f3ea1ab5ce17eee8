"""systemd, haproxy and dnsmasq over their own doors, in the system VM."""

import json
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from appliance.lab import Lab
from appliance.lab.vm import SystemVM
from appliance.lab.wait import wait_until

PYTHON = "/opt/sysvm/bin/python3"

Inside = Callable[..., Any]

UNITS = {
    "good.service": """
        [Service]
        Type=notify
        NotifyAccess=all
        ExecStart=/bin/sh -c 'systemd-notify --ready; exec sleep 1000'
        ExecReload=/bin/true
    """,
    "deaf.service": """
        [Service]
        ExecStart=/bin/sleep 1000
        ExecReload=/bin/sh -c 'echo I do not listen; exit 1'
    """,
    "bad.service": """
        [Service]
        Type=oneshot
        ExecStart=/bin/sh -c 'echo the file has no end; exit 3'
    """,
    "sysvm-confirm@.service": """
        [Service]
        Type=oneshot
        ExecStart=/bin/touch /run/expired-%i
    """,
}


@pytest.fixture(scope="module")
def vm(lab: Lab) -> SystemVM:
    """A system VM with units for the tests."""
    for name, text in UNITS.items():
        lab.vm.put(f"/run/systemd/system/{name}", textwrap.dedent(text).encode())
    lab.vm.run(["systemctl", "daemon-reload"])
    return lab.vm


@pytest.fixture(scope="module")
def inside(vm: SystemVM) -> Inside:
    """Run code in the VM with what is installed there; gives what it leaves in `answer`.

    A StepFailed gives its text instead.
    """
    frame = """
        import dataclasses, json, time
        from agent.engine.host import StepFailed
        from agent.engine.model import *
        from agent.system import dnsmasq, haproxy
        from agent.system.units import Units
        units, answer = Units(), None
        try:
        {code}
        except StepFailed as error:
            answer = str(error)
        print(json.dumps(answer, default=dataclasses.asdict))
    """

    def run(code: str) -> Any:
        indented = textwrap.indent(textwrap.dedent(code).strip(), "    ")
        text = textwrap.dedent(frame).replace("{code}", indented)
        return json.loads(vm.run([PYTHON, "-I", "-c", text]).text)

    return run


# -- units -------------------------------------------------------------------------------------


def test_unit_is_started_reloaded_restarted_and_stopped(inside: Inside) -> None:
    states = inside(
        """
        answer = []
        def note():
            answer.append(units.states(["good.service"])["good.service"])
        note()
        units.start("good.service"); note()
        units.start("good.service"); units.reload("good.service"); note()
        units.restart("good.service"); note()
        units.stop("good.service"); units.stop("good.service"); note()
        """
    )
    assert [state["active"] for state in states] == ["inactive"] + ["active"] * 3 + ["inactive"]
    first, same, other = (state["main_pid"] for state in states[1:4])
    assert first == same != other
    assert first > 0
    assert states[4]["main_pid"] == 0


def test_unit_that_does_not_start_says_why_in_its_own_words(inside: Inside) -> None:
    for _ in range(8):  # more often than systemd's own limit on starts
        assert inside('units.start("bad.service")') == (
            "start bad.service: failed: the file has no end"
        )
    assert inside('answer = units.states(["bad.service"])')["bad.service"]["active"] == "failed"


def test_reload_that_fails_says_why(inside: Inside) -> None:
    said = inside('units.start("deaf.service"); units.reload("deaf.service")')
    assert said == "reload deaf.service: failed: I do not listen"
    said = inside('units.stop("deaf.service"); units.reload("deaf.service")')
    assert said.startswith("reload deaf.service: ")


def test_unit_that_nobody_knows_cannot_start_and_need_not_stop(inside: Inside) -> None:
    assert inside('units.start("missing.service")').startswith("start missing.service: Unit")
    assert inside('units.stop("missing.service")') is None
    assert inside('answer = units.states(["missing.service"])') == {
        "missing.service": {"active": "inactive", "sub": "dead", "main_pid": 0}
    }
    known = 'answer = [units.is_known("missing.service"), units.is_known("good.service")]'
    assert inside(known) == [False, True]


def test_start_need_not_be_waited_for(inside: Inside) -> None:
    assert inside('Units(wait=False).start("bad.service")') is None


def test_detail_tells_how_the_main_process_came_to_be(inside: Inside) -> None:
    detail, now = inside(
        """
        units.start("good.service")
        answer = [units.detail("good.service"), time.monotonic()]
        units.stop("good.service")
        """
    )
    assert detail["state"]["active"] == "active"
    assert now - 30 < detail["started_at"] <= now
    assert (detail["restarts"], detail["result"]) == (0, "success")


# -- the confirm timer -------------------------------------------------------------------------


@pytest.fixture
def expired(vm: SystemVM) -> Iterator[Callable[[int], bool]]:
    yield lambda revision: (vm.root / f"run/expired-{revision}").exists()
    vm.run(["sh", "-c", "systemctl stop 'sysvm-confirm@*.timer'; rm -f /run/expired-*"])


def test_armed_timer_starts_the_service_of_the_revision(
    inside: Inside, expired: Callable[[int], bool]
) -> None:
    inside("units.arm(7, 0.2)")
    wait_until(lambda: expired(7), 10, "the timer")


def test_disarmed_timer_does_not(inside: Inside, expired: Callable[[int], bool]) -> None:
    inside("units.arm(7, 0.5); units.disarm(); units.disarm()")
    inside("units.arm(8, 1.0)")
    wait_until(lambda: expired(8), 10, "the later timer")
    assert not expired(7)


def test_arming_again_replaces_the_timer(inside: Inside, expired: Callable[[int], bool]) -> None:
    inside("units.arm(7, 0.5); units.arm(7, 600); units.arm(8, 0.5); units.arm(9, 1.0)")
    wait_until(lambda: expired(9), 10, "the last timer")
    assert not expired(7)
    assert not expired(8)


# -- haproxy -----------------------------------------------------------------------------------

HAPROXY = """
global
    description witness-{witness}
    stats socket /run/haproxy-test/stats level admin expose-fd listeners
defaults
    mode tcp
    timeout client 5s
    timeout server 5s
    timeout connect 1s
listen web
    bind {address}:8099
    server one 127.0.0.1:1 weight 7
"""


@pytest.fixture(scope="module")
def haproxy(vm: SystemVM) -> Callable[..., None]:
    """Start a haproxy with a master of its own; later calls only write its file."""

    def write(witness: str, address: str = "127.0.0.1", tail: str = "") -> None:
        text = HAPROXY.format(witness=witness, address=address) + tail
        vm.put("/run/haproxy-test/haproxy.cfg", text.encode())

    write("one")
    argv = "systemd-run --unit=haproxy-test --property=Type=notify"
    argv += " haproxy -Ws -f /run/haproxy-test/haproxy.cfg -S /run/haproxy-test/master"
    vm.run(argv.split())
    return write


PROBE = """
from agent.system.netlink import Netlink
from agent.system.probes import Prober
probe = HaproxyRuns("haproxy-test.service", "/run/haproxy-test/stats", "{witness}")
(answer,) = Prober(Netlink(), units).run([probe], {timeout})
"""
RELOAD = 'haproxy.reload("/run/haproxy-test/master")'


def runs(inside: Inside, witness: str, timeout: float = 5.0) -> bool:
    passed: bool = inside(PROBE.format(witness=f"witness-{witness}", timeout=timeout))["passed"]
    return passed


def test_reload_is_done_when_the_new_file_runs(
    inside: Inside, haproxy: Callable[..., None]
) -> None:
    haproxy("one")
    assert inside(RELOAD) is None
    assert runs(inside, "one")
    haproxy("two")
    assert runs(inside, "one")
    assert inside(RELOAD) is None
    assert runs(inside, "two")
    assert not runs(inside, "one", timeout=0.2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tail": "    blance roundrobin\n"}, "blance"),
        ({"address": "192.0.2.77"}, "192.0.2.77"),
    ],
    ids=["syntax", "address"],
)
def test_reload_that_fails_says_why_and_the_old_file_runs_on(
    inside: Inside, haproxy: Callable[..., None], change: dict[str, str], words: str
) -> None:
    haproxy("kept")
    assert inside(RELOAD) is None
    haproxy("broken", **change)
    said = inside(RELOAD)
    assert said.startswith("reload haproxy: ")
    assert words in said
    assert runs(inside, "kept")
    haproxy("healed")
    assert inside(RELOAD) is None
    assert runs(inside, "healed")


CHECK = """
from pathlib import Path
from agent.engine.host import CheckFailed
from agent.system.host import LinuxHost
from agent.system.paths import Paths
paths = Paths(Path("/run/check-test"), Path("/var/lib/check-test"))
good = (
    "defaults\\n mode tcp\\n timeout client 1s\\n timeout server 1s\\n timeout connect 1s\\n"
    "listen web\\n bind 192.0.2.77:80\\n server one 10.1.1.5:80\\n"
)
cfg = paths.current / "haproxy.cfg"
command = Command(("haproxy", "-c", "-f", str(cfg)), "/loadBalancer")
answer = []
with LinuxHost(paths) as host:
    for number, text in enumerate([good, good + " blance roundrobin\\n", good], 1):
        file = File("haproxy.cfg", text.encode())
        host.revisions.stage(number, {file.path: file}, {})
        try:
            host.check(number, [command])
            answer.append(None)
        except CheckFailed as refused:
            answer.append([refused.path, refused.reason])
        if number == 1:
            assert not cfg.exists()
            host.revisions.flip(1)
        assert cfg.read_text() == good
"""


def test_haproxy_checks_the_staged_file_while_the_old_one_runs(inside: Inside) -> None:
    first, (path, reason), third = inside(CHECK)
    assert first is third is None
    assert path == "/loadBalancer"
    assert "blance" in reason


def test_servers_are_told(inside: Inside, haproxy: Callable[..., None]) -> None:
    haproxy("one")
    inside(RELOAD)
    rows = inside('answer = haproxy.servers("/run/haproxy-test/stats")')
    assert [(row["proxy"], row["name"]) for row in rows] == [
        ("web", "FRONTEND"),
        ("web", "one"),
        ("web", "BACKEND"),
    ]
    assert rows[1]["weight"] == 7


# -- dnsmasq -----------------------------------------------------------------------------------

FORGET = """
from ipaddress import ip_address
dnsmasq.forget([Lease("02:00:00:00:00:01", ip_address("10.9.0.5"))])
"""


@pytest.fixture
def leases(vm: SystemVM) -> Iterator[Callable[[], str]]:
    """A dnsmasq that has given out two leases."""
    vm.put(
        "/run/dnsmasq-test/leases",
        b"4000000000 02:00:00:00:00:01 10.9.0.5 one *\n"
        b"4000000000 02:00:00:00:00:02 10.9.0.6 two *\n",
    )
    argv = "systemd-run --unit=dnsmasq-test --service-type=dbus"
    argv += " --property=BusName=uk.org.thekelleys.dnsmasq"
    argv += " dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --enable-dbus --pid-file="
    argv += " --user=root --dhcp-range=10.9.0.0,static --dhcp-leasefile=/run/dnsmasq-test/leases"
    vm.run(argv.split())
    yield lambda: vm.read("/run/dnsmasq-test/leases").decode()
    vm.run(["systemctl", "stop", "dnsmasq-test"])


def test_lease_is_forgotten_and_no_other(inside: Inside, leases: Callable[[], str]) -> None:
    assert inside(FORGET) is None
    wait_until(lambda: "10.9.0.5" not in leases(), 5, "the lease goes")
    assert "10.9.0.6" in leases()
    assert inside(FORGET) is None


def test_dnsmasq_that_does_not_run_holds_no_leases(inside: Inside) -> None:
    assert inside(FORGET) is None
