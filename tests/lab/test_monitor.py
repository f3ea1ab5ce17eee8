"""The service monitor, with real systemd and real daemons: killed, stopped, broken, held."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from appliance.lab import Lab
from appliance.lab.wait import wait_until
from tests.lab.monitored import DAEMONS, LINE, Watched

CONF = "/run/sysvm/current/dnsmasq/dnsmasq.conf"


@pytest.fixture(scope="module")
def watched(lab: Lab) -> Watched:
    watched = Watched(lab)
    watched.router.push(watched.router.document)
    watched.settle()
    return watched


@pytest.fixture(autouse=True)
def _well(watched: Watched) -> Iterator[None]:
    yield
    for unit in DAEMONS:
        watched.release(unit)
    watched.settle()


def test_every_daemon_is_alive_ready_and_correct(watched: Watched) -> None:
    rows = watched.rows()
    for unit in DAEMONS:
        assert rows[unit]["alive"], unit
        assert rows[unit]["ready"], unit
        assert rows[unit]["correct"] in {True, None}, unit
    for unit in ("dnsmasq.service", "haproxy.service", "apache2.service"):
        assert rows[unit]["correct"], unit
    assert rows["strongswan.service"]["state"] == "not-wanted"


@pytest.mark.parametrize("unit", DAEMONS)
def test_a_killed_daemon_is_one_death_one_recovery_and_two_lines(
    watched: Watched, unit: str
) -> None:
    daemon, process = DAEMONS[unit]
    subject = daemon.removesuffix(".service")
    mark = watched.mark()
    watched.sh(f"systemctl kill -s KILL --kill-whom=main {daemon}")
    wait_until(lambda: mark.kinds(subject)[-1:] == ["service.recovered"], 15, "the recovery")
    assert mark.kinds(subject) == ["service.died", "service.recovered"]
    died = mark.events("service.died")[0]
    assert died["data"]["reason"] == "killed"
    lines = [line for line in mark.lines() if f"[{process}]" in line]
    assert f"[INFO] [{process}] The process {process} is not running trying recover" in lines[0]
    assert f"[INFO] [{process}] The process {process} is recovered successfully" in lines[1]
    assert len(lines) == 2
    assert watched.rows()[unit]["restarts"] == 1


@pytest.mark.parametrize("unit", DAEMONS)
def test_a_stopped_process_is_found_within_six_seconds(watched: Watched, unit: str) -> None:
    daemon, process = DAEMONS[unit]
    subject = daemon.removesuffix(".service")
    mark = watched.mark()
    watched.sh(f"systemctl kill -s STOP --kill-whom=main {daemon}")
    wait_until(lambda: "service.hung" in mark.kinds(subject), 12, "the hang")
    wait_until(lambda: mark.kinds(subject)[-1:] == ["service.recovered"], 15, "the recovery")
    assert mark.kinds(subject) == ["service.hung", "service.recovered"]
    assert "reason=hung" in next(line for line in mark.lines() if f"[{process}]" in line)


def test_a_worker_that_hangs_is_found_by_asking(watched: Watched) -> None:
    """The master runs on, and answers nobody."""
    mark = watched.mark()
    watched.sh("kill -STOP $(pgrep -P $(systemctl show -P MainPID haproxy) haproxy)")
    wait_until(lambda: mark.kinds("haproxy")[-1:] == ["service.recovered"], 20, "the recovery")
    assert mark.kinds("haproxy") == ["service.hung", "service.recovered"]


def test_what_a_hand_broke_is_put_back_and_told_with_its_line(watched: Watched) -> None:
    before = watched.sh(f"sha256sum {CONF}")
    mark = watched.mark()
    watched.sh(f"echo bogus-option >> {CONF}; systemctl kill -s KILL --kill-whom=main dnsmasq")
    wait_until(lambda: mark.kinds("dnsmasq")[-1:] == ["service.recovered"], 15, "the recovery")
    kinds = mark.kinds("dnsmasq")
    assert kinds.count("service.configuration-error") == 1
    assert kinds.count("service.died") <= 3  # the kill, and a start or two that systemd was at
    assert watched.sh(f"sha256sum {CONF}") == before
    error = mark.events("service.configuration-error")[0]
    assert error["data"]["file"] == CONF
    assert error["data"]["line"] > 0
    assert (error["data"]["path"], error["data"]["origin"]) == ("", "hand")
    assert "not from the document" in error["message"]
    alert = next(line for line in mark.lines() if "[ALERT]" in line)
    assert "The process dnsmasq recover failed reason=configuration" in alert
    assert f"file={CONF} line={error['data']['line']} origin=hand" in alert
    assert watched.router.drift() == []


@pytest.mark.parametrize(
    ("unit", "file", "text"),
    [
        ("haproxy.service", "haproxy/haproxy.cfg", "bogus"),
        ("apache2.service", "apache2/apache2.conf", "Bogus"),
        ("sysvm-ssh.service", "ssh/sshd_config", "Bogus yes"),
    ],
)
def test_other_daemons_say_where_too(watched: Watched, unit: str, file: str, text: str) -> None:
    subject = unit.removesuffix(".service")
    mark = watched.mark()
    path = f"/run/sysvm/current/{file}"
    watched.sh(f"echo '{text}' >> {path}; systemctl kill -s KILL --kill-whom=main {unit}")
    wait_until(lambda: mark.kinds(subject)[-1:] == ["service.recovered"], 20, "the recovery")
    error = mark.events("service.configuration-error")[0]
    assert error["data"]["file"] == path
    assert error["data"]["line"] > 0
    assert (error["data"]["path"], error["data"]["origin"]) == ("", "hand")


@pytest.mark.parametrize(
    ("unit", "change"),
    [
        ("haproxy", "s/^    description .*/    description by-hand/"),
        ("dnsmasq", "/\\.witness\\.invalid/d"),
    ],
)
def test_a_daemon_that_runs_with_other_files_is_told_to_read_its_own(
    watched: Watched, unit: str, change: str
) -> None:
    """A hand changed them and had them loaded; no process ends for it."""
    mark, daemons = watched.mark(), watched.router.daemons()
    watched.sh(f"sed -i '{change}' $(find /run/sysvm/current/{unit}/ -type f)")
    watched.sh(f"systemctl reload {unit}")
    listed = "sysvmctl service list"
    wait_until(lambda: "RUNS WITH OTHER FILES" in watched.sh(listed), 10, "it is shown")
    wait_until(lambda: mark.kinds(unit)[-1:] == ["service.own-files"], 30, "its own files")
    assert mark.kinds(unit) == ["service.other-files", "service.own-files"]
    assert mark.events("service.other-files")[0]["data"]["reason"] == "other-files"
    lines = [line for line in mark.lines() if f"[{unit}]" in line]
    assert "runs with other files and is told to read its own" in lines[0]
    assert "runs with its own files again" in lines[-1]
    assert watched.state(f"{unit}.service") == "running"
    assert watched.router.drift() == []
    after = watched.router.daemons()
    assert daemons["dnsmasq"] == after["dnsmasq"]


def test_other_files_that_telling_does_not_help_are_one_alert_and_no_restart(
    watched: Watched,
) -> None:
    """Its unit has come to reload nothing, as after an upgrade of the package gone wrong."""
    mark, daemons = watched.mark(), watched.router.daemons()
    drop_in = "/run/systemd/system/dnsmasq.service.d/test.conf"
    watched.sh("sed -i '/witness.invalid/d' /run/sysvm/current/dnsmasq/names")
    watched.sh("systemctl reload dnsmasq")
    watched.sh(
        f"mkdir -p $(dirname {drop_in}); printf '[Service]\nExecReload=\nExecReload=/bin/true\n' "
        f"> {drop_in}; systemctl daemon-reload"
    )
    try:
        wait_until(lambda: mark.events("service.still-other-files"), 90, "the alert")
        assert mark.kinds("dnsmasq") == ["service.other-files", "service.still-other-files"]
        assert mark.events("service.still-other-files")[0]["severity"] == "alert"
        lines = [line for line in mark.lines() if "[dnsmasq]" in line]
        assert ["[ALERT]" in line for line in lines] == [False, False, False, True]
        assert "The process dnsmasq runs with other files reason=other-files" in lines[-1]
        assert watched.state("dnsmasq.service") == "running"
    finally:
        watched.sh(f"rm {drop_in}; systemctl daemon-reload")
    watched.sh("systemctl reload dnsmasq")
    wait_until(lambda: mark.kinds("dnsmasq")[-1:] == ["service.own-files"], 20, "its own files")
    assert watched.router.daemons()["dnsmasq"] == daemons["dnsmasq"]


@contextmanager
def replaced(watched: Watched, binary: str, by: str) -> Iterator[None]:
    watched.sh(f"mount --bind {by} {binary}")
    try:
        yield
    finally:
        watched.sh(f"umount --lazy {binary}")


def test_what_the_document_itself_brings_and_is_refused_is_told_with_its_place(
    watched: Watched,
) -> None:
    """No checker had objected, nobody changed a file: the daemon refuses a line of ours."""
    mark = watched.mark()
    line = watched.sh(f"grep -n '^dhcp-range=.*10.1.1.200' {CONF} | cut -d: -f1").strip()
    said = f"dnsmasq: bad dhcp-range at line {line} of {CONF}"
    watched.vm.put("/run/refuses", f"#!/bin/sh\necho '{said}' >&2\nexit 1\n".encode(), 0o755)
    with replaced(watched, "/usr/sbin/dnsmasq", "/run/refuses"):
        watched.sh("systemctl kill -s KILL --kill-whom=main dnsmasq")
        wait_until(lambda: mark.events("service.configuration-error"), 20, "the alert")
        (error,) = mark.events("service.configuration-error")
        assert (error["data"]["file"], error["data"]["line"]) == (CONF, int(line))
        assert error["data"]["origin"] == "document"
        assert error["data"]["path"].startswith("/dhcp_dns/ranges/")
        assert "not from the document" not in error["message"]
        starts = watched.sh("journalctl -u dnsmasq -o cat | grep -c 'Starting dnsmasq'")
        watched.sh("sleep 5")  # and it is not tried again
        assert watched.sh("journalctl -u dnsmasq -o cat | grep -c 'Starting dnsmasq'") == starts
        assert watched.state("dnsmasq.service") == "configuration-error"


def test_a_crash_loop_is_one_alert_and_goes_on_ever_more_rarely(watched: Watched) -> None:
    mark = watched.mark()
    with replaced(watched, "/usr/sbin/dnsmasq", "/bin/false"):
        watched.sh("systemctl kill -s KILL --kill-whom=main dnsmasq")
        wait_until(lambda: watched.state("dnsmasq.service") == "crash-loop", 20, "the loop")
        tries = len(mark.lines())
        wait_until(lambda: len(mark.lines()) >= tries + 3, 30, "three tries")
        assert mark.kinds("dnsmasq").count("service.crash-loop") == 1
        assert "service.configuration-error" not in mark.kinds("dnsmasq")
        alerts = [line for line in mark.lines() if "[ALERT]" in line]
        assert len(alerts) == 1
        assert "The process dnsmasq recover failed" in alerts[0]
        assert "dnsmasq: crash-loop" in watched.sh("cat /run/sysvm/banner")
        # systemd is held back: between two tries it starts nothing.
        assert watched.sh("systemctl show -P NRestarts dnsmasq").strip() in {"0", "1"}
    watched.release("dnsmasq.service")
    watched.settle("dnsmasq.service")
    assert mark.kinds("dnsmasq")[-1] == "service.recovered"
    assert "crash-loop" not in watched.sh("cat /run/sysvm/banner")


def test_a_push_ends_a_loop_at_once(watched: Watched) -> None:
    with replaced(watched, "/usr/sbin/dnsmasq", "/bin/false"):
        watched.sh("systemctl kill -s KILL --kill-whom=main dnsmasq")
        wait_until(lambda: watched.state("dnsmasq.service") == "crash-loop", 20, "the loop")
    with watched.router.changed({"site": {"hostname": "r-2-vm"}}):
        watched.settle("dnsmasq.service")


def test_a_loop_outlives_the_agent(watched: Watched) -> None:
    """What was kept stopped is taken up by the next agent."""
    with replaced(watched, "/usr/sbin/dnsmasq", "/bin/false"):
        watched.sh("systemctl kill -s KILL --kill-whom=main dnsmasq")
        wait_until(lambda: watched.state("dnsmasq.service") == "crash-loop", 20, "the loop")
        watched.sh("systemctl kill -s KILL --kill-whom=main sysvm-agent")
        watched.vm.wait_ready()
    watched.settle("dnsmasq.service")


def test_an_agent_that_is_killed_leaves_no_number_out(watched: Watched) -> None:
    mark = watched.mark()
    for _ in range(2):
        watched.sh("systemctl kill -s KILL --kill-whom=main sysvm-agent")
        watched.vm.wait_ready()
    wait_until(lambda: len(mark.events("agent.started")) == 2, 10, "both starts are told")
    numbers = [event["seq"] for event in mark.events("")]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_what_dies_while_the_agent_is_dead_is_told_of_when_it_is_back(watched: Watched) -> None:
    mark = watched.mark()
    watched.sh(
        "systemctl kill -s STOP --kill-whom=main sysvm-agent; "
        "systemctl kill -s KILL --kill-whom=main dnsmasq; sleep 1; "
        "systemctl kill -s KILL --kill-whom=main sysvm-agent"
    )
    watched.vm.wait_ready()
    wait_until(lambda: "service.recovered" in mark.kinds("dnsmasq"), 15, "the recovery")
    assert mark.kinds("dnsmasq") == ["service.died", "service.recovered"]
    assert any("The process detected as running" in line for line in mark.lines())


def test_an_address_that_is_gone_is_no_daemons_fault(watched: Watched) -> None:
    mark = watched.mark()
    watched.sh("ip address del 10.1.1.1/24 dev eth0; sleep 9")
    assert mark.events() == []
    assert watched.state("dnsmasq.service") == "running"
    watched.router.push(watched.router.document)


def test_an_agent_that_hangs_is_restarted(watched: Watched) -> None:
    """By systemd's watchdog, which its monitor's two threads feed."""
    before = watched.sh("systemctl show -P NRestarts sysvm-agent")
    watched.sh("systemctl kill -s STOP --kill-whom=main sysvm-agent")
    wait_until(
        lambda: watched.sh("systemctl show -P NRestarts sysvm-agent") != before, 60, "the restart"
    )
    watched.vm.wait_ready()


def test_a_held_daemon_is_left_alone_until_the_hold_is_over(watched: Watched) -> None:
    mark = watched.mark()
    watched.sh("sysvmctl service hold dnsmasq --for 15s --reason 'an upgrade'")
    assert "held until" in watched.sh("sysvmctl service list")
    row = watched.rows()["dnsmasq.service"]
    assert (row["state"], row["held_by"], row["held_why"]) == ("held", "root", "an upgrade")
    watched.sh("systemctl stop dnsmasq; sleep 4")
    assert watched.rows()["dnsmasq.service"]["active"] == "inactive"
    watched.sh("systemctl kill -s KILL --kill-whom=main sysvm-agent")  # the hold outlives it
    watched.vm.wait_ready()
    wait_until(lambda: watched.rows()["dnsmasq.service"]["held_by"] == "root", 5, "the hold")
    wait_until(lambda: mark.kinds("dnsmasq")[-1:] == ["service.recovered"], 40, "the end")
    kinds = mark.kinds("dnsmasq")
    assert kinds[:2] == ["service.held", "service.released"]
    lines = [line for line in mark.lines() if "[NOTIF]" in line]
    assert "is held by=root" in lines[0]
    assert 'why="an upgrade"' in lines[0]
    assert "is released" in lines[1]


def test_an_operator_ends_a_hold(watched: Watched) -> None:
    watched.sh("sysvmctl service hold haproxy --for 2h --reason x")
    assert watched.state("haproxy.service") == "held"
    watched.sh("sysvmctl service release haproxy")
    wait_until(lambda: watched.state("haproxy.service") == "running", 10, "running")


@pytest.mark.parametrize(
    "change", [{"enabled": False}, {"services": {"dnsmasq": {"enabled": False}}}]
)
def test_monitoring_is_switched_off_and_on_without_a_restart(
    watched: Watched, change: dict[str, object]
) -> None:
    before = watched.router.daemons()
    agent = before["sysvm-agent"]
    with watched.router.changed({"monitoring": change}):
        wait_until(lambda: watched.state("dnsmasq.service") == "disabled", 10, "disabled")
        assert watched.router.daemons() == before
        mark = watched.mark()
        watched.sh("systemctl kill -s STOP --kill-whom=main dnsmasq; sleep 8")
        assert mark.kinds("dnsmasq") == []
        assert not [line for line in mark.lines() if "[dnsmasq]" in line]
        watched.sh("systemctl kill -s CONT --kill-whom=main dnsmasq")
    wait_until(lambda: watched.state("dnsmasq.service") == "running", 10, "running")
    assert watched.router.daemons()["sysvm-agent"] == agent
    mark = watched.mark()
    watched.sh("systemctl kill -s KILL --kill-whom=main dnsmasq")
    wait_until(lambda: mark.kinds("dnsmasq")[-1:] == ["service.recovered"], 15, "the recovery")


def test_what_is_stopped_by_hand_and_wanted_is_started_again(watched: Watched) -> None:
    mark = watched.mark()
    watched.sh("systemctl stop apache2")
    wait_until(lambda: mark.kinds("apache2")[-1:] == ["service.recovered"], 15, "the recovery")
    assert mark.events("service.died")[0]["data"]["reason"] == "stopped"


def test_pushes_and_restarts_raise_no_alarm(watched: Watched) -> None:
    """Ten changes, as fast as they go, each of which reloads or restarts something."""
    mark = watched.mark()
    for number in range(10):
        record = {"addresses": [f"10.1.1.{100 + number}"]}
        watched.router.change({"dhcp_dns": {"dns": {"records": {f"n{number}": record}}}})
        watched.sh("systemctl restart apache2")
    watched.settle()
    assert mark.events() == []
    assert mark.lines() == []


def test_the_log_is_what_operators_scripts_read(watched: Watched) -> None:
    lines = watched.log()
    assert lines
    assert "" not in lines
    assert all(LINE.fullmatch(line) for line in lines)
    assert [line[:23] for line in lines] == sorted(line[:23] for line in lines)
    text = watched.sh("journalctl -t monit --no-pager -o cat")
    assert set(lines) <= set(text.splitlines())


def test_a_full_disk_loses_no_line(watched: Watched) -> None:
    mark = watched.mark()
    watched.sh("mount -t tmpfs -o size=600k tmpfs /var/log")
    try:
        watched.sh("dd if=/dev/zero of=/var/log/filler bs=4k || true")
        watched.sh("systemctl kill -s KILL --kill-whom=main apache2")
        wait_until(lambda: mark.kinds("apache2")[-1:] == ["service.recovered"], 15, "recovery")
        watched.sh("rm /var/log/filler")
        wait_until(lambda: len(watched.log()) >= 2, 15, "the lines")
        assert "is not running trying recover" in watched.log()[0]
    finally:
        watched.sh("umount -l /var/log")


def test_the_monitor_idles(watched: Watched) -> None:
    """The whole agent, over ten seconds in which nothing happens."""
    ticks = "awk '{print $14 + $15}' /proc/$(systemctl show -P MainPID sysvm-agent)/stat"
    first = int(watched.sh(ticks))
    watched.sh("sleep 10")
    assert int(watched.sh(ticks)) - first <= 30  # hundredths of a second, on a busy machine
