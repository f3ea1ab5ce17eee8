"""Health checks on a router that serves: broken by hand, they name what is missing, and where."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.document.document import merge
from appliance.lab import Lab
from appliance.lab.wait import wait_until
from tests.lab.helpers import (
    CALM,
    PUBLIC_MAC,
    VM1,
    VM1_MAC,
    VM2_MAC,
    Router,
    example,
    frames,
    settle,
    wire,
)
from tests.lab.test_hostile_disk import STATE, fill, small_disk

DOMAIN = "net1.example.internal"
# As many as a check may not have; where the kernel counts tasks (it need not in a container), it
# gets fewer. Not without end: the machine is not the test's alone.
FORKS = "for n in $(seq 60); do setsid sleep 302 & done; sleep 302"

Result = Mapping[str, Any]


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    """The example runs, and watches itself at no interval unless a test says so."""
    router = Router(lab)
    quiet = {"monitoring": {"interval": 0, "advanced_interval": 0}}
    router.push(merge(merge(example(), CALM), quiet))
    settle(lab.guests["vm1"], VM1)
    return router


def check(lab: Lab, name: str) -> Result:
    """What a check finds now."""
    answer = lab.vm.request("POST", f"/v1/health/run?name={name}")
    assert answer.status == 200, answer.text
    (result,) = answer.json()
    return dict(result)


def health(lab: Lab) -> dict[str, Any]:
    """What is known."""
    answer = lab.vm.request("GET", "/v1/health")
    assert answer.status == 200, answer.text
    value: dict[str, Any] = answer.json()
    return value


def ill(lab: Lab) -> list[Result]:
    """What a whole round, run now, finds wrong."""
    answer = lab.vm.request("POST", "/v1/health/run")
    assert answer.status == 200, answer.text
    return [one for one in answer.json() if one["verdict"] not in {"passed", "skipped"}]


def passes(lab: Lab, name: str) -> None:
    def well() -> bool:
        result = check(lab, name)
        return bool(result["verdict"] == "passed")

    wait_until(well, 15, f"a {name} that passes")


@contextmanager
def broken(lab: Lab, name: str, item: str, path: str, *, verdict: str = "failed") -> Iterator[None]:
    """Around what breaks something: it passed before, and passes again when it is put back.

    The block's first half breaks; the check then names the item and its place.
    """
    passes(lab, name)
    yield
    result = check(lab, name)
    assert result["verdict"] == verdict, result
    assert any(item in one for one in (*result["missing"], result["message"])), result
    assert result["path"] == path, result


def sh(lab: Lab, script: str) -> str:
    return lab.vm.run(["sh", "-ec", script]).text


def ask(lab: Lab, path: str, command: str) -> str:
    """A command to one of haproxy's sockets."""
    script = (
        "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        "s.sendall(sys.argv[2].encode()+b'\\n'); "
        "print(b''.join(iter(lambda: s.recv(65536), b'')).decode())"
    )
    return lab.vm.run(["/opt/sysvm/bin/python3", "-c", script, path, command]).text


# -- everything is well ------------------------------------------------------------------------


def test_a_router_that_serves_is_well_and_says_so_everywhere(lab: Lab, router: Router) -> None:
    assert ill(lab) == []
    known = health(lab)
    assert (known["worst"], known["failing"]) == ("passed", [])
    names = {one["name"] for one in known["results"]}
    assert {"services", "gateways", "dhcp", "dns", "load-balancer", "firewall"} <= names
    assert {one["revision"] for one in known["results"] if one["level"] == "advanced"} == {
        router.current()
    }
    told = lab.vm.run(["sysvmctl", "check"])
    assert all(len(line) <= 80 for line in told.text.splitlines())
    assert "Health    ok" in sh(lab, "sysvmctl status")
    for level in ("basic", "advanced"):
        value = json.loads(lab.vm.read(f"/run/sysvm/health/{level}.json"))
        assert {one["name"] for one in value["results"]} == {
            one["name"] for one in known["results"] if one["level"] == level
        }


def test_metrics_are_served_to_management_alone(lab: Lab, router: Router) -> None:
    assert ill(lab) == []
    lab.guests["vm1"].run(["ping", "-c1", "-W5", "10.1.1.1"])
    answer = lab.manager.request("GET", "/v1/metrics")
    assert answer.status == 200
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert found[("sysvm_revision",)] == router.current()
    assert found["sysvm_service_up", ("unit", "dnsmasq.service")] == 1
    assert found["sysvm_interface_receive_bytes_total", ("interface", "eth0")] > 0
    assert found[("sysvm_connections_limit",)] > 0
    assert found["sysvm_balancer_up", ("listener", "shop"), ("server", "")] == 1
    assert found["sysvm_check_ok", ("check", "dns"), ("level", "advanced")] == 1
    assert found["sysvm_change_duration_seconds_count", ("result", "committed")] >= 1


@pytest.mark.parametrize("kind", ["no guests", "no services", "stopped servers"])
def test_what_a_vm_does_not_have_is_no_failure(lab: Lab, router: Router, kind: str) -> None:
    """Case 44."""
    document = example()
    if kind == "no guests":
        document["dhcp_dns"] |= {"hosts": {}, "ranges": {}}
        document["user_data"]["guests"] = {}
        document["dhcp_dns"]["dns"]["records"] = {}
    if kind == "no services":
        for section in ("dhcp_dns", "load_balancer", "user_data", "nat", "firewall"):
            del document[section]
    before = router.document
    router.push(merge(document, before["monitoring"] and {"monitoring": before["monitoring"]}))
    try:
        assert ill(lab) == []
        skipped = [one for one in health(lab)["results"] if one["verdict"] == "skipped"]
        assert all(one["message"] for one in skipped)
        if kind != "stopped servers":
            assert "dhcp" in {one["name"] for one in skipped}
    finally:
        router.push(before)


# -- the kernel --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rule", "path"),
    [
        ("firewall", "-A in4-203.0.113.10 .*/web", "/firewall/ingress/203.0.113.10/web"),
        ("forwards", "-A to4-203.0.113.10 .*/web", "/nat/forwards/web"),
        ("forwards", "-A to4-203.0.113.12 ", "/nat/static/203.0.113.12"),
    ],
)
def test_a_rule_that_is_gone_is_named(
    lab: Lab, router: Router, name: str, rule: str, path: str
) -> None:
    with broken(lab, name, path, path):
        sh(
            lab,
            "iptables-save > /run/before; "
            f"grep -e '{rule}' /run/before | head -1 | grep . ; "
            f"sed '0,/{rule.replace('/', '.')}/{{//d}}' /run/before | iptables-restore",
        )
    sh(lab, "iptables-restore < /run/before")
    passes(lab, name)


def test_a_rule_that_somebody_added_is_a_warning(lab: Lab, router: Router) -> None:
    rule = "INPUT -p tcp --dport 23 -j ACCEPT"
    with broken(lab, "firewall", "--dport 23", "", verdict="warning"):
        sh(lab, f"iptables -A {rule}")
    sh(lab, f"iptables -D {rule}")
    passes(lab, "firewall")


def test_a_member_of_a_set_that_is_gone_is_named(lab: Lab, router: Router) -> None:
    with broken(lab, "firewall", "203.0.113.11,tcp:80", "/load_balancer"):
        sh(lab, "ipset del lb4 203.0.113.11,tcp:80")
    sh(lab, "ipset add lb4 203.0.113.11,tcp:80")
    passes(lab, "firewall")


def test_an_address_that_is_gone_is_named(lab: Lab, router: Router) -> None:
    path = f"/site/nics/{PUBLIC_MAC}/addresses/203.0.113.12~124"
    with broken(lab, "network", "203.0.113.12/24 on eth2", path):
        sh(lab, "ip address del 203.0.113.12/24 dev eth2")
    sh(lab, "ip address add 203.0.113.12/24 dev eth2")
    passes(lab, "network")


# -- daemons -----------------------------------------------------------------------------------


def test_a_daemon_that_is_down_is_named(lab: Lab, router: Router) -> None:
    with broken(lab, "services", "haproxy.service", "/load_balancer"):
        sh(lab, "systemctl mask --runtime --now haproxy.service")
    assert check(lab, "load-balancer")["missing"] == ["haproxy.service"]
    assert lab.vm.run(["sysvmctl", "check", "--name", "services"], check=False).returncode == 1
    sh(lab, "systemctl unmask --runtime haproxy.service; systemctl start haproxy.service")
    passes(lab, "services")
    assert lab.vm.run(["sysvmctl", "check", "--name", "services"], check=False).returncode == 0


def without(lab: Lab, path: str, word: str) -> None:
    """Cover a file of the running revision by one without the lines that have a word."""
    sh(
        lab,
        f"grep -v '{word}' /run/sysvm/current/{path} > /run/other; chmod 644 /run/other; "
        f"mount --bind /run/other /run/sysvm/current/{path}; systemctl reload dnsmasq",
    )


def uncover(lab: Lab, path: str) -> None:
    sh(lab, f"umount /run/sysvm/current/{path}; systemctl reload dnsmasq")


def test_a_host_that_dnsmasq_does_not_know_is_named(lab: Lab, router: Router) -> None:
    path = f"/dhcp_dns/hosts/{VM2_MAC}"
    with broken(lab, "dhcp", f"{path} ({VM2_MAC}", path):
        without(lab, "dnsmasq/hosts", VM2_MAC)
    uncover(lab, "dnsmasq/hosts")
    passes(lab, "dhcp")


def test_a_service_that_is_held_is_no_failure(lab: Lab, router: Router) -> None:
    """Case 44."""
    sh(lab, "sysvmctl service hold dnsmasq --for 10m --reason repair; systemctl stop dnsmasq")
    try:
        wait_until(lambda: ill(lab) == [], 15, "nothing that is ill")
        for name in ("dhcp", "dns"):
            result = check(lab, name)
            assert (result["verdict"], "repair" in result["message"]) == ("skipped", True)
        assert "dnsmasq.service is held" in check(lab, "services")["message"]
    finally:
        sh(lab, "sysvmctl service release dnsmasq; systemctl start dnsmasq")
    passes(lab, "dhcp")
    passes(lab, "services")


def test_asking_for_offers_spends_no_lease_and_is_not_seen_outside(
    lab: Lab, router: Router
) -> None:
    leases = "cat /var/lib/sysvm/leases/dnsmasq.leases 2>/dev/null || true"
    before = sh(lab, leases)
    with wire(lab.guests["vm1"]) as sock:
        passes(lab, "dhcp")
        lab.guests["vm1"].pings("10.1.1.1")
        came = list(frames(sock))
    assert came
    assert not [one for one in came if one[23] == 17 and one[36:38] in {b"\0\x43", b"\0\x44"}]
    assert sh(lab, leases) == before
    said = lab.vm.journal("-u", "dnsmasq", "-n", "40")
    assert f"DHCPOFFER(eth0) {VM1} {VM1_MAC}" in said


def test_a_host_that_is_offered_another_address_is_named(lab: Lab, router: Router) -> None:
    """The files are right again, and so is the witness: dnsmasq was told something else.

    What it would offer from the range it first looks for with a ping, for longer than is waited.
    """
    path = f"/dhcp_dns/hosts/{VM1_MAC}/address"
    with broken(lab, "dhcp", f"{path} (is offered ", path):
        without(lab, "dnsmasq/hosts", VM1_MAC)
        sh(lab, "umount /run/sysvm/current/dnsmasq/hosts")
    sh(lab, "systemctl reload dnsmasq")
    passes(lab, "dhcp")


def test_files_that_dnsmasq_has_not_read_are_told(lab: Lab, router: Router) -> None:
    """The files are right again, and dnsmasq still has the others."""
    with broken(lab, "dhcp", "has not read the files", "/dhcp_dns"):
        without(lab, "dnsmasq/names", "witness")
        sh(lab, "umount /run/sysvm/current/dnsmasq/names")
    sh(lab, "systemctl reload dnsmasq")
    passes(lab, "dhcp")


@pytest.mark.parametrize(
    ("name", "path"),
    [("vm1", f"/dhcp_dns/hosts/{VM1_MAC}/name"), ("db", "/dhcp_dns/dns/records/db")],
)
def test_a_name_that_does_not_resolve_is_named(
    lab: Lab, router: Router, name: str, path: str
) -> None:
    with broken(lab, "dns", f"{path} ({name}.{DOMAIN} at 10.1.1.1: ", path):
        without(lab, "dnsmasq/names", f"{name}[.]")
    uncover(lab, "dnsmasq/names")
    passes(lab, "dns")


def test_a_listener_and_a_server_that_are_not_as_asked_are_named(lab: Lab, router: Router) -> None:
    admin = "/run/haproxy/admin.sock"
    path = "/load_balancer/listeners/shop"
    with broken(lab, "load-balancer", "203.0.113.11 port 80 is", path):
        ask(lab, admin, "disable frontend shop")
    ask(lab, admin, "enable frontend shop")
    path = f"{path}/servers/vm1"
    with broken(lab, "load-balancer", f"{path} (is 10.1.1.66:80, not 10.1.1.10:80)", path):
        ask(lab, admin, "set server shop/vm1 addr 10.1.1.66 port 80")
    ask(lab, admin, "set server shop/vm1 addr 10.1.1.10 port 80")
    passes(lab, "load-balancer")


# -- neighbours, clock, certificates, versions -------------------------------------------------


def test_a_gateway_that_does_not_answer_is_named(lab: Lab, router: Router) -> None:
    internet, nic = lab.internet, "eth0"
    path = f"/site/nics/{PUBLIC_MAC}/gateway"
    drop = ["iptables", "-I", "INPUT", "-p", "icmp", "-j", "DROP"]
    internet.run(drop)
    try:
        assert check(lab, "gateways")["message"] == "203.0.113.1 answers ARP"
        with broken(lab, "gateways", f"203.0.113.1 on eth2 ({path})", path):
            internet.run(["ip", "link", "set", nic, "arp", "off"])
    finally:
        internet.run(["ip", "link", "set", nic, "arp", "on"])
        internet.run(["iptables", "-D", *drop[2:]])
    passes(lab, "gateways")
    assert "answers ping" in check(lab, "gateways")["message"]


def test_a_clock_that_nobody_keeps_right_is_told(lab: Lab, router: Router) -> None:
    """A container may not set its clock, so chronyd is told not to try."""
    assert check(lab, "clock")["verdict"] == "skipped"
    sh(
        lab,
        "mkdir -p /run/systemd/system/chrony.service.d; printf '[Unit]\\nConditionCapability=\\n"
        '[Service]\\nEnvironment="DAEMON_OPTS=-x -f /run/chrony.conf"\\n\' '
        "> /run/systemd/system/chrony.service.d/zz-test.conf; "
        "printf 'local stratum 3\\nport 0\\ncmdport 0\\n' > /run/chrony.conf; "
        "systemctl daemon-reload; systemctl start chrony",
    )
    try:
        passes(lab, "clock")
        assert "ms off" in check(lab, "clock")["message"]
        with broken(lab, "clock", "chrony.service", ""):
            sh(lab, "systemctl stop chrony")
        sh(lab, "systemctl start chrony")
        passes(lab, "clock")
    finally:
        sh(
            lab,
            "systemctl stop chrony; rm -r /run/systemd/system/chrony.service.d; "
            "systemctl daemon-reload; systemctl start chrony",
        )


def test_a_certificate_that_ends_soon_is_named(lab: Lab, router: Router) -> None:
    import datetime as dt

    passes(lab, "certificates")
    day = dt.timedelta(days=1)
    soon = lab.keys.authority.issue(
        "r-1-vm", addresses=["169.254.10.2", "127.0.0.1"], valid=(-day, 3 * day)
    )
    change = {"control": {"certificate": soon.certificate, "key": soon.key}}
    with router.changed(change):
        result = check(lab, "certificates")
        assert (result["verdict"], result["path"]) == ("failed", "/control/certificate")
        assert "of r-1-vm expires in" in result["message"]
        with router.changed({"monitoring": {"thresholds": {"certificate_days": 2}}}):
            passes(lab, "certificates")
    passes(lab, "certificates")


def test_a_version_that_is_not_the_expected_one_is_told(lab: Lab, router: Router) -> None:
    passes(lab, "versions")
    with router.changed({"monitoring": {"agent_version": "9.9"}}):
        result = check(lab, "versions")
        assert (result["verdict"], result["path"]) == ("failed", "/monitoring/agent_version")
        assert result["missing"] == ["agent 9.9"]
    passes(lab, "versions")


# -- resources ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "threshold", "value"),
    [("memory", "memory_percent", 1), ("inodes", "inodes_free_percent", 100)],
)
def test_a_resource_beyond_its_threshold_is_short(
    lab: Lab, router: Router, name: str, threshold: str, value: int
) -> None:
    passes(lab, name)
    with router.changed({"monitoring": {"thresholds": {threshold: value}}}):
        result = check(lab, name)
        assert result["verdict"] == "failed", result
        assert result["path"] == f"/monitoring/thresholds/{threshold}"
        assert result["threshold"] == value
    passes(lab, name)


def test_cpu_is_told_of_a_minute_without_waiting_for_it(lab: Lab, router: Router) -> None:
    wait_until(lambda: check(lab, "cpu")["verdict"] == "passed", 90, "a look at the CPU")
    busy = lab.vm.popen(["sh", "-c", "while :; do :; done"])
    try:
        with router.changed({"monitoring": {"thresholds": {"cpu_percent": 1}}}):
            wait_until(lambda: check(lab, "cpu")["verdict"] == "failed", 60, "a CPU that is busy")
    finally:
        busy.kill()
        busy.wait(10)
    assert check(lab, "cpu")["duration"] < 1
    passes(lab, "cpu")


def test_a_full_disk_is_short_and_cannot_be_written(lab: Lab, router: Router) -> None:
    passes(lab, "disk")
    passes(lab, "writable")
    with (
        router.changed({"monitoring": {"thresholds": {"disk_free_mib": 5}}}),
        small_disk(lab, STATE),
    ):
        passes(lab, "disk")
        fill(lab, STATE)
        result = check(lab, "disk")
        assert (result["verdict"], result["unit"]) == ("failed", "MiB")
        assert check(lab, "writable")["verdict"] == "failed"
        assert "No space left" in check(lab, "writable")["message"]
        lab.vm.run(["rm", f"{STATE}/ballast"])
        passes(lab, "disk")
        passes(lab, "writable")


def test_a_disk_that_turned_read_only_cannot_be_written(lab: Lab, router: Router) -> None:
    passes(lab, "writable")
    with small_disk(lab, STATE):
        sh(lab, f"mount -o remount,ro {STATE}")
        result = check(lab, "writable")
        assert (result["verdict"], "Read-only" in result["message"]) == ("failed", True)
        sh(lab, f"mount -o remount,rw {STATE}")
        passes(lab, "writable")


def test_a_table_of_connections_that_fills_up_is_short(lab: Lab, router: Router) -> None:
    passes(lab, "connections")
    most = int(lab.vm.read("/proc/sys/net/netfilter/nf_conntrack_max"))
    with router.changed({"monitoring": {"thresholds": {"connections_percent": 1}}}):
        passes(lab, "connections")
        flow = "-I -p udp -s 10.1.1.10 -d 198.51.100.10 --sport {} --dport 53 -t 60\n"
        script = "".join(flow.format(10000 + number) for number in range(most // 100 + 200))
        lab.vm.run(["sh", "-c", "conntrack --load-file - >/dev/null"], stdin=script.encode())
        result = check(lab, "connections")
        assert result["verdict"] == "failed", result
        sh(lab, "conntrack -F 2>/dev/null")
        passes(lab, "connections")


# -- rounds and events -------------------------------------------------------------------------


def told(lab: Lab, kind: str, subject: str) -> int:
    """How many events of this kind there are about this."""
    answer = lab.vm.request("GET", "/v1/events?limit=1000")
    assert answer.status == 200, answer.text
    events = answer.json()["events"]
    return sum(one["kind"] == kind and one["subject"] == subject for one in events)


def test_rounds_come_at_the_interval_and_tell_changes_once(lab: Lab, router: Router) -> None:
    failed, passed = (told(lab, f"check.{word}", "firewall") for word in ("failed", "passed"))
    with router.changed({"monitoring": {"interval": 1, "advanced_interval": 1}}):
        first = health(lab)["rounds"][1]["at"] or 0
        wait_until(lambda: (health(lab)["rounds"][1]["at"] or 0) > first, 20, "a round")
        sh(lab, "ipset del lb4 203.0.113.11,tcp:80")
        wait_until(lambda: told(lab, "check.failed", "firewall") > failed, 30, "the event")
        assert health(lab)["worst"] == "failed"
        assert "FAILED: firewall" in sh(lab, "sysvmctl status")
        assert "checks fail: firewall" in sh(lab, "cat /run/sysvm/banner")
        log = lab.vm.read("/var/log/routerServiceMonitor.log").decode()
        assert "[ALERT] [firewall] The check firewall failed" in log
        sh(lab, "ipset add lb4 203.0.113.11,tcp:80")
        wait_until(lambda: told(lab, "check.passed", "firewall") > passed, 30, "the event")
    assert "checks fail" not in sh(lab, "cat /run/sysvm/banner")
    assert told(lab, "check.failed", "firewall") == failed + 1
    assert told(lab, "check.passed", "firewall") == passed + 1
    assert all(one["next_in"] is None for one in health(lab)["rounds"])


def test_pushes_meanwhile_fail_no_check(lab: Lab, router: Router) -> None:
    """Ten pushes, each of which changes rules, names and listeners, while checks are run."""
    stop, found = threading.Event(), list[Result]()

    def watch() -> None:
        while not stop.is_set():
            found.extend(ill(lab))

    thread = threading.Thread(target=watch)
    thread.start()
    before = router.document
    try:
        for number in range(10):
            router.change(
                {
                    "dhcp_dns": {
                        "dns": {"records": {f"n{number}": {"addresses": [f"10.1.1.{20 + number}"]}}}
                    },
                    "nat": {
                        "forwards": {
                            f"f{number}": {
                                "address": "203.0.113.10",
                                "protocol": "tcp",
                                "ports": 9000 + number,
                                "to": VM1,
                            }
                        }
                    },
                    "load_balancer": {
                        "listeners": {
                            f"l{number}": {"address": "203.0.113.11", "port": 9000 + number}
                        }
                    },
                }
            )
    finally:
        stop.set()
        thread.join(120)
        router.push(before)
    assert not thread.is_alive()
    assert [one for one in found if one["verdict"] in {"failed", "warning"}] == []


# -- operators' own ----------------------------------------------------------------------------


@contextmanager
def custom(lab: Lab, script: str, mode: int = 0o755) -> Iterator[None]:
    """A check of an operator's, on the state partition."""
    lab.vm.put("/var/lib/sysvm/checks/mine", script.encode(), mode)
    try:
        yield
    finally:
        lab.vm.run(["rm", "-r", "/var/lib/sysvm/checks"])


def mine(lab: Lab, level: str = "basic") -> Result:
    answer = lab.vm.request("POST", f"/v1/health/run?level={level}&name=mine")
    assert answer.status == 200, answer.text
    return dict(answer.json()[0])


@pytest.mark.parametrize(
    ("code", "verdict"), [(0, "passed"), (1, "failed"), (2, "warning"), (3, "unknown")]
)
def test_an_operators_check_is_run_with_its_level(
    lab: Lab, router: Router, code: int, verdict: str
) -> None:
    with custom(lab, f"#!/bin/sh\necho it is $1\necho more\nexit {code}\n"):
        for level in ("basic", "advanced"):
            result = mine(lab, level)
            assert (result["verdict"], result["message"]) == (verdict, f"it is {level} / more")
    assert lab.vm.request("POST", "/v1/health/run?name=mine").status == 404


def test_an_operators_check_that_says_nothing_is_not_listed(lab: Lab, router: Router) -> None:
    with custom(lab, "#!/bin/sh\nexit 0\n"):
        assert lab.vm.request("POST", "/v1/health/run?name=mine").status == 404


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("sleep 300", "did not end within 10 s"),
        ("setsid sleep 301 & setsid sleep 301 & sleep 301", "did not end within 10 s"),
        ("head -c 100000000 /dev/zero", "wrote more than 64 KiB"),
        ("head -c 100000000 /dev/urandom", "wrote more than 64 KiB"),
        (FORKS, "did not end within 10 s"),
    ],
    ids=["hangs", "detaches", "zeros", "binary", "forks"],
)
def test_an_operators_check_is_held_to_its_limits(
    lab: Lab, router: Router, script: str, word: str
) -> None:
    """Case 43."""
    with custom(lab, f"#!/bin/sh\n{script}\n"):
        result = mine(lab)
        assert result["verdict"] == "warning", result
        assert word in result["message"] or (script == FORKS and "exit code 2" in result["message"])
        assert result["message"].isprintable()
        assert result["duration"] < 25
    left = "pgrep -f 'sleep 30[0-2]|checks/[m]ine' || true; ls /run/sysvm/checks"
    assert sh(lab, left).split() == []
    assert ill(lab) == []


def test_an_operators_check_may_look_and_not_touch(lab: Lab, router: Router) -> None:
    script = (
        "#!/bin/sh\n"
        "iptables-save | grep -q in4- && echo sees the firewall\n"
        "test -r /var/lib/sysvm/state.json && echo reads\n"
        "for f in /var/lib/sysvm/x /run/sysvm/x /etc/x /usr/x; do "
        "(: > $f) 2>/dev/null && echo writes $f; done\n"
        "(: > /tmp/x) && echo has a /tmp\n"
    )
    with custom(lab, script):
        assert mine(lab)["message"] == "sees the firewall / reads / has a /tmp"
    assert lab.vm.run(["test", "-e", "/tmp/x"], check=False).returncode == 1


def test_an_operators_check_that_others_may_write_is_not_run(lab: Lab, router: Router) -> None:
    with custom(lab, "#!/bin/sh\ntouch /run/was-run\necho well\n", 0o777):
        result = mine(lab)
        assert result["verdict"] == "unknown"
        assert "others than root may write" in result["message"]
    assert lab.vm.run(["test", "-e", "/run/was-run"], check=False).returncode == 1
