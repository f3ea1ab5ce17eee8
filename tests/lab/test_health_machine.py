"""Checks of what the machine has and whom it can reach: taken away, they say so."""

import pytest

from appliance.lab import Lab
from appliance.lab.wait import wait_until
from tests.lab.healthy import broken, check, passes, quiet, sh
from tests.lab.helpers import (
    PUBLIC_MAC,
    Router,
)
from tests.lab.test_hostile_disk import STATE, fill, small_disk


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    return quiet(lab)


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
