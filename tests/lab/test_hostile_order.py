"""Pushes that come twice, too late, all at once or half: one document runs, and a whole one."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.document.document import merge
from appliance.lab import Lab
from appliance.lab.vm import CONTROL_SOCKET
from appliance.lab.wait import wait_until
from tests.lab.helpers import VM2, Document, Router, settle


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    """The example runs."""
    router = Router(lab)
    router.push(router.document)
    settle(lab.guests["vm2"], VM2)
    return router


def record(number: int, name: str = "n") -> Document:
    """A change that can be seen."""
    return {"dhcp_dns": {"dns": {"records": {name: {"addresses": [f"10.1.1.{number}"]}}}}}


def resolves(lab: Lab, name: str = "n") -> list[str]:
    answer = lab.guests["vm2"].query(name, server="10.1.1.1").answer
    return [entry.to_text() for rrset in answer for entry in rrset]


def test_same_document_twice_touches_nothing(lab: Lab, router: Router) -> None:
    """Case 13."""
    router.change(record(21))
    with lab.internet.connect("203.0.113.11", 80) as held:
        before = router.everything()
        reads = lab.vm.journal("-u", "dnsmasq", "-o", "cat").count("read /run/sysvm")
        for _ in range(3):
            answer = router.put(router.document)
            assert (answer.status, answer.json()["result"]) == (200, "unchanged")
            assert answer.json()["plan"] == []
        assert router.everything() == before
        assert lab.vm.journal("-u", "dnsmasq", "-o", "cat").count("read /run/sysvm") == reads
        held.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert held.recv(12) == b"HTTP/1.1 503"  # haproxy's own: there is no server behind


def test_change_of_dns_leaves_everything_else(lab: Lab, router: Router) -> None:
    """Case 18: what a push does not name otherwise stays, with its processes."""
    before, firewall = router.daemons(), router.firewall()
    plan = router.change(record(22))
    assert [line for line in plan if "dnsmasq" not in line] == []
    assert resolves(lab) == ["10.1.1.22"]
    assert router.daemons() == before
    assert router.firewall() == firewall


def test_patch_changes_one_entry(lab: Lab, router: Router) -> None:
    """Case 18, as a merge patch that names the document that it is for."""
    before, firewall = router.daemons(), router.firewall()
    etag = lab.vm.request("GET", "/v1/document").headers["etag"]
    headers = {"Content-Type": "application/merge-patch+json", "If-Match": etag}
    change = json.dumps(record(23)).encode()
    answer = lab.vm.request("PATCH", "/v1/document", body=change, headers=headers)
    assert answer.status == 200, answer.text
    assert resolves(lab) == ["10.1.1.23"]
    again = lab.vm.request("PATCH", "/v1/document", body=change, headers=headers)
    assert again.status == 412
    assert router.daemons() == before
    assert router.firewall() == firewall


def test_older_generation_is_refused(lab: Lab, router: Router) -> None:
    """Case 14; and the same generation with other content."""
    old = router.next(merge(router.document, record(24)))
    router.change(record(25))
    before = router.everything()
    late = router.put(old)
    assert (late.status, late.json()["type"]) == (409, "/v1/problems/stale-generation")
    other = merge(router.document, record(26))
    clash = router.put(other)
    assert (clash.status, clash.json()["type"]) == (409, "/v1/problems/generation-conflict")
    assert router.everything() == before
    assert resolves(lab) == ["10.1.1.25"]


def test_two_managers_with_one_base(lab: Lab, router: Router) -> None:
    """Case 16."""
    etag = {"If-Match": lab.vm.request("GET", "/v1/document").headers["etag"]}
    first = router.next(merge(router.document, record(27)))
    second = router.next(merge(router.document, record(28)))
    assert router.put(first, headers=etag).status == 200
    late = router.put(second, headers=etag)
    assert (late.status, late.json()["type"]) == (412, "/v1/problems/precondition-failed")
    assert resolves(lab) == ["10.1.1.27"]
    router.document = first


def test_hundred_pushes_at_once(lab: Lab, router: Router) -> None:
    """Case 15: one after the other, in the order of their generations; the last one wins."""
    documents = [
        router.next(merge(router.document, record(100 + n, f"r{n % 7}"))) for n in range(100)
    ]

    def push(document: Document) -> int:
        try:
            return router.put(document, timeout=60).status
        except OSError:
            return 0

    with ThreadPoolExecutor(100) as threads:
        statuses = list(threads.map(push, documents))
    assert set(statuses) <= {0, 200, 409, 503}
    # Whoever was told to try again does so; then there is only the last.
    router.document = documents[-1]
    wait_until(lambda: router.put(documents[-1]).status == 200, 20, "the last push")
    running = lab.vm.request("GET", "/v1/document").json()
    assert running == documents[-1]
    number = documents[-1]["dhcp_dns"]["dns"]["records"]
    for name, value in number.items():
        assert resolves(lab, name) == value["addresses"]
    # Every revision is a whole document that somebody pushed, in ascending generations.
    kept = lab.vm.request("GET", "/v1/revisions").json()["revisions"]
    generations = [row["generation"] for row in kept]
    assert generations == sorted(generations, reverse=True)
    assert router.drift() == []


def raw(lab: Lab, head: bytes, body: bytes) -> socket.socket:
    """A request to the socket, as far as it goes."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(lab.vm.root / CONTROL_SOCKET))
    sock.sendall(head + body)
    return sock


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_client_that_goes_in_the_middle_changes_nothing(
    lab: Lab, router: Router, share: float
) -> None:
    """Case 17."""
    document = router.next(merge(router.document, record(30)))
    body = json.dumps(document).encode()
    head = (
        "PUT /v1/document HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    before = router.everything()
    raw(lab, head.encode(), body[: int(len(body) * share)]).close()
    assert lab.vm.request("GET", "/v1/status").status == 200
    assert router.everything() == before
    # The retry, whole, goes through.
    assert router.put(document).status == 200
    assert resolves(lab) == ["10.1.1.30"]
    router.document = document


def test_client_that_goes_after_the_body_finds_its_push_done(lab: Lab, router: Router) -> None:
    """Case 17: the retry is the same document again, and finds what the first one did."""
    document = router.next(merge(router.document, record(31)))
    body = json.dumps(document).encode()
    head = f"PUT /v1/document HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    staged = lab.vm.root / f"run/sysvm/revisions/{router.current() + 1}"
    with raw(lab, head.encode(), body):
        wait_until(staged.exists, 10, "the change being under way", every=0.001)
    wait_until(lambda: lab.vm.request("GET", "/v1/document").json() == document, 10, "its commit")
    again = router.put(document)
    assert (again.status, again.json()["result"]) == (200, "unchanged")
    assert resolves(lab) == ["10.1.1.31"]
    router.document = document


def test_slow_client_does_not_keep_others_waiting(lab: Lab, router: Router) -> None:
    head = b"PUT /v1/document HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{"
    slow = [raw(lab, head, b"") for _ in range(8)]
    try:
        began = time.monotonic()
        router.change(record(32))
        assert resolves(lab) == ["10.1.1.32"]
        assert time.monotonic() - began < 25  # not until the slow ones are given up
        with raw(lab, b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", b"") as sock:
            assert sock.recv(12) == b"HTTP/1.1 200"
        assert lab.manager.request("GET", "/v1/status").status == 200
    finally:
        for sock in slow:
            sock.close()
