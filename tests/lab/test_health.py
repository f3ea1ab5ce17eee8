"""Health checks on a router that serves: all of them, their rounds, and operators' own."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.document.document import merge
from appliance.lab import Lab
from appliance.lab.wait import wait_until
from tests.lab.healthy import Result, health, ill, quiet, sh
from tests.lab.helpers import (
    VM1,
    Router,
    example,
)

# As many as a check may not have; where the kernel counts tasks (it need not in a container), it
# gets fewer. Not without end: the machine is not the test's alone.
FORKS = "for n in $(seq 60); do setsid sleep 302 & done; sleep 302"


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    return quiet(lab)


# -- everything is well ------------------------------------------------------------------------


def test_a_router_that_serves_is_well_and_says_so_everywhere(lab: Lab, router: Router) -> None:
    wait_until(lambda: ill(lab) == [], 15, "nothing that is ill")
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
    wait_until(lambda: ill(lab) == [], 15, "nothing that is ill")
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
