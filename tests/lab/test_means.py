"""The agent without a descriptor (hostile case 28).

It says so, ends nobody for it, and answers again as soon as it can; what happened is told.
Netlink's overrun is in test_system_network.py, threads and processes in unit/monitor/test_lookout.
"""

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from appliance.lab import Lab
from appliance.lab.wait import wait_until
from tests.lab.monitored import Mark, Watched


@pytest.fixture(scope="module")
def watched(lab: Lab) -> Watched:
    watched = Watched(lab)
    watched.router.push(watched.router.document)
    watched.settle()
    return watched


def pid(watched: Watched) -> str:
    return watched.sh("systemctl show -P MainPID sysvm-agent").strip()


def ticks(watched: Watched) -> int:
    return int(watched.sh(f"awk '{{print $14 + $15}}' /proc/{pid(watched)}/stat"))


def take_descriptors(watched: Watched) -> None:
    """Let no number be free, as after a leak."""
    agent = pid(watched)
    looks = watched.sh(f"for n in 1 2 3 4 5 6 7 8; do ls /proc/{agent}/fd; echo; sleep 0.05; done")
    always = set.intersection(
        *(set(map(int, look.split())) for look in looks.split("\n\n") if look)
    )
    watched.sh(f"prlimit --pid {agent} --nofile={min(set(range(999)) - always)}:")


@contextmanager
def no_descriptors(watched: Watched, mark: Mark) -> Iterator[None]:
    """Until the end no number is free; then the agent has seen, and told, that it is over."""
    agent = pid(watched)
    before = watched.sh(f"prlimit --pid {agent} --nofile --output=SOFT --noheadings").strip()
    take_descriptors(watched)
    try:
        yield
    finally:
        watched.sh(f"prlimit --pid {agent} --nofile={before}:")
        over = ["agent.starved", "agent.fed"]
        wait_until(lambda: kinds(mark, "descriptors") == over, 30, "it is over")


def test_without_a_descriptor_it_watches_on_says_so_and_ends_nobody(watched: Watched) -> None:
    mark, agent, before = watched.mark(), pid(watched), ticks(watched)
    daemons = watched.router.daemons()
    with no_descriptors(watched, mark):
        watched.sh("systemctl kill -s KILL --kill-whom=main apache2")
        # Management is not kept waiting: it is sent away, unless a number has come free meanwhile;
        # what is then asked for takes no longer than a daemon may that the agent asks in its turn.
        begun = time.monotonic()
        with contextlib.suppress(OSError):
            watched.vm.request("GET", "/v1/status", timeout=60)
        assert time.monotonic() - begun < 30
        watched.sh("sleep 12")  # two looks, and twice as long as a hang takes to be found
    # Neither the loop nor the log spins.
    assert ticks(watched) - before < 150  # hundredths of a second
    journal = watched.vm.journal("-u", "sysvm-agent").splitlines()
    assert sum("Too many open files" in line for line in journal) < 20
    starved = mark.events("agent.starved")[0]
    assert starved["severity"] == "alert"
    assert "Too many open files" in starved["data"]["detail"]
    # What happened meanwhile was heard as it happened, and nothing else happened.
    assert mark.kinds("apache2") == ["service.died", "service.recovered"]
    assert mark.events("service.died")[0]["data"]["detail"] == "SIGKILL"
    assert {event["subject"] for event in mark.events()} == {"apache2"}
    assert pid(watched) == agent
    for name in set(daemons) - {"apache2"}:
        assert watched.router.daemons()[name] == daemons[name]
    wait_until(lambda: len(mark.lines()) == 2, 15, "the log's lines, which had waited")
    watched.router.push(watched.router.document)


def kinds(mark: Mark, subject: str) -> list[str]:
    return [event["kind"] for event in mark.events("agent.") if event["subject"] == subject]


def test_a_leak_ends_with_the_agent_and_loses_nothing(watched: Watched) -> None:
    """What lasts is for systemd's watchdog: a minute, and its half."""
    mark, agent = watched.mark(), pid(watched)
    take_descriptors(watched)
    wait_until(lambda: pid(watched) not in {agent, "0"}, 140, "another agent")
    watched.vm.wait_ready()
    wait_until(lambda: mark.events("agent.started"), 20, "it tells")
    assert [event["kind"] for event in mark.events("agent.")] == ["agent.starved", "agent.started"]
    assert mark.events() == []  # no daemon paid for it
    numbers = [event["seq"] for event in mark.events("")]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    watched.settle()
