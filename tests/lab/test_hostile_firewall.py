"""The firewall under load and under other hands: nothing slips through, nothing is cut."""

import socket
import threading
from collections.abc import Iterator

import pytest

from agent.document.document import merge
from appliance.lab import Lab
from appliance.lab.node import Node
from appliance.lab.wait import wait_until
from tests.lab.helpers import VM1, Document, Router, example, settle

FIRST = "203.0.113.10"
RULES = 1000


def document(variant: int) -> Document:
    """A thousand ingress rules, none of which is in the next variant, and a forward to vm1."""
    value = example()
    many = {
        f"r{variant}-{n}": {"protocol": "udp", "ports": 20000 + variant * 2000 + n}
        for n in range(RULES)
    }
    allowed = {f"web{variant}": {"protocol": "tcp", "ports": "8000-8001"}}
    value["nat"]["forwards"] = {
        "all": {"address": FIRST, "protocol": "tcp", "ports": "8000-8003", "to": VM1}
    }
    value["firewall"]["ingress"] = {FIRST: {**many, **allowed}}
    return value


@pytest.fixture(scope="module")
def router(lab: Lab) -> Iterator[Router]:
    """vm1 has an echo server on 8000 to 8003; 8000 and 8001 may be reached."""
    router = Router(lab)
    router.push(document(0))
    vm1 = lab.guests["vm1"]
    settle(vm1, VM1)
    program = (
        "import socketserver, threading\n"
        "class Echo(socketserver.BaseRequestHandler):\n"
        "    def handle(self):\n"
        "        while data := self.request.recv(999): self.request.sendall(data)\n"
        "class Server(socketserver.ThreadingTCPServer):\n"
        "    allow_reuse_address, daemon_threads, request_queue_size = True, True, 256\n"
        "for port in range(8000, 8004):\n"
        "    threading.Thread(target=Server(('', port), Echo).serve_forever).start()\n"
        "print('ready', flush=True)\n"
    )
    process = vm1.popen(["python3", "-c", program])
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield router
    process.kill()
    process.communicate()


class Crowd:
    """Clients that go on until they are stopped, and count what happened to them."""

    def __init__(self, node: Node) -> None:
        self.node, self.stopped = node, threading.Event()
        self.echoes = self.accepted = self.knocks = 0
        self.failures: list[str] = []
        jobs = (self.established, self.new, self.forbidden, self.forbidden)
        self.threads = [threading.Thread(target=job) for job in jobs]

    def __enter__(self) -> "Crowd":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def established(self) -> None:
        """One connection, all along."""
        try:
            with self.node.connect(FIRST, 8000) as sock:
                while not self.stopped.is_set():
                    sock.sendall(b"?")
                    if sock.recv(1) != b"?":
                        raise ConnectionResetError("cut")
                    self.echoes += 1
        except OSError as error:
            self.failures.append(f"established: {error!r}")

    def new(self) -> None:
        """New connections that are allowed."""
        while not self.stopped.wait(0.002):
            try:
                # A lost SYN would be sent again after a second: that is a loss as well.
                self.node.connect(FIRST, 8001, timeout=0.9).close()
                self.accepted += 1
            except OSError as error:
                self.failures.append(f"new: {error!r}")

    def forbidden(self) -> None:
        """A flood of SYNs to ports that lead to the guest, and that no rule names."""
        while not self.stopped.is_set():
            for port in (8002, 8003):
                with self.node.open_socket() as sock:
                    sock.setblocking(False)  # noqa: FBT003  # its only parameter
                    if sock.connect_ex((FIRST, port)) == 0:
                        self.failures.append(f"let in: {port}")
                    self.stopped.wait(0.002)
                    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                        try:
                            sock.getpeername()
                        except OSError:
                            self.knocks += 1
                        else:
                            self.failures.append(f"let in: {port}")


def test_thousand_rules_are_replaced_under_traffic(lab: Lab, router: Router) -> None:
    """Case 30. What a guest may do stays what it may do at every moment in between."""
    with Crowd(lab.internet) as crowd:
        wait_until(lambda: crowd.accepted > 20 and crowd.knocks > 20, 20, "traffic")
        for variant in (1, 2, 3):
            plan = router.push(document(variant))
            assert len(plan) > RULES
            seen = crowd.accepted
            wait_until(lambda: crowd.accepted > seen + 20, 20, "traffic goes on")  # noqa: B023
    assert crowd.failures == []
    assert crowd.accepted > 80
    assert crowd.knocks > 80
    assert crowd.echoes > 100


def test_refused_document_leaves_the_rules_as_they_were(lab: Lab, router: Router) -> None:
    """Case 31: no document can spell an invalid rule; whatever is refused changes no rule."""
    before = lab.vm.run(["iptables-save"]).text
    bad = merge(router.document, {"firewall": {"ingress": {FIRST: {"r0": {"protocol": "tcq"}}}}})
    assert list(router.refused(bad)) == [f"/firewall/ingress/{FIRST}/r0/protocol"]
    after = lab.vm.run(["iptables-save"]).text
    assert [line for line in after.splitlines() if line.startswith("-A")] == [
        line for line in before.splitlines() if line.startswith("-A")
    ]


def test_rehearsal_that_fails_touches_nothing(lab: Lab, router: Router) -> None:
    """Case 31: the kernel's own refusal, made by a broken program, comes before any change."""
    router.push(example())
    before = router.firewall()
    broken = b"#!/bin/sh\necho 'line 7 failed: there is no such chain' >&2\nexit 2\n"
    lab.vm.put("/run/broken", broken, 0o755)
    # Found by the name that the agent calls; loading and rehearsing are the same program.
    path = lab.vm.run(["sh", "-c", "command -v iptables-nft-restore"]).text.strip()
    real = lab.vm.run(["readlink", "-f", path]).text.strip()
    document = router.next(
        merge(router.document, {"firewall": {"ingress": {FIRST: {"x": {"protocol": "udp"}}}}})
    )
    lab.vm.run(["mount", "--bind", "/run/broken", real])
    try:
        answer = router.put(document)
        assert answer.status == 422, answer.text
        assert "no such chain" in answer.text
    finally:
        lab.vm.run(["umount", "--lazy", real])
    assert router.firewall() == before
    assert router.put(document).status == 200
    router.document = document


@pytest.mark.parametrize("program", ["iptables", "ip6tables"])
def test_rule_that_somebody_adds_by_hand_is_drift(lab: Lab, router: Router, program: str) -> None:
    """Case 32."""
    router.push(example())
    before = router.firewall()
    lab.vm.run([program, "-I", "INPUT", "1", "-p", "tcp", "--dport", "22", "-j", "ACCEPT"])
    lab.vm.run([program, "-N", "theirs"])
    (line,) = (entry for entry in router.drift() if "22" in entry)
    assert line.startswith("- ipv6" if program == "ip6tables" else "- ipv4")
    status = lab.vm.request("GET", "/v1/status").json()
    assert "drift" in status
    router.put(router.document)
    assert router.firewall() == before
    assert router.drift() == []


def test_rule_that_somebody_removes_comes_back(lab: Lab, router: Router) -> None:
    router.push(example())
    before = router.firewall()
    lab.vm.run(["iptables", "-F", "FORWARD"])
    lab.vm.run(["iptables", "-P", "INPUT", "ACCEPT"])
    lab.vm.run(["ip6tables", "-F", "INPUT"])
    found = router.drift()
    assert any("-A FORWARD" in line for line in found)
    assert any(":INPUT" in line for line in found)
    router.change({"dhcp_dns": {"dns": {"records": {"z": {"addresses": [VM1]}}}}})
    assert router.firewall() == before


def test_legacy_rules_are_found_named_and_removed_on_demand(lab: Lab, router: Router) -> None:
    """Case 35."""

    def legacy() -> list[dict[str, object]]:
        answer = lab.vm.request("GET", "/v1/legacy-rules")
        assert answer.status == 200, answer.text
        rows: list[dict[str, object]] = answer.json()["rules"]
        return rows

    router.push(example())
    before = router.firewall()
    assert legacy() == []
    add = ["-A", "FORWARD", "-d", "10.1.1.10/32", "-p", "tcp", "--dport", "23", "-j", "ACCEPT"]
    if lab.vm.run(["iptables-legacy", *add], check=False).returncode != 0:
        pytest.skip("this kernel has no legacy tables")
    lab.vm.run(["iptables-legacy", "-P", "INPUT", "DROP"])
    found = legacy()
    assert any("--dport 23" in str(row["rule"]) for row in found)
    assert any("INPUT" in str(row["rule"]) and "DROP" in str(row["rule"]) for row in found)
    # They are told, and nobody removes them unasked.
    router.put(router.document)
    assert legacy() == found
    shown = lab.vm.run(["sysvmctl", "legacy-rules"], check=False).text
    assert "--dport 23" in shown
    answer = lab.vm.request("DELETE", "/v1/legacy-rules")
    assert answer.status == 200
    assert legacy() == []
    assert "-A" not in lab.vm.run(["iptables-legacy-save"]).text
    assert "INPUT ACCEPT" in lab.vm.run(["iptables-legacy-save", "-t", "filter"]).text
    assert router.firewall() == before
