"""Consoles are opened over the endpoint, at proxies that are real up to their browsers."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.lab.wait import wait_until
from appliance.manager import consoles, follow, reports
from appliance.manager.access import Role
from appliance.manager.database import Database
from tests.unit.manager import rig as rigs
from tests.unit.manager.agent import Agent, Keys, agents
from tests.unit.manager.rig import Person, Rig

TARGET = {"address": "10.2.0.7", "port": 5901}
ASKED = {"vm": "i-2-10-VM", "user": "alice", "zone": "z1", "target": TARGET}
SCREEN = {"owner": "alice", "zone": "z1", "title": "Web 1", "target": TARGET}


@pytest.fixture
def two(keys: Keys) -> Iterator[list[Agent]]:
    with agents(keys, 2, cap=4) as made:
        yield made


@pytest.fixture
def rig(tmp_path: Path, keys: Keys, two: list[Agent]) -> Iterator[Rig]:
    """A manager with two proxies."""
    database = Database(f"sqlite:///{tmp_path}/manager.db")
    with rigs.manager(database, keys) as made:
        for name, agent in zip(("p1", "p2"), two, strict=True):
            made.register(name, agent, soft=3, hard=4)
        for name in made.proxies:
            made.wait_for(name, "running")
        yield made
    database.close()


@pytest.fixture
def cloud(rig: Rig) -> Person:
    return rig.person(Role.CLOUD, "cloud")


@pytest.fixture
def operator(rig: Rig) -> Person:
    return rig.person(Role.OPERATE, "root")


def opened(cloud: Person, **more: object) -> dict[str, Any]:
    status, value = cloud.ask("POST", "/v1/console-sessions", ASKED | more)
    assert status == 200, value
    return dict(value)


def secret(value: dict[str, Any]) -> str:
    return str(value["link"]).partition("#s=")[2]


def state(person: Person, identity: str) -> str:
    return str(person.get(f"/v1/console-sessions/{identity}")["state"])


def test_the_link_opens_at_the_proxy_that_it_names_and_only_once(rig: Rig, cloud: Person) -> None:
    value = opened(cloud)
    assert value["link"].startswith(f"https://{value['proxy']}.console.example/#s=")
    proxy = rig.proxies[value["proxy"]].machine
    assert proxy.open(secret(value))
    assert not proxy.open(secret(value))
    wait_until(lambda: state(cloud, value["id"]) == "open", 60, "the session is open")


def test_nobody_but_the_user_has_the_secret(rig: Rig, cloud: Person, tmp_path: Path) -> None:
    value = opened(cloud, credentials={"password": "hypervisors-own"})
    live = rig.proxies[value["proxy"]].machine.table.get(value["id"])
    assert live is not None
    assert live.session.digest == hashlib.sha256(secret(value).encode()).digest()
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("manager.db*"))
    assert secret(value).encode() not in kept
    assert b"hypervisors-own" not in kept
    assert value["id"].encode() in kept


def test_a_second_viewer_comes_to_the_same_proxy_above_its_soft_cap(cloud: Person) -> None:
    first = opened(cloud)
    others = [opened(cloud) for _ in range(3)]
    assert {one["proxy"] for one in others} == {first["proxy"]}
    assert [one["again"] for one in (first, *others)] == [False, True, True, True]
    status, problem = cloud.ask("POST", "/v1/console-sessions", ASKED)
    assert (status, problem["type"]) == (503, "/v1/problems/no-proxy")
    assert problem["detail"].endswith("the proxy that has this VM's sessions is full")


def test_one_user_does_not_take_every_place(rig: Rig, cloud: Person, operator: Person) -> None:
    rig.manager.consoles.each = 2
    first = opened(cloud, vm="vm1")
    opened(cloud, vm="vm2")
    status, problem = cloud.ask("POST", "/v1/console-sessions", ASKED | {"vm": "vm3"})
    assert (status, problem["type"]) == (429, "/v1/problems/too-many-sessions")
    assert opened(cloud, vm="vm3", user="bob")
    operator.ask("DELETE", f"/v1/console-sessions/{first['id']}")
    assert opened(cloud, vm="vm3")


def test_other_vms_are_spread_and_then_refused_and_that_is_an_event(
    rig: Rig, cloud: Person
) -> None:
    placed = [opened(cloud, vm=f"vm{number}")["proxy"] for number in range(6)]
    assert sorted(placed) == ["p1"] * 3 + ["p2"] * 3
    status, problem = cloud.ask("POST", "/v1/console-sessions", ASKED | {"vm": "vm7"})
    assert (status, problem["retryable"]) == (503, True)
    with rig.database.read() as connection:
        found = connection.exec_driver_sql("SELECT kind, severity FROM events").all()
    assert [tuple(row) for row in found] == [("manager.no-capacity", "alert")]
    (capacity,) = cloud.get("/v1/capacity?standby=4")
    assert (capacity["running"], capacity["room"], capacity["wanted"]) == (2, 0, 4)


def test_what_a_proxy_refuses_is_told_with_its_reason(cloud: Person) -> None:
    target = {"address": "10.9.0.7", "port": 5901}
    status, problem = cloud.ask("POST", "/v1/console-sessions", ASKED | {"target": target})
    assert (status, problem["type"]) == (422, "/v1/problems/invalid")
    assert cloud.get("/v1/console-sessions") == []


def test_a_proxy_that_does_not_answer_is_passed_over(rig: Rig, cloud: Person) -> None:
    first = opened(cloud)["proxy"]
    other = "p2" if first == "p1" else "p1"
    rig.proxies[other].down()
    assert opened(cloud, vm="another")["proxy"] == first


def test_disconnecting_ends_it_at_the_proxy(rig: Rig, cloud: Person, operator: Person) -> None:
    value = opened(cloud)
    proxy = rig.proxies[value["proxy"]].machine
    proxy.open(secret(value))
    status, row = operator.ask("DELETE", f"/v1/console-sessions/{value['id']}")
    assert (status, row["state"], row["why"]) == (200, "ended", "ended by management")
    assert len(proxy.table) == 0
    assert [one["id"] for one in cloud.get("/v1/console-sessions?ended=1")] == [value["id"]]


def test_a_drained_proxy_gets_no_session_and_says_what_ends(
    rig: Rig, cloud: Person, operator: Person
) -> None:
    value = opened(cloud)
    name = value["proxy"]
    status, ending = operator.ask("POST", f"/v1/proxies/{name}/drain", {"within": 60})
    assert (status, [one["id"] for one in ending["sessions"]]) == (200, [value["id"]])
    assert rig.proxies[name].machine.table.draining
    again = opened(cloud)
    assert (again["proxy"] != name, again["again"]) == (True, False)
    operator.ask("DELETE", f"/v1/proxies/{name}/drain")
    rig.wait_for(name, "running")
    assert not rig.proxies[name].machine.table.draining


def test_restarting_a_proxy_says_which_sessions_end(
    rig: Rig, cloud: Person, operator: Person
) -> None:
    value = opened(cloud)
    machine = rig.proxies[value["proxy"]].machine
    status, ending = operator.ask("POST", f"/v1/proxies/{value['proxy']}/restart")
    assert (status, [one["id"] for one in ending["sessions"]]) == (200, [value["id"]])
    assert state(operator, value["id"]) == "ended"
    assert (machine.restarts, len(machine.table)) == (1, 0)


def test_a_proxy_that_dies_is_silent_and_its_pages_come_back_elsewhere(
    rig: Rig, cloud: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "SILENT", 2.5)
    value = opened(cloud)
    name = value["proxy"]
    other = "p2" if name == "p1" else "p1"
    back = "a" * 43
    machine = rig.proxies[name].machine
    assert machine.open(secret(value), hashlib.sha256(back.encode()).digest())
    wait_until(lambda: state(cloud, value["id"]) == "open", 60, "the session is open")
    rig.proxies[name].down()
    rig.wait_for(name, "silent")
    elsewhere = rig.proxies[other].machine
    wait_until(lambda: elsewhere.table.get(value["id"]), 60, "the other proxy is told")
    assert elsewhere.open(back)
    assert opened(cloud)["proxy"] == other
    # It returns with its session open still, where the VM is elsewhere: that one ends.
    wait_until(lambda: state(cloud, value["id"]) == "open", 60, "the session is open elsewhere")
    rig.proxies[name].up()
    rig.wait_for(name, "running")
    wait_until(lambda: len(machine.table) == 0, 60, "the session is over where it was")


def test_a_proxy_that_begins_anew_has_the_sessions_back_that_pages_come_for(
    rig: Rig, cloud: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "SETTLE", 0.5)
    value = opened(cloud)
    machine = rig.proxies[value["proxy"]].machine
    back = "b" * 43
    assert machine.open(secret(value), hashlib.sha256(back.encode()).digest())
    others = [opened(cloud) for _ in range(3)]  # as many as there may be; nobody opens them
    wait_until(lambda: state(cloud, value["id"]) == "open", 60, "the session is open")
    wait_until(lambda: state(cloud, others[-1]["id"]) == "offered", 60, "it is offered")
    machine.restart(consoles.UNIT)
    machine.changed.set()
    wait_until(lambda: machine.table.get(value["id"]), 60, "the proxy is told again")
    assert not machine.open(secret(value))
    assert machine.open(back)
    wait_until(lambda: state(cloud, value["id"]) == "open", 60, "the session is open again")
    for one in others:
        wait_until(lambda one=one: state(cloud, one["id"]) == "ended", 60, "the others are over")  # type: ignore[misc]  # the default binds
    assert not any(machine.open(secret(one)) for one in others)


def test_a_proxy_that_only_management_did_not_hear_keeps_its_sessions(
    rig: Rig, cloud: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "SILENT", 2.5)
    value = opened(cloud)
    name = value["proxy"]
    machine = rig.proxies[name].machine
    assert machine.open(secret(value), hashlib.sha256(b"never used").digest())
    wait_until(lambda: state(cloud, value["id"]) == "open", 60, "the session is open")
    rig.proxies[name].down()
    rig.wait_for(name, "silent")
    rig.proxies[name].up()
    rig.wait_for(name, "running")
    wait_until(
        lambda: cloud.get(f"/v1/console-sessions/{value['id']}")["proxy"] == name,
        60,
        "the session is where it was",
    )
    assert state(cloud, value["id"]) == "open"
    assert machine.table.get(value["id"]) is not None


# -- whose it is -------------------------------------------------------------------------------


def test_a_users_token_opens_only_that_users_vms(rig: Rig, cloud: Person) -> None:
    assert cloud.ask("PUT", "/v1/screens/i-2-10-VM", SCREEN)[0] == 200
    alice, mallory = rig.person(Role.USER, "alice"), rig.person(Role.USER, "mallory")
    status, value = alice.ask("POST", "/v1/console-sessions", {"vm": "i-2-10-VM"})
    assert (status, value["user"]) == (200, "alice")
    foreign = mallory.ask("POST", "/v1/console-sessions", {"vm": "i-2-10-VM"})
    absent = mallory.ask("POST", "/v1/console-sessions", {"vm": "i-9-9-VM"})
    assert foreign[0] == absent[0] == 404
    assert foreign[1]["detail"].replace("i-2-10", "i-9-9") == absent[1]["detail"]
    for body in ({"vm": "i-2-10-VM", "user": "alice"}, ASKED | {"user": "mallory"}):
        assert mallory.ask("POST", "/v1/console-sessions", body)[0] == 403
    assert mallory.get("/v1/console-sessions") == []
    assert mallory.ask("GET", f"/v1/console-sessions/{value['id']}")[0] == 404
    assert mallory.ask("DELETE", f"/v1/console-sessions/{value['id']}")[0] == 404
    assert alice.ask("DELETE", f"/v1/console-sessions/{value['id']}")[0] == 200


def test_the_cloud_names_a_user_who_owns_the_vm(cloud: Person) -> None:
    cloud.ask("PUT", "/v1/screens/i-2-10-VM", SCREEN)
    wrong = cloud.ask("POST", "/v1/console-sessions", {"vm": "i-2-10-VM", "user": "mallory"})
    assert wrong[0] == 404
    assert cloud.ask("POST", "/v1/console-sessions", {"vm": "i-2-10-VM"})[0] == 422
    right = cloud.ask("POST", "/v1/console-sessions", {"vm": "i-2-10-VM", "user": "alice"})
    assert right[0] == 200


def test_whoever_opens_may_ask_for_less_than_the_screen_allows_and_not_for_more(
    rig: Rig, cloud: Person
) -> None:
    policy = {"view_only": True, "clipboard": "to-guest", "idle": 60}
    cloud.ask("PUT", "/v1/screens/i-2-10-VM", SCREEN | {"policy": policy})
    alice = rig.person(Role.USER, "alice")
    wish = {"view_only": False, "clipboard": "from-guest", "idle": 0, "lifetime": 30}
    _, value = alice.ask("POST", "/v1/console-sessions", {"vm": "i-2-10-VM", "policy": wish})
    live = rig.proxies[value["proxy"]].machine.table.get(value["id"])
    assert live is not None
    got = live.session.policy
    assert (got.view_only, got.clipboard.value, got.idle, got.lifetime) == (True, "none", 60, 30)


def test_a_vms_sessions_end_with_its_screen(rig: Rig, cloud: Person) -> None:
    cloud.ask("PUT", "/v1/screens/i-2-10-VM", SCREEN)
    value = opened(cloud)
    assert cloud.ask("DELETE", "/v1/screens/i-2-10-VM")[0] == 200
    assert len(rig.proxies[value["proxy"]].machine.table) == 0
    assert state(cloud, value["id"]) == "ended"
