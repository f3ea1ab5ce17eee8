"""ping, traceroute, arping from the VM: the real tools, in the sandbox, at every door."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from appliance.lab import Lab
from appliance.lab.wait import wait_until
from tests.lab.helpers import INTERNET, VM1, VM1_MAC, WWW, Router, example

NOBODY_THERE = "10.1.1.99"
TOOLS = ("ping", "traceroute", "arping", "ndisc6", "tcpdump", "setpriv")


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    """The example's router, with a guest that has its address."""
    router = Router(lab)
    router.push(example())
    lab.guests["vm1"].dhcp()
    return router


def attempt(lab: Lab, tool: str, target: str, arguments: str = "", **more: object) -> Any:
    request = {"target": target, "arguments": arguments, **more}
    answer = lab.vm.request("POST", f"/v1/diagnostics/{tool}", json=request)
    assert answer.status == 200, answer.text
    return answer.json()


def diag(lab: Lab, *words: str) -> tuple[int, str, str]:
    done = lab.vm.run(["sysvmctl", "diag", *words], check=False, timeout=90)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@contextmanager
def pinging(lab: Lab, target: str) -> Iterator[None]:
    """sysvmctl in the VM, which has something pinged until it is killed."""
    script = f"echo $$; exec sysvmctl diag ping {target} -- -q -c 1000"
    with lab.vm.popen(["sh", "-c", script]) as client:
        assert client.stdout is not None
        pid = client.stdout.readline().decode().strip()
        try:
            yield
        finally:
            lab.vm.run(["kill", "-KILL", pid], check=False)


def tools_running(lab: Lab) -> str:
    """Tools that the agent has started and that are still there."""
    group = "/sys/fs/cgroup/system.slice/sysvm-agent.service/cgroup.procs"
    script = f"for pid in $(cat {group}); do cat /proc/$pid/comm; done; true"
    found = lab.vm.run(["sh", "-c", script]).text.split()
    return " ".join(name for name in found if name in TOOLS)


# -- answers, and none -------------------------------------------------------------------------


def test_ping_tells_who_answers_and_who_does_not(lab: Lab, router: Router) -> None:
    answer = attempt(lab, "ping", VM1, "-c 2 -i 0.2")
    assert (answer["exit"], answer["reason"]) == (0, "exited")
    assert "2 packets transmitted, 2 received" in answer["stdout"]
    answer = attempt(lab, "ping", NOBODY_THERE, "-c 1 -W 1")
    assert answer["exit"] == 1
    assert "100% packet loss" in answer["stdout"]
    answer = attempt(lab, "ping", "no-such-host.invalid")
    assert answer["exit"] == 2
    assert answer["stdout"] == ""
    assert "ping: no-such-host.invalid" in answer["stderr"]


def test_names_are_the_tools_to_resolve(lab: Lab, router: Router) -> None:
    lab.vm.run(["sh", "-c", f"echo '{VM1} vm1.test' >> /etc/hosts"], check=False)
    answer = attempt(lab, "ping", "localhost", "-c 1", family=4)
    assert answer["exit"] == 0, answer
    assert "127.0.0.1" in answer["stdout"]


def test_arping_finds_the_nic_by_itself(lab: Lab, router: Router) -> None:
    answer = attempt(lab, "arping", VM1, "-c 1")
    assert answer["exit"] == 0
    assert f"[{VM1_MAC.upper()}]" in answer["stdout"]
    answer = attempt(lab, "arping", NOBODY_THERE, "-c 1 -w 1")
    assert answer["exit"] == 1
    assert "Received 0 response" in answer["stdout"]


def test_traceroute_by_each_of_its_ways(lab: Lab, router: Router) -> None:
    for arguments in ("-n", "-n -I", "-n -T -p 80"):
        answer = attempt(lab, "traceroute", WWW, arguments)
        assert answer["exit"] == 0, answer
        assert re.search(rf"^ 1 +{re.escape(WWW)} ", answer["stdout"], re.MULTILINE), answer


def test_ipv6_too(lab: Lab, router: Router) -> None:
    text = lab.guests["vm1"].run(["ip", "-6", "-o", "address", "show", "scope", "link"]).text
    address = re.findall(r"inet6 (fe80:[0-9a-f:]+)/64", text)[0]
    there, not_there = f"{address}%eth0", "fe80::99%eth0"
    answer = attempt(lab, "arping", there, "-c 2")
    assert answer["exit"] == 0, answer
    assert VM1_MAC.upper() in answer["stdout"].upper()
    assert attempt(lab, "arping", not_there, "-c 1 -w 300")["exit"] != 0
    assert attempt(lab, "ping6", there, "-c 1 -W 2")["exit"] == 0
    assert attempt(lab, "ping6", not_there, "-c 1 -W 1")["exit"] == 1
    assert attempt(lab, "traceroute6", there, "-n -q 1 -m 2 -I")["exit"] == 0


# -- limits ------------------------------------------------------------------------------------


def test_time_limit_holds_and_what_was_found_is_told(lab: Lab, router: Router) -> None:
    began = time.monotonic()
    answer = attempt(lab, "ping", VM1, "-c 1000", seconds=2)
    assert time.monotonic() - began < 15
    assert (answer["exit"], answer["reason"], answer["timed_out"]) == (None, "time limit", True)
    assert "packets transmitted" in answer["stdout"]
    assert tools_running(lab) == ""


def test_hostile_requests_run_nothing(lab: Lab, router: Router) -> None:
    """Hostile case 53."""
    for target, arguments, words in (
        (VM1, "--flood", "long options"),
        (VM1, "-c 4; reboot", "illegal character ';'"),
        (VM1, "$(reboot)", "illegal character '$'"),
        (VM1, "-I eth9", "a NIC of this VM"),
        (VM1, "-I -f", "a NIC of this VM"),
        (VM1, "-c 1000000", "from 1 to 1000"),
        (VM1, "-f", "floods"),
        ("file:///etc/passwd", "", "neither an address nor a name"),
        ("-f", "", "neither an address nor a name"),
        (f"{VM1};id", "", "neither an address nor a name"),
    ):
        request = {"target": target, "arguments": arguments}
        answer = lab.vm.request("POST", "/v1/diagnostics/ping", json=request)
        assert answer.status == 422, (request, answer.text)
        assert answer.json()["type"] == "/v1/problems/diagnostic-refused"
        assert words in answer.json()["problems"][0]["message"]
    assert tools_running(lab) == ""
    assert lab.vm.running


def test_tools_have_raw_sockets_and_nothing_else_of_root(lab: Lab, router: Router) -> None:
    with pinging(lab, VM1):
        wait_until(lambda: tools_running(lab) == "ping", 10, "ping runs")
        status = lab.vm.run(["sh", "-c", "cat /proc/$(pidof ping)/status"]).text
    # It was given raw sockets, and gave even that up when it had opened its own.
    assert re.search(r"^CapBnd:\s+0000000000002000$", status, re.MULTILINE), status
    assert re.search(r"^CapEff:\s+0000000000000000$", status, re.MULTILINE), status
    assert re.search(r"^Uid:\s+65534\s+65534\s", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
    wait_until(lambda: tools_running(lab) == "", 10, "nothing is left")


# -- at the doors ------------------------------------------------------------------------------


def test_live_over_tls_and_gone_with_its_client(lab: Lab, router: Router) -> None:
    manager = lab.manager
    folder = manager.keys_folder
    url = f"https://{manager.vm_address}:{manager.vm_port}/v1/diagnostics/ping?live=1"
    identity = ("--cert", f"{folder}/manager.pem", "--key", f"{folder}/manager.key")
    curl = ["curl", "-sSN", "--cacert", f"{folder}/ca.pem", *identity]
    data = json.dumps({"target": VM1, "arguments": "-c 1000 -i 0.5", "seconds": 100})
    began = time.monotonic()
    with manager.popen([*curl, "--data", data, url]) as client:
        assert client.stdout is not None
        begun, first, second = (json.loads(client.stdout.readline()) for _ in range(3))
        assert time.monotonic() - began < 20  # long before the end
        assert begun["argv"][:2] == ["ping", "-4"]
        assert "icmp_seq" in first["text"] + second["text"]
        assert tools_running(lab) == "ping"
        client.kill()
    wait_until(lambda: tools_running(lab) == "", 15, "the tool has gone with its client")


def test_silent_tool_over_tls_goes_with_its_client(lab: Lab, router: Router) -> None:
    """The front tells that it has left when the next sign of life cannot be delivered."""
    manager = lab.manager
    folder = manager.keys_folder
    url = f"https://{manager.vm_address}:{manager.vm_port}/v1/diagnostics/ping?live=1"
    identity = ("--cert", f"{folder}/manager.pem", "--key", f"{folder}/manager.key")
    curl = ["curl", "-sSN", "--cacert", f"{folder}/ca.pem", *identity]
    data = json.dumps({"target": NOBODY_THERE, "arguments": "-q -c 1000", "seconds": 200})
    with manager.popen([*curl, "--data", data, url]) as client:
        assert client.stdout is not None
        client.stdout.readline()
        wait_until(lambda: tools_running(lab) == "ping", 10, "ping runs")
        client.kill()
    wait_until(lambda: tools_running(lab) == "", 20, "the tool has gone with its client")


def test_answer_over_tls_is_the_same(lab: Lab, router: Router) -> None:
    request = {"target": INTERNET, "arguments": "-c 1"}
    answer = lab.manager.request("POST", "/v1/diagnostics/ping", json=request)
    assert answer.status == 200
    assert answer.json()["exit"] == 0
    refused = {"target": INTERNET, "arguments": "-c 1|id"}
    answer = lab.manager.request("POST", "/v1/diagnostics/ping", json=refused)
    assert answer.status == 422


def test_command_line(lab: Lab, router: Router) -> None:
    code, out, err = diag(lab, "ping", VM1, "--", "-c", "1")
    assert (code, err) == (0, "")
    assert "1 received" in out
    code, out, err = diag(lab, "ping", NOBODY_THERE, "--", "-c", "1", "-W", "1")
    assert code == 1
    assert "100% packet loss" in out
    code, out, err = diag(lab, "ping", VM1, "--", "-c", "1;id")
    assert code == 1
    assert "illegal character ';' at place 5" in err
    code, out, err = diag(lab, "trace", WWW, "--", "-n")
    assert code == 0
    code, out, err = diag(lab, "arping", VM1, "--seconds", "2", "--", "-c", "100")
    assert code == 1
    assert "ended: time limit" in err
    assert "response(s)" in out


def test_control_answers_while_all_slots_are_taken(lab: Lab, router: Router) -> None:
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(pinging(lab, NOBODY_THERE))
        wait_until(lambda: tools_running(lab).split().count("ping") == 4, 15, "all four run")
        code, _, err = diag(lab, "ping", VM1)
        assert code == 1
        assert "too-many-streams" in err
        assert lab.vm.request("GET", "/v1/status").status == 200
        router.push(router.document)
    wait_until(lambda: tools_running(lab) == "", 15, "nothing is left")


def test_agent_that_stops_leaves_no_tool(lab: Lab, router: Router) -> None:
    with pinging(lab, NOBODY_THERE):
        wait_until(lambda: tools_running(lab) == "ping", 10, "ping runs")
        began = time.monotonic()
        lab.vm.run(["systemctl", "restart", "sysvm-agent"], timeout=60)
        assert time.monotonic() - began < 10
    lab.vm.wait_ready()
    assert lab.vm.run(["pidof", "ping"], check=False).returncode == 1
