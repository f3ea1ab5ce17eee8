"""What only a daemon or the kernel can refuse: named by its path, undone, and nobody notices."""

import http.client
import threading
from collections.abc import Iterator

import pytest

from agent.document.document import merge
from appliance.lab import Lab
from appliance.lab.wait import wait_until
from tests.lab.helpers import VM1, VM2, Router, settle

SHOP = "203.0.113.11"


class Traffic:
    """Requests through the load balancer, one after the other, and those that were lost."""

    def __init__(self, lab: Lab) -> None:
        self.done, self.lost = 0, list[str]()
        self._lab, self._stop = lab, threading.Event()
        self._thread = threading.Thread(target=self._visit)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _visit(self) -> None:
        while not self._stop.wait(0.002):
            try:
                answer = self._lab.internet.get(f"http://{SHOP}/", timeout=3)
                self.done += 1
                if answer.status != 200:
                    self.lost.append(str(answer.status))
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))


@pytest.fixture(scope="module")
def router(lab: Lab) -> Iterator[Router]:
    """The example runs, and its shop has servers from the first health check on."""
    router = Router(lab)
    settle(lab.guests["vm1"], VM1)
    settle(lab.guests["vm2"], VM2)
    with lab.guests["vm1"].serve(80), lab.guests["vm2"].serve(80):
        router.push(router.document)
        wait_until(lambda: checked(router) == {"vm1": "UP", "vm2": "UP"}, 10, "the shop")
        yield router


def checked(router: Router) -> dict[str, str]:
    """What haproxy has found of its servers; one that it has not looked at yet is `UP 1/3`."""
    rows = router.show("load-balancer")
    return {row["server"]: row["status"] for row in rows if row["server"].startswith("vm")}


def test_listener_that_cannot_be_bound_is_undone(lab: Lab, router: Router) -> None:
    """Somebody else has the port: haproxy's own check passes, and its reload does not."""
    listener = {"address": "203.0.113.12", "port": 9090, "servers": {}}
    document = router.next(
        merge(
            router.document,
            {"nat": {"static": None}, "load_balancer": {"listeners": {"taken": listener}}},
        )
    )
    # The address is the VM's already; the port is taken.
    code = (
        "import socket, sys\ns = socket.socket()\n"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "s.bind(('203.0.113.12', 9090))\ns.listen()\nprint('ready', flush=True)\nsys.stdin.read()\n"
    )
    squatter = lab.vm.popen(["/opt/sysvm/bin/python3", "-c", code], stdin=True)
    try:
        assert squatter.stdout is not None
        assert squatter.stdout.readline() == b"ready\n"
        before, revision = router.daemons(), router.current()
        firewall = router.firewall()
        with Traffic(lab) as traffic:
            wait_until(lambda: traffic.done > 20, 10, "requests")
            answer = router.put(document)
            done = traffic.done
            wait_until(lambda: traffic.done > done + 20, 10, "more requests")
        assert answer.status == 422, answer.text
        assert answer.json()["type"] == "/v1/problems/did-not-hold"
        (problem,) = answer.json()["problems"]
        assert problem["path"] == "/load_balancer/listeners/taken"
        assert "203.0.113.12 port 9090: Address already in use" in problem["message"]
        assert traffic.lost == []
        assert router.current() == revision
        assert router.firewall() == firewall
        assert router.drift() == []
        after = router.daemons()
        assert after["dnsmasq"] == before["dnsmasq"]
        assert after["apache2"] == before["apache2"]
        assert after["haproxy"] & before["haproxy"]  # the master at least
        # And once more, for somebody who does not believe it; then it works.
        assert router.put(router.next(document)).status == answer.status
        assert lab.internet.get(f"http://{SHOP}/").status == 200
    finally:
        squatter.communicate(timeout=10)  # it ends when its input does
    wait_until(lambda: "9090" not in lab.vm.run(["ss", "-Hlnt"]).text, 5, "the free port")
    ran = router.document
    router.push(document)
    assert ":9090 " in lab.vm.run(["ss", "-Hlnt"]).text
    router.push(ran)


def test_range_outside_its_network_is_refused(router: Router) -> None:
    ranges = {"visitors": {"first": "10.1.1.200", "last": "10.1.2.10"}}
    problems = router.refused(merge(router.document, {"dhcp_dns": {"ranges": ranges}}))
    assert problems == {"/dhcp_dns/ranges/visitors/last": "10.1.2.10 is not in 10.1.1.0/24"}


def test_certificate_with_anothers_key_is_refused(lab: Lab, router: Router) -> None:
    keys = lab.keys
    mixed = {"certificate": keys.server.certificate, "key": keys.manager.key}
    problems = router.refused(merge(router.document, {"control": mixed}))
    assert [path for path in problems if path.startswith("/control")] == list(problems)
    assert keys.manager.key[40:80] not in str(problems)
    assert lab.manager.request("GET", "/v1/status").status == 200
    rubbish = {"certificate": keys.server.certificate, "key": keys.manager.certificate}
    assert router.refused(merge(router.document, {"control": rubbish}))
    broken = keys.server.certificate.replace("A", "B")
    assert router.refused(
        merge(router.document, {"control": {"certificate": broken, "key": keys.server.key}})
    )
    assert lab.manager.request("GET", "/v1/status").status == 200


def test_certificate_is_rotated_and_rotated_back(lab: Lab, router: Router) -> None:
    new = lab.keys.authority.issue("sysvm", addresses=("169.254.10.2",))
    with router.changed({"control": {"certificate": new.certificate, "key": new.key}}) as plan:
        assert "~ reload sysvm-front.service" in plan
        assert lab.manager.request("GET", "/v1/status").status == 200
    assert lab.manager.request("GET", "/v1/status").status == 200
    log = lab.vm.journal("-u", "sysvm-agent", "-o", "cat")
    assert "PRIVATE KEY" not in log
    assert new.key.splitlines()[2] not in log


def test_daemon_that_was_down_blocks_nothing_that_is_not_its_own(lab: Lab, router: Router) -> None:
    """A service that somebody has broken is reported; what does not concern it goes through."""
    lab.vm.run(["mount", "--bind", "/bin/false", "/usr/sbin/apache2"])
    lab.vm.run(["systemctl", "stop", "apache2"])
    try:
        document = router.next(
            merge(router.document, {"dhcp_dns": {"dns": {"records": {"y": {"addresses": [VM1]}}}}})
        )
        answer = router.put(document)
        assert answer.status == 200, answer.text
        assert any("apache2" in warning for warning in answer.json()["warnings"])
        assert lab.guests["vm1"].query("y", server="10.1.1.1").answer
        # What does concern it does not.
        key = {"user_data": {"guests": {VM1: {"extra": {"new": {"value": "x"}}}}}}
        assert router.put(router.next(merge(document, key))).status in {422, 500}
        assert lab.guests["vm1"].query("y", server="10.1.1.1").answer
    finally:
        lab.vm.run(["umount", "--lazy", "/usr/sbin/apache2"])
    router.push(router.document)
    wait_until(lambda: lab.guests["vm1"].reaches("10.1.1.1", 80), 10, "user data")
    assert router.drift() == []
