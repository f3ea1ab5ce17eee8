"""Console proxies register themselves, by their certificates."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.monitor import registration as saying
from agent.monitor.push import Settings
from agent.monitor.registration import Registration
from agent.services.events import SETTINGS
from appliance.lab.wait import wait_until
from appliance.manager import audit, happenings, proxies
from appliance.manager import registry as registries
from appliance.manager.access import Role
from appliance.manager.database import Database
from appliance.manager.inbox import Inbox
from appliance.manager.registry import Known, Registry, judge
from appliance.manager.serve import Endpoint, bind
from appliance.manager.tls import Shown
from tests.unit.manager import rig as rigs
from tests.unit.manager.agent import Agent, Keys, agents
from tests.unit.manager.rig import Rig
from tests.unit.manager.test_vms import client

GIVEN = proxies.Registration(
    name="v-3-vm", zone="z1", agent="https://192.0.2.3:8443", server_name="",
    link="https://v-3-vm.example/", soft=40, hard=50, position=0,
)  # fmt: skip


@pytest.fixture
def agent(keys: Keys) -> Iterator[Agent]:
    with agents(keys, 1) as (made,):
        yield made


@pytest.fixture
def rig(database: Database, keys: Keys) -> Iterator[Rig]:
    with rigs.manager(database, keys) as made:
        yield made


class Doors:
    """The mutual-TLS listener of a manager, and what it accepts."""

    def __init__(self, rig: Rig, keys: Keys) -> None:
        self.keys = keys
        self.registry = Registry(rig.database, rig.manager.audit)
        listener = bind(Endpoint("127.0.0.1", 0))
        self.port = int(listener.getsockname()[1])
        self.stop = threading.Event()
        inbox = Inbox(rig.database, Shown(*keys.own, keys.ca), self.registry)
        self.thread = threading.Thread(target=inbox.run, args=(listener, self.stop))
        self.thread.start()

    def accept(self, *zones: str) -> None:
        """As a manager that was begun with these."""
        self.registry.accepted = frozenset(zones)

    def put(
        self, name: str, body: object, identity: tuple[Path, Path] | None = None
    ) -> tuple[int, Any]:
        connection = client(self.port, self.keys, identity or self.identity(name))
        try:
            connection.request("PUT", f"/v1/proxies/{name}", json.dumps(body).encode())
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def identity(self, name: str) -> tuple[Path, Path]:
        return self.keys.authority.issue(name).write(self.keys.ca.parent, name)


@pytest.fixture
def doors(rig: Rig, keys: Keys) -> Iterator[Doors]:
    made = Doors(rig, keys)
    yield made
    made.stop.set()
    made.thread.join(10)


def body(agent: Agent, **more: object) -> dict[str, Any]:
    return {"zone": "z1", "agent": agent.url, "link": "https://p1.console.example/"} | more


def known(database: Database) -> list[str]:
    with database.read() as connection:
        return [row.name for row in proxies.rows(connection)]


@pytest.mark.parametrize(
    ("speaks", "more", "accepted", "reason"),
    [
        (None, {}, {"z1"}, ""),
        (None, {}, {"*"}, ""),
        (None, {}, {"z2"}, "--accept-proxies z1"),
        (None, {}, (), "--accept-proxies z1"),
        (True, {"zones": {"z1"}}, (), ""),
        (True, {"zones": {"z2"}}, (), "not known in z1"),
        (True, {"zones": {"z2"}}, {"z1"}, ""),
        (False, {"zones": {"z1"}}, {"*"}, "does not speak for v-3-vm"),
        (True, {"zones": {"z1"}, "role": "router"}, {"*"}, "a VM of the role router"),
        (True, {"zones": {"z1"}, "role": "console-proxy"}, (), ""),
        (None, {"others": {"v-4-vm"}}, {"*"}, "is the agent of v-4-vm"),
    ],
)
def test_who_may_register(
    speaks: bool | None, more: dict[str, Any], accepted: Any, reason: str
) -> None:
    parts = {"zones": frozenset(more.get("zones", ())), "others": frozenset(more.get("others", ()))}
    found = judge(
        GIVEN, speaks=speaks, known=Known(role=more.get("role", ""), **parts), accepted=accepted
    )
    assert (reason in found) if reason else found == ""


def test_a_proxy_that_registers_itself_is_followed_and_takes_sessions(
    rig: Rig, doors: Doors, agent: Agent
) -> None:
    status, problem = doors.put("p1", body(agent))
    assert (status, problem["type"]) == (403, "/v1/problems/forbidden")
    assert "--accept-proxies z1" in problem["detail"]
    assert known(rig.database) == []

    doors.accept("z1")
    assert doors.put("p1", body(agent)) == (200, {"result": "created"})
    rig.wait_for("p1", "running")
    target = {"address": "10.2.0.7", "port": 5901}
    asked = {"vm": "vm1", "user": "alice", "zone": "z1", "target": target}
    cloud = rig.person(Role.CLOUD, "cloud")
    status, opened = cloud.ask("POST", "/v1/console-sessions", asked)
    assert (status, opened["proxy"]) == (200, "p1")

    # Said again it is no news; and whoever is known may change, whatever is accepted now.
    doors.accept()
    assert doors.put("p1", body(agent)) == (200, {"result": "unchanged"})
    assert doors.put("p1", body(agent, soft=7, hard=9)) == (200, {"result": "changed"})
    (row,) = cloud.get("/v1/proxies")
    assert (row["soft"], row["hard"], row["condition"]) == (7, 9, "running")
    assert doors.put("p1", body(agent, zone="z2"))[0] == 403
    assert cloud.get("/v1/proxies") == [{**cloud.get("/v1/proxies")[0], "zone": "z1"}]

    # And its silence is noticed as any other's.
    agent.down()
    wait_until(lambda: cloud.get("/v1/proxies")[0]["fault"] != "", 60, "it is not heard")


def test_a_foreign_certificate_registers_nothing(rig: Rig, doors: Doors, agent: Agent) -> None:
    doors.accept("*")
    other = doors.identity("p2")
    assert doors.put("p1", body(agent), other)[0] == 403
    assert known(rig.database) == []
    # Nor does it move a proxy that is known,
    assert doors.put("p1", body(agent))[0] == 200
    status, problem = doors.put("p1", body(agent) | {"agent": "https://127.0.0.1:1"}, other)
    assert (status, problem["detail"]) == (403, "this certificate does not speak for p1")
    # nor take another one's place.
    status, problem = doors.put("p2", body(agent))
    assert (status, problem["detail"]) == (403, f"{agent.url} is the agent of p1")
    assert known(rig.database) == ["p1"]
    with rig.database.read() as connection:
        assert proxies.row_of(connection, "p1").agent == agent.url
        found = happenings.listed(connection, after=0, limit=100)
    kinds = [one.kind for one in found]
    assert kinds == ["manager.proxy-refused", "manager.proxy-registered", "manager.proxy-refused"]


def test_a_router_registers_as_no_proxy(rig: Rig, doors: Doors, agent: Agent) -> None:
    doors.accept("*")
    vm = {"role": "router", "zone": "z1", "agent": agent.url}
    assert rig.person(Role.CLOUD, "cloud").ask("PUT", "/v1/vms/r-1-vm", vm)[0] == 200
    status, problem = doors.put("r-1-vm", body(agent))
    assert (status, problem["detail"]) == (403, "r-1-vm is a VM of the role router")
    # A VM that the cloud has registered as a proxy needs nobody else's word.
    doors.accept()
    vm |= {"role": "console-proxy"}
    assert rig.person(Role.CLOUD, "cloud").ask("PUT", "/v1/vms/r-1-vm", vm)[0] == 200
    assert doors.put("r-1-vm", body(agent)) == (200, {"result": "created"})


def test_it_is_written_down_who_registered_and_who_was_refused(
    rig: Rig, doors: Doors, agent: Agent
) -> None:
    doors.accept("*")
    for given in (body(agent), body(agent), body(agent, soft=60), {"zone": "z1"}):
        doors.put("p1", given)
    doors.put("p1", body(agent), doors.identity("p2"))
    rig.manager.audit.flush_strangers()
    with rig.database.read() as connection:
        rows = audit.listed(connection, None, 100)
    found = sorted((row.who, row.status) for row in rows if row.request == registries.REQUEST)
    assert found == [("", 403), ("", 422), ("", 422), ("proxy:p1", 200)]
    assert {row.source for row in rows if row.request == registries.REQUEST} == {"127.0.0.1"}


def test_events_of_a_proxy_that_registered_itself_are_taken(
    rig: Rig, doors: Doors, agent: Agent
) -> None:
    doors.accept("*")
    assert doors.put("p1", body(agent))[0] == 200
    names = happenings.Names
    with rig.database.read() as connection:
        for who, speaks in ((names(frozenset({"p1"}), frozenset()), True),
                            (names(frozenset({"p2"}), frozenset()), False)):  # fmt: skip
            assert happenings.speaks_for(connection, who, "p1") is speaks


# -- the proxy's end ---------------------------------------------------------------------------


class Clock:
    """Seconds that pass when they are told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def proxy(tmp_path: Path, doors: Doors) -> Callable[..., Settings]:
    """What a document's settings say, as its service renders them."""
    identity = tmp_path / "client.pem"
    identity.write_bytes(b"".join(path.read_bytes() for path in doors.identity("p1")))
    folder = tmp_path / "current"

    def write(agent: Agent, **more: object) -> Settings:
        push = {
            "host": "127.0.0.1", "port": doors.port, "path": "/v1/events", "batch": 100, "nic": "",
            "ca": doors.keys.ca.read_text(), "server_name": "127.0.0.1",
            "certificate": str(identity),
        }  # fmt: skip
        said = {"path": "/v1/proxies/p1", "body": body(agent, **more)}
        path = folder / SETTINGS
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps({"vm": "p1", "push": push, "registration": said}))
        new.replace(path)
        return Settings(folder)

    return write


def test_it_is_said_until_it_is_acknowledged_and_again_when_it_changes(
    rig: Rig,
    doors: Doors,
    agent: Agent,
    proxy: Callable[..., Settings],
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    one = Registration(proxy(agent), now=clock)
    for _ in range(3):  # refused, and said again when a pause is over
        one.look()
        clock.now += 61
    assert known(rig.database) == []
    refused = [record for record in caplog.records if "--accept-proxies z1" in record.getMessage()]
    assert len(refused) == 1
    doors.accept("z1")
    one.look()
    assert known(rig.database) == ["p1"]

    def forget() -> None:
        rig.database.write(lambda c: proxies.forget(c, "p1"))

    forget()
    one.look()  # acknowledged: it has nothing to say,
    assert known(rig.database) == []
    clock.now += saying.AGAIN + 1  # for a while,
    one.look()
    assert known(rig.database) == ["p1"]
    proxy(agent, soft=3)  # unless the document changes,
    one.look()
    with rig.database.read() as connection:
        assert proxies.row_of(connection, "p1").soft == 3
    forget()
    Registration(proxy(agent, soft=3), now=clock).look()  # or the agent starts.
    assert known(rig.database) == ["p1"]


def test_nothing_is_said_where_nobody_wants_it(tmp_path: Path, rig: Rig) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=Registration(Settings(tmp_path)).run, args=(stop,))
    thread.start()
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert known(rig.database) == []
