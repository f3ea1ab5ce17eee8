"""The console proxy as a system VM: its unit, its doors, its wall, a screen on another machine."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.services import console
from appliance.lab import Lab
from appliance.lab.pki import Authority
from appliance.lab.wait import wait_until
from tests.lab.helpers import ROUTER_MAC, VM1, WWW, Router, example, frames, settle, wire
from tests.unit.console.rig import digest, secret

UNIT = console.UNIT
ADDRESS = "203.0.113.10"
HOST = "203-0-113-10.console.example"
AUTHORITY = Authority.create("Root")
ROOT = Path(__file__).parents[2]

SCREEN = """
import threading
from tests.unit.console.rig import Screen
screen = Screen()
print(screen.port, flush=True)
threading.Event().wait()
"""
BROWSER = """
import json, socket, ssl, struct, sys
from websockify.websocket import WebSocket
from tests.unit.console.rig import Browser
given = json.loads(sys.argv[1])
class Proxy:
    class authority:
        class identity:
            certificate = given["ca"]
    ports = {"tls": 443}
browser = Browser(Proxy, offer=given["secret"], origin=f"https://{given['host']}",
                  host=given["host"], address=given["address"], source="", name=given["host"])
print(browser.open(), flush=True)
sys.stdin.read()
browser.close()
"""


def section(name: str = "proxy") -> dict[str, Any]:
    identity = AUTHORITY.issue(name, names=["*.console.example"])
    return {
        "networks": [f"{WWW}/32"],
        "ports": ["1024-65535"],
        "domain": "*.console.example",
        "certificates": {"server": identity.certificate, "root": AUTHORITY.identity.certificate},
        "key": identity.key,
    }


def document(**changed: Any) -> dict[str, Any]:
    given = example()
    kept = {name: given[name] for name in ("schema", "generation", "site")}
    return kept | {"role": "console-proxy", "console": section() | changed}


@pytest.fixture(scope="module")
def proxy(lab: Lab) -> Router:
    """A VM with a document that makes it a console proxy."""
    router = Router(lab)
    router.push(document())
    return router


@pytest.fixture(scope="module")
def screen(lab: Lab) -> Iterator[int]:
    """A hypervisor on the internet; its screen's port."""
    with lab.internet.popen(
        [sys.executable, "-c", f"import os; os.chdir({str(ROOT)!r})\n{SCREEN}"]
    ) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.terminate()


def offer(proxy: Router, name: str, port: int) -> int:
    value = {
        "secret_sha256": digest(secret(name)).hex(),
        "vm": "i-2-10-VM",
        "user": "alice",
        "title": "web 1",
        "target": {"address": WWW, "port": port},
    }
    return proxy.lab.vm.request("PUT", f"/v1/console/sessions/{name}", json=value).status


def browser(lab: Lab, name: str) -> "subprocess.Popen[bytes]":
    given = {"ca": AUTHORITY.identity.certificate, "secret": secret(name)}
    given |= {"host": HOST, "address": ADDRESS}
    code = f"import os; os.chdir({str(ROOT)!r})\n{BROWSER}"
    return lab.internet.popen([sys.executable, "-c", code, json.dumps(given)], stdin=True)


def state(proxy: Router, name: str) -> str | None:
    answer = proxy.lab.vm.request("GET", f"/v1/console/sessions/{name}")
    return answer.json()["state"] if answer.status == 200 else None


def test_a_screen_is_seen_through_the_vm(proxy: Router, lab: Lab, screen: int) -> None:
    assert offer(proxy, "s1", screen) == 201
    with browser(lab, "s1") as one:
        assert one.stdout is not None
        assert one.stdin is not None
        assert one.stdout.readline() == b"web 1\n"
        assert state(proxy, "s1") == "open"
        # Other certificates, and the session stays.
        before = lab.vm.run(["systemctl", "show", "-P", "MainPID", UNIT]).stdout
        proxy.push(document(**section("other")))
        assert lab.vm.run(["systemctl", "show", "-P", "MainPID", UNIT]).stdout == before
        assert state(proxy, "s1") == "open"
        one.stdin.close()
        wait_until(lambda: state(proxy, "s1") is None, 20, "the end")
    log = lab.vm.run(["journalctl", "-u", UNIT, "-o", "cat"]).stdout.decode()
    assert "session s1: alice opens the console of i-2-10-VM" in log
    assert "closed by the user" in log
    assert secret("s1") not in log


def test_the_proxy_is_nobody_and_has_what_it_needs(proxy: Router, lab: Lab) -> None:
    shown = lab.vm.run(["systemctl", "show", "-P", "User", UNIT]).stdout
    assert shown.strip() == b"sysvm-console-proxy"
    pid = lab.vm.run(["systemctl", "show", "-P", "MainPID", UNIT]).stdout.decode().strip()
    status = lab.vm.read(f"/proc/{pid}/status").decode()
    assert "CapEff:\t0000000000000400" in status  # NET_BIND_SERVICE alone
    assert "NoNewPrivs:\t1" in status
    mode = lab.vm.run(["stat", "-c", "%a %U", "/run/sysvm-console-proxy/control"]).stdout
    assert mode.strip() == b"600 sysvm-console-proxy"


def test_the_template_has_what_it_runs_on_and_not_what_that_asks_for(lab: Lab) -> None:
    names = ("websockify", "uvloop", "websockets", "numpy", "redis", "requests", "jwcrypto")
    code = f"from importlib.util import find_spec; print([n for n in {names} if find_spec(n)])"
    found = lab.vm.run(["/opt/sysvm/bin/python3", "-I", "-c", code]).text.strip()
    assert found == "['websockify', 'uvloop', 'websockets']"
    listed = lab.vm.run(["dpkg-query", "-W", "-f", "${Status}", "novnc"])
    assert listed.text == "install ok installed"
    assert lab.vm.run(["which", "node"], check=False).returncode == 1
    assert lab.vm.run(["test", "-e", f"{console.NOVNC}/vnc.html"], check=False).returncode == 1


def test_targets_in_guests_networks_are_refused(proxy: Router) -> None:
    value = {"secret_sha256": "00" * 32, "vm": "v", "user": "u"}
    for address in ("10.1.1.10", "127.0.0.1", ADDRESS, "198.51.100.53"):
        target = {"address": address, "port": 5900}
        answer = proxy.lab.vm.request(
            "PUT", "/v1/console/sessions/bad", json=value | {"target": target}
        )
        assert answer.status == 422, address


def test_its_doors_open_and_close_with_the_section(proxy: Router, lab: Lab) -> None:
    wait_until(lambda: lab.internet.reaches(ADDRESS, 443), 20, "the port")
    assert lab.internet.reaches(ADDRESS, 80, timeout=5)
    for name in ("vm1", "vm2"):
        assert not lab.guests[name].reaches("10.1.1.1", 443, timeout=0.5)
    without = document()
    del without["console"]
    proxy.push(without)
    assert not lab.internet.reaches(ADDRESS, 443, timeout=0.5)
    assert lab.vm.run(["systemctl", "is-active", UNIT], check=False).stdout.strip() == b"inactive"
    proxy.push(document())
    wait_until(lambda: lab.internet.reaches(ADDRESS, 443), 20, "the port again")


def opens(lab: Lab, address: str, port: int, *, user: str = console.USER) -> bool:
    """Does a process of this user in the VM get a TCP connection?"""
    code = f"import socket; socket.create_connection(({address!r}, {port}), 0.5).close()"
    become = ["setpriv", f"--reuid={user}", "--clear-groups"]
    argv = [*become, "/usr/bin/python3", "-c", code]
    return lab.vm.run(argv, check=False).returncode == 0


def test_its_user_reaches_screens_and_nothing_else(proxy: Router, lab: Lab, screen: int) -> None:
    assert opens(lab, WWW, screen)
    with lab.manager.serve(7000):
        for place in ((WWW, 80), ("198.51.100.53", 53), ("169.254.0.1", 7000)):
            assert opens(lab, *place, user="root"), place
            assert not opens(lab, *place), place
    assert opens(lab, "127.0.0.1", console.STATUS_PORT, user="root")
    assert not opens(lab, "127.0.0.1", console.STATUS_PORT)
    assert proxy.count("sysvm: no screen") > 0
    assert proxy.drift() == []
    # Another network of hypervisors, and then that one again.
    with proxy.changed({"console": {"networks": ["198.51.100.20/32"]}}):
        assert not opens(lab, WWW, screen)
    assert opens(lab, WWW, screen)


def test_the_wall_stands_after_a_reboot(proxy: Router, lab: Lab, screen: int) -> None:
    # The text that is loaded at boot has a number, which no template may have for somebody else.
    assert lab.vm.run(["id", "-u", console.USER]).stdout.strip() == b"890"
    assert "--uid-owner 890 " in lab.vm.run(["iptables-save", "-t", "filter"]).text
    lab.vm.reboot()
    lab.vm.wait_ready()
    wait_until(lambda: lab.internet.reaches(ADDRESS, 443), 30, "the port")
    assert proxy.drift() == []
    assert opens(lab, WWW, screen)
    assert opens(lab, WWW, 80, user="root")
    assert not opens(lab, WWW, 80)


def from_router(seen: Iterable[bytes]) -> list[bytes]:
    """What it sends to a guest, or to find one; not what any kernel tells all of its own IPv6."""
    ours = (frame for frame in seen if frame[6:12].hex(":") == ROUTER_MAC)
    return [frame for frame in ours if frame[:2] != b"\x33\x33"]


def test_nobody_in_it_reaches_a_guest(proxy: Router, lab: Lab) -> None:
    guest = lab.guests["vm1"]
    settle(guest, VM1)
    with guest.serve(5901), wire(guest) as cable:
        for user in (console.USER, "root"):
            assert not opens(lab, VM1, 5901, user=user)
        assert not from_router(frames(cable))
        # Both the way there and the eye on it are in order: without the wall it is reached.
        hole = ["OUTPUT", "-d", VM1, "-j", "ACCEPT"]
        lab.vm.run(["iptables", "-I", *hole])
        assert opens(lab, VM1, 5901, user="root")
        assert from_router(frames(cable))
        lab.vm.run(["iptables", "-D", *hole])
        assert not opens(lab, VM1, 5901, user="root")


def test_another_port_ends_no_session(proxy: Router, lab: Lab, screen: int) -> None:
    assert offer(proxy, "s2", screen) == 201
    with browser(lab, "s2") as one:
        assert one.stdout is not None
        assert one.stdin is not None
        assert one.stdout.readline() == b"web 1\n"
        with proxy.changed({"console": {"port": 4443}}):
            assert lab.internet.reaches(ADDRESS, 4443)
            assert not lab.internet.reaches(ADDRESS, 443, timeout=0.5)
            assert state(proxy, "s2") == "open"
        assert lab.internet.reaches(ADDRESS, 443)
        assert not lab.internet.reaches(ADDRESS, 4443, timeout=0.5)
        assert state(proxy, "s2") == "open"
        one.stdin.close()
        wait_until(lambda: state(proxy, "s2") is None, 20, "the end")


def test_faults_of_certificates_are_all_in_one_answer(proxy: Router) -> None:
    wrong = section() | {"key": AUTHORITY.issue("x").key, "domain": "console.example"}
    answer = proxy.put(proxy.next(document(**wrong)))
    assert answer.status == 422
    paths = {problem["path"] for problem in answer.json()["problems"]}
    assert paths == {"/console/key", "/console/certificates/server"}


def test_a_killed_worker_comes_back(proxy: Router, lab: Lab) -> None:
    pid = lab.vm.run(["systemctl", "show", "-P", "MainPID", UNIT]).stdout.decode().strip()

    def workers() -> list[str]:
        found = lab.vm.run(["pgrep", "-P", pid], check=False).stdout.decode()
        return found.split()

    # Those that an earlier test has retired leave when nobody has them any more.
    count = lab.vm.request("GET", "/v1/console/sessions").json()["workers"]
    wait_until(lambda: len(workers()) == count, 45, "no worker but those that serve")
    before = workers()
    assert before
    lab.vm.run(["kill", "-9", before[0]])
    wait_until(lambda: len(workers()) == len(before) and before[0] not in workers(), 20, "another")


def test_what_happens_to_consoles_is_told_as_events(proxy: Router, lab: Lab, screen: int) -> None:
    page = lab.vm.request("GET", "/v1/events?limit=1000").json()

    def told(kind: str, subject: str = "") -> dict[str, Any]:
        path = f"/v1/events?limit=1000&after={page['last']}&stream={page['stream']}"

        def found() -> list[dict[str, Any]]:
            events = lab.vm.request("GET", path).json()["events"]
            told_so = [event for event in events if event["kind"] == kind]
            return [event for event in told_so if subject in {"", event["subject"]}]

        (event,) = wait_until(found, 30, f"{kind} is told")
        return event

    assert offer(proxy, "e1", screen) == 201
    with browser(lab, "e1") as one:
        assert one.stdout is not None
        assert one.stdin is not None
        assert one.stdout.readline() == b"web 1\n"
        opened = told("console.opened", "e1")
        assert opened["data"]["user"] == "alice"
        assert opened["data"]["vm"] == "i-2-10-VM"
        with browser(lab, "nobody's") as other:  # a link that never was
            told("console.refused")
            assert other.stdin is not None
            other.stdin.close()
            other.kill()
        # The agent is away when a worker dies.
        lab.vm.run(["systemctl", "stop", "sysvm-agent"])
        lab.vm.run(["sh", "-c", f"kill -9 $(pgrep -P $(systemctl show -P MainPID {UNIT}))"])
        lab.vm.run(["systemctl", "start", "sysvm-agent"])
        lab.vm.wait_ready()
        died = wait_until(
            lambda: [
                event
                for event in lab.vm.request("GET", "/v1/events?tail=50").json()["events"]
                if event["kind"] == "console.worker-died"
            ],
            30,
            "its death is told",
        )
        assert died[0]["data"]["status"] == "status -9"
        one.stdin.close()
        one.kill()
    drained = lab.vm.request("POST", "/v1/console/drain", json={"within": 1})
    assert drained.status == 200
    assert told("console.draining")["data"]["within"] == 1
    lab.vm.request("DELETE", "/v1/console/sessions/e1")
    assert told("console.ended", "e1")["data"]["user"] == "alice"
    told("console.drained")
    assert lab.vm.request("DELETE", "/v1/console/drain").status == 200
    text = json.dumps(lab.vm.request("GET", "/v1/events?tail=200").json())
    assert secret("e1") not in text
