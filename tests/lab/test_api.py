"""The endpoint and sysvmctl in the VM itself: over the socket, and as management over TLS."""

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.api.openapi import description
from appliance.lab import Lab

ROOT = Path(__file__).parents[2]
# Those that come to an end, and are JSON.
GET = [
    path
    for path, item in description()["paths"].items()
    if "get" in item
    and "{" not in path
    and not path.startswith("/v1/console/")  # of another role
    and "application/json" in item["get"]["responses"]["200"]["content"]
]


def example() -> dict[str, Any]:
    value: dict[str, Any] = json.loads((ROOT / "examples" / "router.json").read_text())
    return value


@pytest.fixture(scope="module")
def generations() -> Iterator[int]:
    """Numbers that only grow, for all tests of this module."""
    return iter(range(1, 1000))


@pytest.fixture
def document(generations: Iterator[int]) -> dict[str, Any]:
    """The example with a generation that has not been."""
    return example() | {"generation": next(generations)}


@pytest.fixture
def running(lab: Lab, document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The document, applied."""
    answer = lab.vm.request("PUT", "/v1/document", json=document)
    assert answer.status in {200, 201}, answer.text
    return document


def ctl(lab: Lab, *words: str, stdin: bytes = b"") -> tuple[int, str, str]:
    done = lab.vm.run(["sysvmctl", *words], check=False, stdin=stdin)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_socket_belongs_to_root_and_its_group(lab: Lab) -> None:
    done = lab.vm.run(["stat", "-c", "%a %U %G", "/run/sysvm/control.sock"])
    assert done.text.split() == ["660", "root", "sysvm"]
    denied = lab.vm.run(
        ["setpriv", "--reuid", "nobody", "--clear-groups", "sysvmctl", "status"], check=False
    )
    assert denied.returncode == 2
    assert "permission denied" in denied.stderr.decode()


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("path", GET)
def test_everything_can_be_read(lab: Lab, path: str) -> None:
    answer = lab.vm.request("GET", path)
    assert answer.status == 200, answer.text
    assert answer.json() is not None


@pytest.mark.usefixtures("running")
def test_a_router_shows_nobody_a_console(lab: Lab) -> None:
    answer = lab.vm.request("GET", "/v1/console/sessions")
    assert answer.status == 409, answer.text
    assert answer.json()["type"].endswith("/not-wanted")


def test_document_goes_in_and_comes_out(lab: Lab, running: Mapping[str, Any]) -> None:
    answer = lab.vm.request("GET", "/v1/document")
    assert answer.json() == running
    assert answer.headers["etag"] == f'"{hashlib.sha256(answer.body).hexdigest()}"'
    again = lab.vm.request("PUT", "/v1/document", json=running)
    assert (again.status, again.json()["result"]) == (200, "unchanged")


def test_operator_applies_plans_patches_and_rolls_back(
    lab: Lab, running: Mapping[str, Any], generations: Iterator[int]
) -> None:
    document = example() | {"generation": next(generations)}
    assert document["generation"] > running["generation"]
    document["dhcp_dns"]["dns"]["records"]["cache"] = {"addresses": ["10.1.1.10"]}
    text = json.dumps(document).encode()
    code, plan, _ = ctl(lab, "plan", "-", stdin=text)
    assert code == 0
    assert "dnsmasq" in plan
    code, out, err = ctl(lab, "apply", "-", stdin=text)
    assert (code, err) == (0, "")
    assert re.search("^committed: revision [0-9]+, generation [0-9]+", out, re.MULTILINE)
    assert "cache" in ctl(lab, "show", "dns")[1]
    assert '+        "cache": {' in ctl(lab, "diff")[1]
    change = {"dhcp_dns": {"dns": {"records": {"cache": None}}}}
    assert ctl(lab, "patch", "-", stdin=json.dumps(change).encode())[0] == 0
    assert "cache" not in ctl(lab, "show", "dns")[1]
    assert ctl(lab, "rollback")[0] == 0
    assert "cache" in ctl(lab, "show", "dns")[1]
    code, out, _ = ctl(lab, "status")
    assert code == 0
    assert "(rollback)" in out
    assert "Drift     none" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert len(out.splitlines()) <= 24


def test_operator_is_told_what_is_wrong_and_nothing_changes(lab: Lab) -> None:
    before = lab.vm.request("GET", "/v1/revisions").json()["current"]
    bad = example() | {"generation": 9_000}
    bad["nat"]["forwards"]["web"]["to"] = "192.0.2.7"
    code, out, err = ctl(lab, "apply", "-", stdin=json.dumps(bad).encode())
    assert (code, out) == (1, "")
    assert "/nat/forwards/web/to: 192.0.2.7 is not in a guest network" in err
    assert "next: " in err
    assert lab.vm.request("GET", "/v1/revisions").json()["current"] == before


@pytest.mark.usefixtures("running")
def test_services_are_restarted_and_their_logs_read(lab: Lab) -> None:
    def pid() -> int:
        rows = lab.vm.request("GET", "/v1/services").json()
        found: int = next(r["main_pid"] for r in rows if r["unit"] == "dnsmasq.service")
        return found

    before = pid()
    assert ctl(lab, "service", "restart", "dnsmasq")[0] == 0
    assert pid() not in {0, before}
    code, out, _ = ctl(lab, "logs", "dnsmasq", "-n", "50")
    assert code == 0
    assert "dnsmasq[" in out
    assert ctl(lab, "service", "restart", "systemd-journald")[0] == 1
    assert ctl(lab, "logs", "systemd-journald")[0] == 1


@pytest.mark.usefixtures("running")
def test_tables_have_what_the_vm_does(lab: Lab) -> None:
    rows = {row["name"]: row for row in lab.vm.request("GET", "/v1/show/interfaces").json()}
    assert "10.1.1.1/24" in rows["eth0"]["addresses"]
    assert not any(row["missing"] for row in rows.values())
    nat = lab.vm.request("GET", "/v1/show/nat").json()
    web = next(row for row in nat if row["comment"] == "/nat/forwards/web")
    assert (web["original"], web["translated"]) == ("203.0.113.10 port 8080", "10.1.1.10 port 80")
    servers = lab.vm.request("GET", "/v1/show/load-balancer").json()
    assert {row["server"] for row in servers} >= {"FRONTEND", "vm1", "vm2"}


def test_management_is_named_in_the_log_and_cannot_be_impersonated(lab: Lab) -> None:
    content = b"#cloud-config\n"
    path = f"/v1/blobs/{hashlib.sha256(content).hexdigest()}"
    answer = lab.manager.request(
        "PUT", path, body=content, headers={"X-Sysvm-Client": "mallory", "X_Sysvm_Client": "eve"}
    )
    assert answer.status in {200, 201}, answer.text
    log = lab.vm.journal("-u", "sysvm-agent", "-o", "cat")
    line = next(line for line in log.splitlines() if path in line)
    assert re.search(r"by sysvm-manager \(uid [0-9]+ pid [0-9]+\)", line)
    assert "mallory" not in log
    assert "eve (" not in log


@pytest.mark.parametrize("door", ["socket", "tls"])
def test_too_much_is_refused_quickly(lab: Lab, door: str) -> None:
    ask = lab.vm.request if door == "socket" else lab.manager.request
    began = time.monotonic()
    deep = ask("PUT", "/v1/document", body=b"[" * 100_000)
    assert (deep.status, deep.json()["type"]) == (400, "/v1/problems/not-json")
    code, _, err = ctl(lab, "apply", "-", stdin=b" " * (17 * 2**20))
    assert code == 1
    assert "too-large" in err
    assert time.monotonic() - began < 5
    assert ask("GET", "/v1/status").status == 200


def test_agent_starts_in_no_time_and_stays_small(lab: Lab) -> None:
    lab.vm.run(["systemctl", "restart", "sysvm-agent"])
    status = lab.vm.request("GET", "/v1/status").json()
    assert status["agent"]["memory"] <= 60 * 2**20
    took = []
    for _ in range(5):
        began = time.monotonic()
        assert ctl(lab, "history")[0] == 0
        took.append(time.monotonic() - began)
    assert min(took) < 0.3
