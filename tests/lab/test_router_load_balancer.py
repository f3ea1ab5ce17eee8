"""Listeners spread connections over the guests' servers, and are reloaded without a loss."""

import http.client
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from appliance.lab import Lab
from appliance.lab.node import Server
from appliance.lab.wait import wait_until
from tests.lab.helpers import INTERNET, VM1, VM2, Document, Router, settle

ADDRESS = "203.0.113.11"


def shop(**fields: object) -> Document:
    """A change of the example's listener."""
    return {"load_balancer": {"listeners": {"shop": fields}}}


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    """The example with quick health checks."""
    router = Router(lab)
    checks = {"type": "http", "interval_ms": 100, "rise": 1, "fall": 2}
    router.change(shop(check=checks))
    settle(lab.guests["vm1"], VM1)
    settle(lab.guests["vm2"], VM2)
    return router


@pytest.fixture(autouse=True)
def servers(lab: Lab, router: Router) -> Iterator[dict[str, Server]]:
    """A web server on each guest, that haproxy takes for alive."""
    started = {name: lab.guests[name].serve(80) for name in ("vm1", "vm2")}
    wait_until(lambda: states(router) == {"vm1": "UP", "vm2": "UP"}, 10, "healthy servers")
    yield started
    for server in started.values():
        server.stop()


def states(router: Router) -> dict[str, str]:
    """What haproxy thinks of each server."""
    rows = router.show("load-balancer")
    return {
        row["server"]: row["status"].split()[0]
        for row in rows
        if row["server"] not in {"FRONTEND", "BACKEND"}
    }


def visits(lab: Lab, count: int = 8, address: str = ADDRESS) -> Counter[str]:
    """Which guests answered so many requests."""
    node = lab.internet
    return Counter(node.get(f"http://{address}/").headers["x-server"] for _ in range(count))


def test_connections_are_spread_in_turn(lab: Lab, router: Router) -> None:
    assert visits(lab) == {"vm1": 4, "vm2": 4}


def test_weights_are_respected(lab: Lab, router: Router) -> None:
    before = router.daemons()
    with router.changed(shop(servers={"vm2": {"weight": 3}})) as plan:
        assert "~ reload haproxy.service" in plan
        assert visits(lab, 16) == {"vm1": 4, "vm2": 12}
        after = router.daemons()
        assert {name: after[name] for name in after if name != "haproxy"} == {
            name: before[name] for name in before if name != "haproxy"
        }
        # The master stays, a new worker came.
        assert len(after["haproxy"] & before["haproxy"]) >= 1
    assert visits(lab) == {"vm1": 4, "vm2": 4}


def test_source_keeps_a_client_at_one_server(lab: Lab, router: Router) -> None:
    with router.changed(shop(balance="source")):
        assert sorted(visits(lab).values()) == [8]
        (chosen,) = visits(lab)
        # The others are served when theirs is gone, and it is theirs again when it is back.
        other = ({"vm1", "vm2"} - {chosen}).pop()
        with router.changed(shop(servers={chosen: {"state": "maintenance"}})):
            assert set(visits(lab)) == {other}
        wait_until(lambda: states(router)[chosen] == "UP", 5, "the server")
        assert set(visits(lab)) == {chosen}


def test_least_busy_server_gets_the_next(lab: Lab, router: Router) -> None:
    def sessions(name: str) -> int:
        rows = router.show("load-balancer")
        return next(int(row["sessions"]) for row in rows if row["server"] == name)

    with (
        router.changed(shop(balance="leastconn", mode="tcp", check={"type": "tcp"})),
        ExitStack() as stack,
    ):
        wait_until(lambda: states(router) == {"vm1": "UP", "vm2": "UP"}, 5, "healthy servers")

        def hold() -> tuple[str, socket.socket]:
            """A connection that stays, and to whom."""
            held = stack.enter_context(lab.internet.connect(ADDRESS, 80))
            held.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            return held.recv(4096).decode().partition("X-Server: ")[2][:3], held

        held = [hold() for _ in range(4)]
        assert Counter(name for name, _ in held) == {"vm1": 2, "vm2": 2}
        for name, connection in held:
            if name == "vm1":
                connection.close()
        wait_until(lambda: sessions("vm1") == 0, 5, "vm1 is idle")
        assert [hold()[0] for _ in range(2)] == ["vm1", "vm1"]


def test_clients_address_is_told_in_http_and_only_there(lab: Lab, router: Router) -> None:
    def told(*claims: str) -> list[str]:
        """What a server is told in X-Forwarded-For, a header each."""
        with lab.guests["vm1"].open_socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((VM1, 8081))
            listening.listen()
            with lab.internet.connect(ADDRESS, 80) as client:
                lines = ["GET / HTTP/1.1", "Host: shop", *(f"X-Forwarded-For: {c}" for c in claims)]
                client.sendall("\r\n".join([*lines, "", ""]).encode())
                with listening.accept()[0] as server:
                    asked = server.recv(4096).decode().lower().split("\r\n")
        return [line.split()[1] for line in asked if line.startswith("x-forwarded-for:")]

    alone = {"vm1": {"port": 8081}, "vm2": None}
    with router.changed(shop(servers=alone, check={"type": "none"})):
        assert told() == [INTERNET]
        # Whatever a client claims, the last word is the VM's (RFC 7239, section 8.1).
        assert told("10.1.1.99", "127.0.0.1") == ["10.1.1.99", "127.0.0.1", INTERNET]
        with router.changed(shop(x_forwarded_for=False)):
            assert told() == []
        with router.changed(shop(mode="tcp")):
            assert told() == []
        assert told() == [INTERNET]


def test_dead_server_is_left_out_and_comes_back(
    lab: Lab, router: Router, servers: dict[str, Server]
) -> None:
    servers["vm2"].stop()
    wait_until(lambda: states(router)["vm2"] == "DOWN", 5, "the dead server is seen")
    assert visits(lab) == {"vm1": 8}
    # A reload does not forget who is dead.
    with router.changed(shop(max_connections=999)):
        assert visits(lab) == {"vm1": 8}
    with lab.guests["vm2"].serve(80):
        wait_until(lambda: states(router)["vm2"] == "UP", 5, "the server is back")
        assert visits(lab) == {"vm1": 4, "vm2": 4}


def test_server_that_moves_is_followed(lab: Lab, router: Router) -> None:
    """haproxy would rather believe its own state file than the configuration."""
    vm1 = lab.guests["vm1"]
    with vm1.serve(8081, "moved"), router.changed(shop(servers={"vm2": None})):
        with router.changed(shop(servers={"vm1": {"port": 8081}})):
            assert lab.internet.get(f"http://{ADDRESS}/").text == "moved"
            assert states(router) == {"vm1": "UP"}
            with router.changed({"load_balancer": None}):
                pass
            with router.changed(shop(servers={"vm1": {"address": VM2, "port": 80}})):
                assert visits(lab) == {"vm2": 8}
        assert visits(lab) == {"vm1": 8}


def test_check_of_a_page_is_more_than_that_of_a_port(lab: Lab, router: Router) -> None:
    with router.changed(shop(check={"expect": "404"})):
        wait_until(lambda: set(states(router).values()) == {"DOWN"}, 5, "no server is right")
        assert lab.internet.get(f"http://{ADDRESS}/").status == 503
        with router.changed(shop(check={"type": "tcp"})):
            wait_until(lambda: set(states(router).values()) == {"UP"}, 5, "ports accept")
            assert visits(lab) == {"vm1": 4, "vm2": 4}


def test_drained_server_finishes_what_it_has(lab: Lab, router: Router) -> None:
    with router.changed(shop(mode="tcp", check={"type": "tcp"}, servers={"vm1": {"weight": 0}})):
        wait_until(lambda: set(states(router).values()) <= {"UP", "DRAIN"}, 5, "healthy servers")
        with lab.internet.connect(ADDRESS, 80) as held:
            connection = http.client.HTTPConnection("shop")
            connection.sock = held

            def ask() -> str | None:
                connection.request("GET", "/")
                answer = connection.getresponse()
                answer.read()
                return answer.headers["X-Server"]

            assert ask() == "vm2"
            drained = {"vm1": {"weight": 1}, "vm2": {"state": "drain"}}
            with router.changed(shop(servers=drained)):
                wait_until(lambda: states(router)["vm1"] == "UP", 5, "the other server")
                assert visits(lab) == {"vm1": 8}
                assert ask() == "vm2"
    assert visits(lab) == {"vm1": 4, "vm2": 4}


def test_server_in_maintenance_is_not_used_nor_checked(
    lab: Lab, router: Router, servers: dict[str, Server]
) -> None:
    with router.changed(shop(servers={"vm1": {"state": "maintenance"}})):
        assert states(router)["vm1"] == "MAINT"
        assert visits(lab) == {"vm2": 8}
        seen = len(servers["vm1"].exchanges())
        visits(lab)
        assert len(servers["vm1"].exchanges()) == seen
    wait_until(lambda: states(router)["vm1"] == "UP", 5, "the server")
    assert visits(lab) == {"vm1": 4, "vm2": 4}


def test_listener_is_for_whom_the_ingress_rules_name(lab: Lab, router: Router) -> None:
    internet, guest = lab.internet, lab.guests["vm2"]
    assert internet.reaches(ADDRESS, 80)
    assert guest.get(f"http://{ADDRESS}/").status == 200  # from inside, by the public address
    others = {"shop": {"sources": ["192.0.2.0/24"]}}
    with router.changed({"firewall": {"ingress": {ADDRESS: others}}}):
        assert not internet.reaches(ADDRESS, 80, timeout=0.3)
        assert not guest.reaches(ADDRESS, 80, timeout=0.3)
    with router.changed({"firewall": {"ingress": {ADDRESS: None}}}):
        assert not internet.reaches(ADDRESS, 80, timeout=0.3)
    assert internet.reaches(ADDRESS, 80)


def test_listener_for_guests_needs_no_rule(lab: Lab, router: Router) -> None:
    inside = {"address": "10.1.1.1", "port": 8080, "servers": {"vm1": {"address": VM1, "port": 80}}}
    guest = lab.guests["vm2"]
    assert not guest.reaches("10.1.1.1", 8080, timeout=0.3)
    with router.changed({"load_balancer": {"listeners": {"inside": inside}}}):
        wait_until(lambda: guest.reaches("10.1.1.1", 8080), 5, "the listener")
        assert guest.get("http://10.1.1.1:8080/").headers["x-server"] == "vm1"
        assert not lab.internet.reaches(ADDRESS, 8080, timeout=0.3)
        assert not lab.internet.reaches("203.0.113.12", 8080, timeout=0.3)
        assert visits(lab)
    assert not guest.reaches("10.1.1.1", 8080, timeout=0.3)
    assert "inside" not in {row["listener"] for row in router.show("load-balancer")}


def test_listener_that_goes_closes_its_port(lab: Lab, router: Router) -> None:
    with router.changed({"load_balancer": None}) as plan:
        assert "- stop haproxy.service" in plan
        assert not lab.internet.reaches(ADDRESS, 80, timeout=0.3)
        assert f"{ADDRESS}:80 " not in lab.vm.run(["ss", "-Hlnt"]).text
    wait_until(lambda: states(router) == {"vm1": "UP", "vm2": "UP"}, 10, "healthy servers")
    assert visits(lab) == {"vm1": 4, "vm2": 4}


class Visitors:
    """Four clients that ask again and again, and what they did not get."""

    def __init__(self, lab: Lab) -> None:
        self.done = 0
        self.lost: list[str] = []
        self._node = lab.internet
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._visit) for _ in range(4)]

    def __enter__(self) -> "Visitors":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _visit(self) -> None:
        while not self._stop.wait(0.002):
            try:
                answer = self._node.get(f"http://{ADDRESS}/", timeout=5)
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                continue
            if answer.status == 200:
                self.done += 1
            else:
                self.lost.append(str(answer.status))


def test_no_request_is_lost_while_documents_are_pushed(lab: Lab, router: Router) -> None:
    with Visitors(lab) as crowd:
        before = router.document
        for number in range(5):
            router.change(shop(timeouts={"client_ms": 40_000 + number}))
            router.change({"firewall": {"ingress": {ADDRESS: {f"n{number}": {"protocol": "udp"}}}}})
            done = crowd.done
            wait_until(lambda: crowd.done > done + 5, 5, "requests go on")  # noqa: B023
        router.push(before)
    assert crowd.lost == []
    assert crowd.done > 30
