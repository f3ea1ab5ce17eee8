"""Managers that are killed where they stand, while others go on."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.document.heartbeat import encode
from agent.engine.model import Outcome
from appliance.lab.wait import wait_until
from appliance.manager import access, fleet, happenings, proxies, sessions
from appliance.manager.access import Role
from appliance.manager.database import Database
from appliance.manager.seal import Seal, read_key
from tests.unit import ports
from tests.unit.api import fake
from tests.unit.api.fake import FakeEngine
from tests.unit.manager import cloud
from tests.unit.manager.agent import Agent, Keys, agents
from tests.unit.manager.process import Process, running
from tests.unit.manager.test_vms import KEY, beat, client, event, known

TARGET = {"address": "10.2.0.7", "port": 5901}


@pytest.fixture
def three(keys: Keys) -> Iterator[list[Agent]]:
    with agents(keys, 3, cap=200) as made:
        yield made


@pytest.fixture
def pair(url: str, keys: Keys, tmp_path: Path) -> Iterator[list[Process]]:
    with (
        running(url, keys, tmp_path, "m1", "--each", "1000") as one,
        running(url, keys, tmp_path, "m2", "--each", "1000") as two,
    ):
        yield [one, two]


class Cloud:
    """Asks both managers, one after the other, and remembers every link that it was given."""

    def __init__(self, managers: list[Process], token: str) -> None:
        self.managers = managers
        self.headers = {"Authorization": f"Bearer {token}"}
        self.given: list[dict[str, Any]] = []
        self.refused: list[Any] = []
        self.asked = 0

    def ask(self, number: int, method: str, path: str, value: object = None) -> Any:
        manager = self.managers[number % len(self.managers)]
        answer = httpx.request(
            method, manager.url + path, json=value, headers=self.headers, timeout=60
        )
        return answer.status_code, answer.json()

    def open(self, number: int) -> None:
        body = {"vm": f"vm{number % 60}", "user": "alice", "zone": "z1", "target": TARGET}
        self.asked += 1
        try:
            status, value = self.ask(number, "POST", "/v1/console-sessions", body)
        except httpx.HTTPError:
            return  # it was killed: nothing was promised
        (self.given if status == 200 else self.refused).append(value)


def test_a_manager_that_is_killed_loses_no_session(
    pair: list[Process], three: list[Agent], database: Database
) -> None:
    made = database.write(lambda c: access.make(c, "cloud", Role.CLOUD, 0.0))
    asker = Cloud(pair, made.token)
    names = {f"p{number}": agent for number, agent in enumerate(three)}
    for name, agent in names.items():
        body = {"zone": "z1", "agent": agent.url, "link": f"https://{name}.console.example/"}
        status, value = asker.ask(
            0, "PUT", f"/v1/proxies/{name}", body | {"soft": 150, "hard": 200}
        )
        assert status == 200, value

    def conditions() -> set[str]:
        return {one["condition"] for one in asker.ask(1, "GET", "/v1/proxies")[1]}

    wait_until(lambda: conditions() == {"running"}, 120, "the proxies report")
    stop = threading.Event()

    def ask(share: int) -> None:
        for number in range(share, 100_000, 3):
            if stop.is_set():
                return
            asker.open(number)

    threads = [threading.Thread(target=ask, args=(share,)) for share in range(3)]
    for thread in threads:
        thread.start()
    for kill in range(2):
        wait_until(lambda: len(asker.given) >= 8 * (kill + 1), 120, "sessions are opened")  # noqa: B023 - called at once
        pair[kill % 2].kill()
        pair[kill % 2].start()
    stop.set()
    for thread in threads:
        thread.join()
    assert len(asker.given) >= 16
    # Whatever was promised is known, and opens at its proxy.
    with database.read() as connection:
        assert cloud.broken(connection) == []
        known = {one.id: one for one in sessions.listed(connection)}
    for value in asker.given:
        assert known[value["id"]].proxy == value["proxy"]
        assert names[value["proxy"]].machine.open(value["link"].partition("#s=")[2])

    # And what the proxies have is what is known, as soon as they have been heard.
    def same() -> bool:
        with database.read() as connection:
            live = {(one.proxy, one.id) for one in sessions.listed(connection)}
            rows = proxies.rows(connection)
        held = {
            (name, one.session.id) for name, agent in names.items() for one in agent.machine.table
        }
        placed = {(value["proxy"], value["id"]) for value in asker.given}
        return {row.condition.value for row in rows} == {"running"} and placed <= live & held

    wait_until(same, 120, "the managers know what the proxies have")


def test_a_manager_that_is_killed_loses_no_event(
    url: str, keys: Keys, tmp_path: Path, database: Database
) -> None:
    """And an hour without a link is a thousand events that come in order, each once."""
    known(database, "r-1-vm", seal=Seal(read_key(tmp_path / "seal.key")))
    port = ports.free()
    own = [str(path) for path in keys.own]
    doors = ("--events", f"127.0.0.1:{port}", "--certificate", own[0], "--certificate-key", own[1])
    acknowledged = 0
    stop = threading.Event()

    def push() -> None:
        """As a VM does: in batches, again and again until they are acknowledged."""
        nonlocal acknowledged
        while acknowledged < 1000 and not stop.is_set():
            connection = client(port, keys, keys.vm)
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                while acknowledged < 1000:
                    seqs = range(acknowledged + 1, min(acknowledged + 26, 1001))
                    events = [event(seq) for seq in seqs]
                    batch = {"vm": "r-1-vm", "boot": "b1", "stream": "s1", "events": events}
                    connection.request("POST", "/v1/events", json.dumps(batch).encode())
                    answer = json.loads(connection.getresponse().read())
                    assert answer["stream"] == "s1"
                    acknowledged = answer["acknowledged"]
            connection.close()
            stop.wait(0.05)

    with running(url, keys, tmp_path, "m1", *doors) as manager:
        thread = threading.Thread(target=push)
        thread.start()
        for share in (100, 600):
            wait_until(lambda: acknowledged >= share, 120, "events are taken")  # noqa: B023 - called at once
            manager.kill()
            manager.start()
        wait_until(lambda: acknowledged == 1000, 120, "all events are taken")
        stop.set()
        thread.join()
    with database.read() as connection:
        found = happenings.listed(connection, after=0, vm="r-1-vm", limit=2000)
    assert [one.seq for one in found] == list(range(1, 1001))


def test_what_a_manager_heard_before_it_was_killed_counts_for_nothing_afterwards(
    url: str, keys: Keys, tmp_path: Path, database: Database
) -> None:
    """Also what it had heard, and had not written down yet."""
    seal = Seal(read_key(tmp_path / "seal.key"))
    for name in ("r-1-vm", "r-2-vm"):
        known(database, name, seal=seal)
    port = ports.free(socket.SOCK_DGRAM)

    def last(name: str) -> float:
        with database.read() as connection:
            return fleet.get(connection, name, "0").beat or 0.0

    with (
        running(url, keys, tmp_path, "m1", "--heartbeats", f"127.0.0.1:{port}") as manager,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.connect(("127.0.0.1", port))

        def heard(name: str, seq: int) -> float:
            """Say it until it counts: the first ones may come before the keys are known."""
            before = last(name)

            def counts() -> bool:
                with contextlib.suppress(ConnectionRefusedError):
                    sock.send(encode(beat(name, seq), bytes.fromhex(KEY)))
                return last(name) > before

            wait_until(counts, 60, f"{name} is heard")
            return last(name)

        heard("r-1-vm", 1000)
        unwritten = [encode(beat("r-1-vm", 1010 + one), bytes.fromhex(KEY)) for one in range(3)]
        for datagram in unwritten:
            sock.send(datagram)
        manager.kill()
        before = last("r-1-vm")
        manager.start()
        heard("r-2-vm", 2000)  # its keys are known
        for datagram in unwritten:
            sock.send(datagram)
        heard("r-2-vm", 3000)  # and what was sent before is taken, or is not
        assert last("r-1-vm") == before
        heard("r-1-vm", 1100)


class SlowEngine(FakeEngine):
    """An engine that has a document applied long before it says so."""

    def __init__(self) -> None:
        super().__init__()
        self.applied, self.answer = threading.Event(), threading.Event()

    def push(
        self, data: bytes, *, if_match: str | None = None, confirm_within: float | None = None
    ) -> Outcome:
        outcome = super().push(data, if_match=if_match, confirm_within=confirm_within)
        self.applied.set()
        self.answer.wait(120)
        return outcome


def test_a_manager_that_is_killed_while_it_pushes_has_the_document_and_changes_nothing_twice(
    url: str, keys: Keys, tmp_path: Path, database: Database
) -> None:
    made = database.write(lambda c: access.make(c, "cloud", Role.CLOUD, 0.0))
    with agents(keys, 1) as (vm,), running(url, keys, tmp_path, "m1") as manager:
        engine = SlowEngine()
        vm.begin_anew(engine)
        asker = Cloud([manager], made.token)
        row = {"role": "router", "zone": "z1", "agent": vm.url}
        assert asker.ask(0, "PUT", "/v1/vms/vm1", row)[0] == 200
        path = "/v1/vms/vm1/document"

        def push() -> None:
            with contextlib.suppress(httpx.HTTPError):  # it is killed
                asker.ask(0, "PUT", path, dict(fake.value(3)))

        thread = threading.Thread(target=push)
        thread.start()
        assert engine.applied.wait(60)
        manager.kill()
        thread.join()
        engine.answer.set()
        manager.start()
        known = asker.ask(0, "GET", "/v1/vms/vm1")[1]
        assert (known["generation"], known["result"]) == (3, "pushing")
        # An older one is not let through meanwhile, another one of that number neither.
        assert asker.ask(0, "PUT", path, dict(fake.value(2)))[0] == 409
        assert asker.ask(0, "PUT", path, dict(fake.value(3, hostname="other")))[0] == 409
        revision = engine.current().info.number
        status, again = asker.ask(0, "PUT", path, dict(fake.value(3)))
        assert (status, again["result"], engine.current().info.number) == (
            200,
            "unchanged",
            revision,
        )
        assert asker.ask(0, "GET", "/v1/vms/vm1")[1]["result"] == "unchanged"


def test_a_manager_ends_when_it_is_told_to(url: str, keys: Keys, tmp_path: Path) -> None:
    with running(url, keys, tmp_path, "m1") as one:
        assert one.stop() == 0
        assert "Traceback" not in one.log


@pytest.mark.parametrize(("balancer", "seen"), [("127.0.0.1", "192.0.2.7"), ("", "127.0.0.1")])
def test_only_the_balancer_says_where_a_call_came_from(
    keys: Keys, tmp_path: Path, balancer: str, seen: str
) -> None:
    url = f"sqlite:///{tmp_path}/manager.db"
    options = ("--balancer", balancer) if balancer else ()
    with running(url, keys, tmp_path, "m1", *options) as one:
        database = Database(url)
        made = database.write(lambda c: access.make(c, "root", Role.OPERATE, 0.0))
        database.close()
        headers = {"Authorization": f"Bearer {made.token}", "X-Forwarded-For": "192.0.2.7"}
        httpx.delete(f"{one.url}/v1/proxies/p1", headers=headers, timeout=60)
        (row,) = httpx.get(f"{one.url}/v1/audit?limit=1", headers=headers, timeout=60).json()
    assert (row["request"], row["source"]) == ("DELETE /v1/proxies/{proxy}", seen)
