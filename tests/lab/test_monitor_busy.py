"""Daemons that do not answer: one that is given no CPU, one in an endless loop, one that sleeps."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from appliance.lab import Lab
from appliance.lab.wait import wait_until
from tests.lab.monitored import Watched

# Others take the one CPU that it may run on. What it gets of it depends on who shares it out: by
# control group, by session, or by process; it is last in each.
STARVE = """
pid=$(systemctl show -P MainPID dnsmasq.service)
cpu=$(taskset -pc $$ | sed 's/.*[:, -]//')
systemctl set-property --runtime dnsmasq.service CPUWeight=1
echo 19 > /proc/$pid/autogroup || true
chrt --idle --all-tasks --pid 0 $pid
taskset --all-tasks -pc $cpu $pid
systemd-run --unit=hogs --property=CPUWeight=10000 --property=RuntimeMaxSec=120 \
    taskset -c $cpu sh -c 'for n in $(seq 100); do setsid sh -c "while :; do :; done" & done; wait'
"""
FEED = "systemctl set-property --runtime dnsmasq.service CPUWeight=; systemctl restart dnsmasq"


@pytest.fixture(scope="module")
def watched(lab: Lab) -> Watched:
    watched = Watched(lab)
    watched.router.push(watched.router.document)
    return watched


@pytest.fixture(autouse=True)
def _well(watched: Watched) -> Iterator[None]:
    watched.settle()
    yield
    for unit in ("dnsmasq.service", "haproxy.service"):
        watched.release(unit)


@contextmanager
def looping(watched: Watched, unit: str) -> Iterator[None]:
    """One of the daemon's processes is in an endless loop: stopping the daemon ends it."""
    group = f"/sys/fs/cgroup$(systemctl show -P ControlGroup {unit})/cgroup.procs"
    loop = "while :; do :; done"
    watched.sh(f"setsid nice sh -c '{loop}' >/dev/null 2>&1 & echo $! | tee /run/loop > {group}")
    try:
        yield
    finally:
        watched.sh("kill -KILL $(cat /run/loop) 2>/dev/null || true; rm /run/loop")


@pytest.mark.soak  # a hundred loops on one CPU leave the tests beside it none, either
def test_a_daemon_that_is_given_no_cpu_is_busy_and_keeps_what_it_has(watched: Watched) -> None:
    mark, daemons = watched.mark(), watched.router.daemons()
    watched.sh(STARVE)
    try:
        wait_until(lambda: mark.kinds("dnsmasq"), 60, "it does not answer")
        listed = watched.sh("sysvmctl service list")
    finally:
        watched.sh("systemctl stop hogs || true")
    wait_until(lambda: mark.kinds("dnsmasq")[-1:] == ["service.recovered"], 60, "it answers")
    kinds = mark.kinds("dnsmasq")
    assert set(kinds) == {"service.busy", "service.recovered"}
    busy = mark.events("service.busy")[0]
    assert busy["data"]["reason"] == "busy"
    assert "waited for the CPU for" in busy["message"]
    assert "BUSY" in listed
    assert watched.router.daemons()["dnsmasq"] == daemons["dnsmasq"]
    (first, last, *_) = [line for line in mark.lines() if "[dnsmasq]" in line]
    assert "[INFO] [dnsmasq] The process dnsmasq is busy and is given time reason=busy" in first
    assert "The process dnsmasq is recovered successfully" in last
    watched.sh(FEED)


def test_an_endless_loop_is_ended_after_its_time(watched: Watched) -> None:
    """The worker answers nobody, and a process beside it is the one that loops."""
    mark, daemons = watched.mark(), watched.router.daemons()
    with looping(watched, "haproxy.service"):
        watched.sh("kill -STOP $(pgrep -P $(systemctl show -P MainPID haproxy) haproxy)")
        wait_until(lambda: mark.kinds("haproxy")[-1:] == ["service.recovered"], 180, "it is over")
    assert mark.kinds("haproxy") == ["service.busy", "service.hung", "service.recovered"]
    busy, hung, _ = mark.events()
    assert "it ran for" in hung["message"]
    assert hung["monotonic"] - busy["monotonic"] > 10  # and not after three questions
    assert watched.router.daemons()["haproxy"] != daemons["haproxy"]


def test_a_stopped_daemon_is_hung_whatever_else_of_it_runs(watched: Watched) -> None:
    mark = watched.mark()
    with looping(watched, "dnsmasq.service"):
        watched.sh("systemctl kill -s STOP --kill-whom=main dnsmasq")
        wait_until(lambda: mark.kinds("dnsmasq")[-1:] == ["service.recovered"], 60, "it is over")
    assert mark.kinds("dnsmasq") == ["service.hung", "service.recovered"]
