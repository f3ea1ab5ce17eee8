"""What is watched, and what answers come to."""

from ipaddress import ip_address

import pytest

from agent.engine.model import (
    DnsAnswers,
    HaproxyRuns,
    ProbeResult,
    SshGreets,
    TcpAccepts,
    Unit,
    UnitActive,
)
from agent.monitor.model import Answer, State
from agent.monitor.watched import answer, watched
from agent.services.monitoring import Section

HOME = ip_address("10.1.1.1")
DNS = DnsAnswers("dnsmasq.service", HOME, "x.witness.invalid", ("192.0.2.1",))
RUNS = HaproxyRuns("haproxy.service", "/run/x", "abc")
SSH = SshGreets("sysvm-ssh.target", HOME, 3922)
UNITS = {
    "dnsmasq.service": Unit("dnsmasq.service"),
    "sysvm-ssh.target": Unit("sysvm-ssh.target", daemon="sysvm-ssh.service", process="sshd"),
}
PROBES = (UnitActive("dnsmasq.service"), DNS, SSH, RUNS)


def test_units_are_watched_by_the_process_that_answers() -> None:
    found = watched(UNITS, PROBES, Section())
    assert found.keys() == {"dnsmasq.service", "sysvm-ssh.service"}
    assert found["dnsmasq.service"].probes == (DNS,)
    ssh = found["sysvm-ssh.service"]
    assert (ssh.name, ssh.known_as) == ("sysvm-ssh.target", "sshd")
    assert ssh.probes == (SSH,)


def test_the_document_and_operators_switch_it_off() -> None:
    one = Section.model_validate({"services": {"dnsmasq": {"enabled": False}}})
    found = watched(UNITS, PROBES, one)
    assert found["dnsmasq.service"].off(()) is State.DISABLED
    assert found["sysvm-ssh.service"].off(()) is None
    assert found["dnsmasq.service"].off({"dnsmasq.service"}) is State.HELD
    none = watched(UNITS, PROBES, Section(enabled=False))
    assert {one.off(()) for one in none.values()} == {State.DISABLED}


def passed(probe: DnsAnswers | HaproxyRuns | SshGreets | TcpAccepts) -> ProbeResult:
    return ProbeResult(probe, passed=True, answered=True)


@pytest.mark.parametrize(
    ("results", "told"),
    [
        ([], Answer(ready=True)),
        ([passed(DNS)], Answer(ready=True, correct=True)),
        ([passed(SSH)], Answer(ready=True, correct=None)),
        (
            [passed(RUNS), ProbeResult(DNS, passed=False, detail="other", answered=True)],
            Answer(ready=True, correct=False, detail="other"),
        ),
        (
            [passed(DNS), ProbeResult(SSH, passed=False, detail="silent")],
            Answer(ready=False, correct=True, detail="silent"),
        ),
        (
            [ProbeResult(DNS, passed=False, detail="no such address", blameless=True)],
            Answer(ready=None, correct=None, detail="no such address"),
        ),
    ],
)
def test_answering_and_answering_rightly_are_two_things(
    results: list[ProbeResult], told: Answer
) -> None:
    assert answer(results) == told
