"""Events out of a real VM: polled, streamed and pushed over mutual TLS, through every fault."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.document.document import merge
from agent.document.heartbeat import Beat, encode
from appliance.lab import Lab
from appliance.lab.http import client_context
from appliance.lab.rows import rows
from appliance.lab.wait import wait_until
from tests.lab import test_hostile_disk as hostile_disk
from tests.lab.helpers import CALM, Router

KEY = "5a" * 32
STATE = "/var/lib/sysvm"
# What a short-lived process of the agent does, such as the confirm timer's.
RECORD = """
import sys
from agent.monitor.events import Event, Kind
from agent.monitor.spool import Spool
from agent.system.clock import SystemClock, boot_id
from agent.system.paths import Paths
spool = Spool(Paths().spools, boot=boot_id(), clock=SystemClock())
for number in range(int(sys.argv[1]), int(sys.argv[2])):
    data = {"number": number}
    spool.record(Event(kind=Kind.CHECK_FAILED, subject="test", message="failed", data=data))
"""


class Management:
    """The receiving end, on the lab's management node."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        keys = lab.manager.keys
        keys.authority.issue("receiver", addresses=[address(lab)]).write(folder, "receiver")
        self._process: Any = None
        self.start()

    def start(self) -> None:
        argv = [
            "python3", "-m", "appliance.lab.receiver", str(self.folder),
            "--address", address(self.lab), "--heartbeat-key", KEY,
            "--ca", str(self.lab.manager.keys_folder / "ca.pem"),
            "--certificate", str(self.folder / "receiver.pem"),
            "--key", str(self.folder / "receiver.key"),
        ]  # fmt: skip
        self._process = self.lab.manager.popen(argv)
        assert self._process.stdout.readline() == b"ready\n", self._process.stderr.read()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def rows(self, name: str) -> tuple[dict[str, Any], ...]:
        return rows(self.folder / f"{name}.jsonl")

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.rows("events")]

    def numbers(self) -> list[int]:
        """Of the test's own events."""
        return [e["data"]["number"] for e in self.rows("events") if e["subject"] == "test"]


def address(lab: Lab) -> str:
    return lab.manager.spec.nics[0].addresses[0].split("/")[0]


def record(lab: Lab, first: int, end: int) -> None:
    """Have events happen, in a process that leaves them for the agent."""
    lab.vm.run(["/opt/sysvm/bin/python3", "-I", "-c", RECORD, str(first), str(end)], timeout=120)


def kept(lab: Lab, query: str = "after=0") -> dict[str, Any]:
    answer = lab.vm.request("GET", f"/v1/events?limit=1000&{query}")
    assert answer.status == 200, answer.text
    value: dict[str, Any] = answer.json()
    return value


def known(lab: Lab) -> list[int]:
    """Numbers of the test's own events that the VM has."""
    return [e["data"]["number"] for e in kept(lab, "tail=1000")["events"] if e["subject"] == "test"]


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    router = Router(lab)
    router.push(merge(router.document, CALM))
    return router


@pytest.fixture
def management(lab: Lab, tmp_path: Path, router: Router) -> Iterator[Management]:
    management = Management(lab, tmp_path)
    ca = (lab.manager.keys_folder / "ca.pem").read_text()
    section = {
        "push": {"url": f"https://{address(lab)}:8444/v1/events", "ca": ca},
        "heartbeat": {"address": address(lab), "port": 8445, "key": KEY, "interval": 1},
    }
    with router.changed({"events": section}):
        yield management
    management.stop()


@contextmanager
def cut_off(lab: Lab) -> Iterator[None]:
    """Nothing passes between the VM and management, and neither is told."""
    lab.manager.run(["ip", "link", "set", "eth0", "down"])
    try:
        yield
    finally:
        lab.manager.run(["ip", "link", "set", "eth0", "up"])


# -- asking ------------------------------------------------------------------------------------


def test_what_happened_so_far_is_told(lab: Lab, router: Router) -> None:
    lab.vm.run(["systemctl", "restart", "sysvm-agent"])
    lab.vm.wait_ready()
    router.push(router.document)
    said = f"revision {router.current()} (generation {router.document['generation']}) runs, by push"
    show = ["sysvmctl", "events", "-n", "20"]
    wait_until(lambda: said in lab.vm.run(show).text, 10, "the push is told")
    assert "agent.started" in lab.vm.run(show).text
    answer = kept(lab, "tail=20")
    kinds = [event["kind"] for event in answer["events"]]
    assert {"agent.started", "document.committed"} <= set(kinds)
    assert answer["next"] == answer["last"] == answer["events"][-1]["seq"]


def test_the_command_follows_what_happens(lab: Lab, router: Router) -> None:
    follower = lab.vm.popen(["timeout", "120", "sysvmctl", "events", "-f", "-n", "1", "--json"])
    assert follower.stdout is not None
    try:
        kinds = (json.loads(line)["kind"] for line in iter(follower.stdout.readline, b""))
        assert next(kinds)  # it follows from here on
        for command in ("hold dnsmasq --for 10s --reason x", "release dnsmasq"):
            lab.vm.run(["sysvmctl", "service", *command.split()])
        held = (kind for kind in kinds if kind.startswith("service."))
        assert next(held) == "service.held"
        assert next(held) == "service.released"
    finally:
        follower.kill()
        follower.wait(10)
    shown = lab.vm.run(["sysvmctl", "events", "-n", "50", "--severity", "warning"]).text
    assert "service.held" not in shown


def test_long_poll_over_mutual_tls_outlasts_the_fronts_patience(lab: Lab, router: Router) -> None:
    """The front closes clients that say nothing for 30 s; one that waits for an answer may."""
    place = kept(lab, "tail=1")
    query = f"after={place['next']}&stream={place['stream']}&severity=critical&wait=40"
    began = time.monotonic()
    answer = lab.manager.request("GET", f"/v1/events?{query}", timeout=60)
    assert answer.status == 200, answer.text
    assert answer.json()["events"] == []
    assert time.monotonic() - began > 39


@contextmanager
def streamed(lab: Lab, place: dict[str, Any]) -> Iterator[http.client.HTTPResponse]:
    """The stream of events from here on, over mutual TLS."""
    folder, host = lab.manager.keys_folder, lab.manager.vm_address
    context = client_context(
        str(folder / "ca.pem"), str(folder / "manager.pem"), str(folder / "manager.key")
    )
    with (
        lab.manager.connect(host, lab.manager.vm_port, timeout=60) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        connection = http.client.HTTPConnection(host)
        connection.sock = secure
        headers = {"Last-Event-ID": f"{place['stream']}:{place['next']}"}
        connection.request("GET", "/v1/events/stream", headers=headers)
        yield connection.getresponse()


def test_client_that_leaves_a_stream_leaves_its_place_to_the_next(lab: Lab, router: Router) -> None:
    place = kept(lab, "tail=1")

    def is_taken() -> bool:
        with streamed(lab, place) as answer:
            return answer.status == 200 and answer.readline().startswith(b":")

    for number in range(12):  # three times as many as there may be at once
        wait_until(is_taken, 10, f"stream {number} is taken")


def test_stream_over_mutual_tls_tells_at_once_and_goes_on(lab: Lab, router: Router) -> None:
    place = kept(lab, "tail=1")
    with ExitStack() as open_for_now:

        def taken() -> http.client.HTTPResponse | None:
            """Whoever has just left may not have left his place yet."""
            with ExitStack() as trial:
                answer = trial.enter_context(streamed(lab, place))
                if answer.status == 503:
                    return None
                open_for_now.push(trial.pop_all())
                return answer

        answer = wait_until(taken, 10, "the stream is taken")
        assert answer is not None
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.readline().startswith(b":")
        began = time.monotonic()
        while time.monotonic() - began < 35:  # beyond the front's patience
            assert answer.readline()
        record(lab, 1, 2)
        told: list[bytes] = []  # the lines of an event; others may happen meanwhile
        while not told or json.loads(told[2].removeprefix(b"data: "))["subject"] != "test":
            while not (line := answer.readline()).startswith(b"id: "):
                assert line
            told = [line, answer.readline(), answer.readline()]
        assert told[0].startswith(f"id: {place['stream']}:".encode())
        assert told[1] == b"event: check.failed\n"
        assert json.loads(told[2].removeprefix(b"data: "))["data"] == {"number": 1}


# -- the push ----------------------------------------------------------------------------------


def test_events_reach_management_and_are_acknowledged(lab: Lab, management: Management) -> None:
    wait_until(lambda: "document.committed" in management.kinds(), 15, "what was is sent")
    record(lab, 100, 101)
    wait_until(lambda: 100 in management.numbers(), 10, "what happens is sent")
    wait_until(lambda: kept(lab)["acknowledged"] == kept(lab)["last"], 5, "all is acknowledged")


def test_thousand_events_without_a_link_arrive_once_and_in_order(
    lab: Lab, management: Management
) -> None:
    """Case 41, with a reboot and a pulled plug while the link is down."""
    wait_until(lambda: kept(lab)["acknowledged"] == kept(lab)["last"], 15, "all is acknowledged")
    with cut_off(lab):
        record(lab, 1000, 1400)
        wait_until(lambda: known(lab)[-1:] == [1399], 20, "the agent has them")
        lab.vm.reboot()
        lab.vm.wait_ready()
        record(lab, 1400, 1800)
        wait_until(lambda: known(lab)[-1:] == [1799], 20, "the agent has them")
        lab.vm.pull_plug()
        lab.vm.start()
        lab.vm.wait_ready()
        record(lab, 1800, 2000)
        assert not [number for number in management.numbers() if number >= 1000]
    wait_until(lambda: 1999 in management.numbers(), 100, "they arrive when the link is back")
    found = [number for number in management.numbers() if number >= 1000]
    assert found == list(range(1000, 2000))
    events = management.rows("events")
    assert len({(event["stream"], event["seq"]) for event in events}) == len(events)
    assert [e["seq"] for e in events] == sorted(e["seq"] for e in events)
    assert len({event["boot"] for event in events}) >= 3


def test_receiver_that_is_another_gets_nothing(
    lab: Lab, management: Management, router: Router
) -> None:
    wait_until(lambda: kept(lab)["acknowledged"] == kept(lab)["last"], 15, "all is acknowledged")
    management.stop()
    keys = lab.manager.keys
    keys.authority.issue("receiver", addresses=["192.0.2.7"]).write(management.folder, "receiver")
    management.start()
    before = len(management.rows("events"))
    record(lab, 3000, 3001)
    journal = "events are not taken by"
    wait_until(lambda: journal in lab.vm.journal("-u", "sysvm-agent"), 15, "it is refused")
    assert len(management.rows("events")) == before
    management.stop()
    keys.authority.issue("receiver", addresses=[address(lab)]).write(management.folder, "receiver")
    management.start()
    wait_until(lambda: 3000 in management.numbers(), 70, "the right one is told")


# -- the heartbeat -----------------------------------------------------------------------------


def test_heartbeat_says_how_the_vm_is_and_no_replay_is_accepted(
    lab: Lab, management: Management
) -> None:
    """Case 52."""
    wait_until(lambda: len(management.rows("beats")) >= 3, 20, "it beats")
    beats = management.rows("beats")
    numbers = [beat["seq"] for beat in beats]
    assert numbers == sorted(set(numbers))
    last = beats[-1]
    status = lab.vm.request("GET", "/v1/status").json()
    assert (last["vm"], last["role"]) == (status["hostname"], "router")
    assert last["revision"] == status["running"]["revision"]
    assert last["generation"] == status["running"]["generation"]
    assert last["health"] in {"ok", "warning", "unknown"}
    assert not management.rows("refused")
    forged = encode(Beat(**{**last, "seq": last["seq"] + 999}), bytes(32))
    replayed = encode(Beat(**last), bytes.fromhex(KEY))
    for datagram in (replayed, forged):
        with lab.manager.open_socket(kind=socket.SOCK_DGRAM) as sock:
            sock.sendto(datagram, (address(lab), 8445))
    wait_until(lambda: len(management.rows("refused")) == 2, 10, "both are refused")
    reasons = [row["reason"] for row in management.rows("refused")]
    assert any("has been before" in reason for reason in reasons)
    assert any("not authentic" in reason for reason in reasons)
    lab.vm.run(["systemctl", "restart", "sysvm-agent"])
    count = len(management.rows("beats"))
    wait_until(lambda: len(management.rows("beats")) > count + 1, 20, "it beats again")
    assert len(management.rows("refused")) == 2


# -- faults ------------------------------------------------------------------------------------


def test_broken_database_is_moved_aside_and_told(lab: Lab, router: Router) -> None:
    """Case 27."""
    before = kept(lab, "tail=1")
    lab.vm.run(["systemctl", "stop", "sysvm-agent"])
    lab.vm.run(
        ["sh", "-c", f"rm -f {STATE}/events/*-wal; echo nonsense > {STATE}/events/events.db"]
    )
    lab.vm.run(["systemctl", "start", "sysvm-agent"])
    lab.vm.wait_ready()
    wait_until(lambda: kept(lab)["events"], 10, "the agent has begun another one")
    after = kept(lab)
    assert after["stream"] != before["stream"]
    assert after["events"][0]["kind"] == "events.gap"
    assert lab.vm.read(f"{STATE}/events/events.db.broken") == b"nonsense\n"
    again = kept(lab, f"after={before['next']}&stream={before['stream']}")
    assert again["events"] == after["events"]


@contextmanager
def small_disk(lab: Lab, *, read_only: bool = False) -> Iterator[None]:
    """The events' folder on a file system of its own, on which the agent starts anew."""
    folder = f"{STATE}/events"
    lab.vm.run(["systemctl", "stop", "sysvm-agent"])
    lab.vm.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", folder])
    if read_only:
        lab.vm.run(["mount", "-o", "remount,ro", folder])
    lab.vm.run(["systemctl", "start", "sysvm-agent"])
    lab.vm.wait_ready()
    try:
        yield
    finally:
        lab.vm.run(["systemctl", "stop", "sysvm-agent"])
        lab.vm.run(["umount", "--lazy", folder])
        lab.vm.run(["systemctl", "start", "sysvm-agent"])
        lab.vm.wait_ready()


def test_full_disk_keeps_events_in_memory_and_then_writes_them(lab: Lab, router: Router) -> None:
    """Case 22: what happens meanwhile is told, and kept as soon as there is room."""
    with small_disk(lab):
        folder = f"{STATE}/events"
        lab.vm.run(["sh", "-c", f"cat /dev/zero > {folder}/ballast 2>/dev/null; true"])
        router.push(router.document)
        wait_until(
            lambda: "document.committed" in [e["kind"] for e in kept(lab)["events"]],
            10,
            "it is told though it cannot be written",
        )
        told = kept(lab)["events"]
        lab.vm.run(["rm", f"{folder}/ballast"])
        router.push(router.document)
        wait_until(lambda: len(kept(lab)["events"]) > len(told), 10, "it is written again")
        assert kept(lab)["events"][: len(told)] == told
        lab.vm.run(["systemctl", "kill", "-s", "KILL", "sysvm-agent"])
        lab.vm.wait_ready()
        wait_until(lambda: len(kept(lab)["events"]) > len(told) + 1, 10, "all are there yet")
        assert kept(lab)["events"][: len(told)] == told


def test_read_only_disk_hides_nothing(lab: Lab, router: Router) -> None:
    """Case 23: events are told from memory, and kept as soon as the disk takes them."""
    with small_disk(lab, read_only=True):
        record(lab, 5000, 5001)  # which goes where there is room: below /run
        wait_until(lambda: known(lab)[-1:] == [5000], 10, "it is told from memory")
        assert kept(lab)["stream"].startswith("memory-")
        assert lab.vm.request("GET", "/v1/status").status == 200
        pid = lab.vm.run(["systemctl", "show", "-P", "MainPID", "sysvm-agent"]).text.strip()
        remount = ["mount", "-o", "remount,rw", f"{STATE}/events"]
        lab.vm.run(remount)
        lab.vm.run(["nsenter", "-t", pid, "-m", *remount])  # its sandbox has a mount of its own
        wait_until(lambda: not kept(lab)["stream"].startswith("memory-"), 10, "it is kept")
        spooled = ["sh", "-c", "ls /run/sysvm/events"]
        wait_until(lambda: not lab.vm.run(spooled).text, 10, "it is taken in")
        assert known(lab) == [5000]


# -- what raises events ------------------------------------------------------------------------


def since(lab: Lab, place: dict[str, Any]) -> list[dict[str, Any]]:
    query = f"after={place['next']}&stream={place['stream']}"
    events: list[dict[str, Any]] = kept(lab, query)["events"]
    return events


def told(lab: Lab, place: dict[str, Any], kind: str, seconds: float = 15) -> dict[str, Any]:
    """The first event of this kind after a place."""

    def found() -> list[dict[str, Any]]:
        return [event for event in since(lab, place) if event["kind"] == kind]

    return wait_until(found, seconds, f"{kind} is told")[0]


def down_servers(lab: Lab) -> set[str]:
    """What haproxy says."""
    rows = lab.vm.request("GET", "/v1/show/load-balancer").json()
    return {f"{row['listener']}/{row['server']}" for row in rows if row["status"] == "DOWN"}


def test_servers_that_go_down_and_come_up_are_told(lab: Lab, router: Router) -> None:
    """The example's guests serve nothing: their servers are down, until one serves."""
    vm1 = lab.guests["vm1"]
    vm1.dhcp()
    both = {"shop/vm1", "shop/vm2"}
    wait_until(lambda: both <= down_servers(lab), 30, "both are down")
    place = kept(lab, "tail=1")
    with vm1.serve(80):
        up = told(lab, place, "balancer.server-up", 30)
        assert up["subject"] == "shop/vm1"
        # A reload is no reason to tell anything.
        router.change({"load_balancer": {"listeners": {"shop": {"max_connections": 99}}}})
        lab.vm.run(["systemctl", "restart", "sysvm-agent"])
        lab.vm.wait_ready()
    down = told(lab, place, "balancer.server-down", 30)
    assert (down["subject"], down["severity"]) == (up["subject"], "warning")
    assert down["seq"] > up["seq"]


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        ("misnamed", "not among the allowed ones"),
        ("revoked", "its certificate is revoked"),
        ("expired", "its certificate has expired"),
        ("stranger", "of another authority"),
        (None, "showed no certificate"),
    ],
)
def test_refused_clients_are_told(
    lab: Lab, router: Router, identity: str | None, reason: str
) -> None:
    place = kept(lab, "tail=1")
    try:
        assert lab.manager.request("GET", "/v1/status", identity=identity).status == 403
    except OSError:
        assert identity != "misnamed"
    refused = told(lab, place, "client.refused")
    assert refused["subject"] == address(lab)
    assert reason in refused["message"]


def test_rollback_of_what_was_not_confirmed_is_told_by_the_timers_own_process(
    lab: Lab, router: Router
) -> None:
    place = kept(lab, "tail=1")
    document = router.next(router.document)
    document["site"]["domain"] = "trial.example"
    path = "/v1/document?confirm_within=2"
    assert lab.vm.request("PUT", path, json=document).status == 202
    told(lab, place, "document.provisional")
    back = told(lab, place, "document.rolled-back", 30)
    assert "not confirmed" in back["data"]["cause"]


def test_legacy_rules_are_told_until_they_are_over(lab: Lab, router: Router) -> None:
    """Case 35, told by the agent itself."""
    rule = ["FORWARD", "-p", "tcp", "--dport", "4712", "-j", "ACCEPT"]
    place = kept(lab, "tail=1")
    if lab.vm.run(["iptables-legacy", "-A", *rule], check=False).returncode != 0:
        pytest.skip("this kernel has no legacy tables")
    found = told(lab, place, "legacy-rules.found", 70)
    assert (found["severity"], found["data"]["rules"]) == ("warning", 1)
    assert "4712" in found["data"]["first"]
    assert "drift.found" not in {event["kind"] for event in since(lab, place)}  # beside ours
    removed = lab.vm.run(["sysvmctl", "legacy-rules", "--remove"]).text
    assert "4712" in removed
    told(lab, place, "legacy-rules.over", 70)


def test_drift_is_told_until_it_is_over(lab: Lab, router: Router) -> None:
    place = kept(lab, "tail=1")
    lab.vm.run(["iptables", "-I", "INPUT", "-p", "tcp", "--dport", "4711", "-j", "ACCEPT"])
    drift = told(lab, place, "drift.found", 70)
    assert "4711" in drift["message"]
    lab.vm.run(["iptables", "-D", "INPUT", "-p", "tcp", "--dport", "4711", "-j", "ACCEPT"])
    told(lab, place, "drift.over", 70)


def test_disk_that_takes_nothing_is_told_and_that_it_does_again(lab: Lab, router: Router) -> None:
    """Cases 22 and 23: it is the agent itself that says so, whoever asks or pushes."""
    place = kept(lab, "tail=1")
    with hostile_disk.small_disk(lab, STATE):
        hostile_disk.fill(lab, STATE)
        full = told(lab, place, "state.not-writable")
        assert (full["severity"], "bytes left" in full["message"]) == ("critical", True)
        lab.vm.run(["rm", f"{STATE}/ballast"])
        told(lab, place, "state.writable")
        place = kept(lab, "tail=1")
        lab.vm.run(["mount", "-o", "remount,ro", STATE])
        try:
            assert "read-only" in told(lab, place, "state.not-writable")["message"]
        finally:
            lab.vm.run(["mount", "-o", "remount,rw", STATE])
        told(lab, place, "state.writable")
