"""VMs: their documents are pushed, kept and pushed again; their heartbeats and events are taken."""

import hashlib
import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.document.heartbeat import Beat, Health, Refused, encode
from agent.engine.errors import EngineError
from appliance.manager import beats, fleet, happenings
from appliance.manager.access import Role
from appliance.manager.audit import Audit
from appliance.manager.beats import AHEAD, Beats
from appliance.manager.database import Database
from appliance.manager.fleet import Registered
from appliance.manager.happenings import Names
from appliance.manager.inbox import Inbox
from appliance.manager.registry import Registry
from appliance.manager.seal import Seal
from appliance.manager.serve import Endpoint, bind
from appliance.manager.tls import Shown
from tests.unit.api import fake
from tests.unit.api.fake import FakeEngine
from tests.unit.manager import rig as rigs
from tests.unit.manager.agent import Agent, Keys, agents
from tests.unit.manager.rig import Person, Rig

KEY, OTHER = "11" * 32, "22" * 32
SEAL = Seal(b"k" * 32)


@pytest.fixture
def agent(keys: Keys) -> Iterator[Agent]:
    with agents(keys, 1) as (made,):
        made.begin_anew(FakeEngine())
        yield made


@pytest.fixture
def rig(database: Database, keys: Keys, agent: Agent) -> Iterator[Rig]:
    with rigs.manager(database, keys) as made:
        body = {"role": "router", "zone": "z1", "agent": agent.url, "account": "acme"}
        assert made.person(Role.CLOUD, "cloud").ask("PUT", "/v1/vms/vm1", body)[0] == 200
        yield made


@pytest.fixture
def cloud(rig: Rig) -> Person:
    return rig.person(Role.CLOUD, "cloud")


def push(cloud: Person, generation: int, query: str = "", **more: object) -> tuple[int, Any]:
    path = f"/v1/vms/vm1/document{query}"
    return cloud.ask("PUT", path, dict(fake.value(generation)) | more)


def pushed(agent: Agent) -> int:
    """The generation that the VM runs."""
    return agent.engine.current().document.generation


# -- documents ---------------------------------------------------------------------------------


def test_a_document_is_pushed_and_kept(cloud: Person, agent: Agent) -> None:
    status, answer = push(cloud, 3)
    assert (status, answer["result"], answer["generation"]) == (200, "committed", 3)
    assert pushed(agent) == 3
    row = cloud.get("/v1/vms/vm1")
    assert (row["generation"], row["result"], row["requires_upgrade"]) == (3, "committed", False)


def test_a_dry_run_keeps_nothing(cloud: Person) -> None:
    assert push(cloud, 3, "?dry_run=1")[1]["result"] == "planned"
    assert cloud.get("/v1/vms/vm1")["generation"] is None


def test_an_older_document_or_another_of_the_same_number_is_refused(cloud: Person) -> None:
    push(cloud, 3)
    assert push(cloud, 2)[1]["type"] == "/v1/problems/stale-generation"
    value = fake.value(3, hostname="other")
    status, problem = cloud.ask("PUT", "/v1/vms/vm1/document", value)
    assert (status, problem["type"]) == (409, "/v1/problems/stale-generation")
    assert push(cloud, 3)[0] == 200


def test_what_is_wrong_with_a_document_is_told_before_the_vm_is_asked(
    cloud: Person, agent: Agent
) -> None:
    status, problem = push(cloud, 3, more=1, role="console-proxy")
    assert status == 422
    assert "/more" in [one["path"] for one in problem["problems"]]
    assert "push" not in agent.engine.calls


def test_a_document_of_another_vm_is_refused(cloud: Person) -> None:
    beat = {"address": "169.254.0.1", "port": 8445, "key": KEY}
    _, problem = push(cloud, 3, events={"vm": "vm2", "heartbeat": beat})
    assert [one["path"] for one in problem["problems"]] == ["/events/vm"]


def test_one_that_the_vm_refuses_is_not_kept(cloud: Person, agent: Agent) -> None:
    push(cloud, 3)
    agent.engine.fails = EngineError("it does not hold")
    status, problem = push(cloud, 4)
    assert (status, problem["type"]) == (502, "/v1/problems/agent-refused")
    assert cloud.get("/v1/vms/vm1")["generation"] == 3
    assert [one["kind"] for one in cloud.get("/v1/events")] == ["manager.push-failed"]


def test_a_vm_that_was_made_anew_gets_its_document_again(cloud: Person, agent: Agent) -> None:
    push(cloud, 3)
    agent.down()
    agent.begin_anew(FakeEngine())
    timer = threading.Timer(1.5, agent.up)
    timer.start()
    status, answer = cloud.ask("POST", "/v1/vms/vm1/recreate?within=60")
    timer.join()
    assert (status, answer["result"], answer["generation"]) == (200, "committed", 3)
    assert pushed(agent) == 3


def test_what_a_document_names_goes_to_the_vm_before_it(cloud: Person, agent: Agent) -> None:
    content = b"#!/bin/sh\n"
    name = hashlib.sha256(content).hexdigest()
    headers = {"Authorization": f"Bearer {cloud.token}"}
    path = f"/v1/blobs/{name}"
    assert cloud.client.put(path, data=b"other", headers=headers).status_code == 400
    assert cloud.client.put(path, data=content, headers=headers).status_code == 200
    guest = {"mac": "02:00:4c:00:00:0a", "user_data": name, "metadata": {}}
    status, answer = push(cloud, 3, user_data={"guests": {"10.1.1.10": guest}})
    assert (status, agent.machine.blobs) == (200, {name: content}), answer


def test_a_vm_whose_agent_does_not_answer_is_said(cloud: Person, agent: Agent) -> None:
    agent.down()
    status, problem = push(cloud, 3)
    assert (status, problem["type"], problem["retryable"]) == (502, "/v1/problems/agent-mute", True)
    assert cloud.ask("POST", "/v1/vms/vm1/recreate")[0] == 404


def test_a_vm_that_is_too_old_is_seen_and_refused_changes(
    cloud: Person, agent: Agent, rig: Rig
) -> None:
    push(cloud, 3)
    rig.manager.documents.least = "99.0"
    status, problem = push(cloud, 4)
    assert (status, problem["type"]) == (409, "/v1/problems/requires-upgrade")
    row = cloud.get("/v1/vms/vm1")
    assert (row["requires_upgrade"], row["generation"], pushed(agent)) == (True, 3, 3)
    assert push(cloud, 4, "?force=1")[0] == 200
    assert cloud.ask("POST", "/v1/vms/vm1/recreate")[0] == 200


@pytest.mark.parametrize(
    ("version", "least", "old"),
    [
        ("0.1.0", "0.1.0", False), ("0.1.0", "0.2.0", True), ("0.10.0", "0.9.3", False),
        ("1.0", "1.0.1", True), ("", "0.1.0", False), ("2.0.0.dev1", "1.9", False),
    ],
)  # fmt: skip
def test_versions_are_compared_as_numbers(version: str, least: str, old: bool) -> None:
    assert fleet.too_old(version, least) is old


def test_documents_are_sealed(cloud: Person, database: Database) -> None:
    beat = {"address": "169.254.0.1", "port": 8445, "key": KEY}
    push(cloud, 3, events={"heartbeat": beat})
    with database.read() as connection:
        row = fleet.whole(connection, "vm1")
    assert KEY not in repr(row)
    assert json.loads(SEAL.open(str(row.document), "document vm1"))["events"]["heartbeat"] == beat


def test_certificates_go_to_every_console_proxy(
    rig: Rig, cloud: Person, keys: Keys, agent: Agent
) -> None:
    root = rig.person(Role.OPERATE, "root")
    with agents(keys, 2) as proxies:
        for number, proxy in enumerate(proxies):
            proxy.begin_anew(FakeEngine())
            name = f"v-{number}-vm"
            body = {"role": "console-proxy", "zone": "z1", "agent": proxy.url}
            cloud.ask("PUT", f"/v1/vms/{name}", body)
            console = {"networks": ["10.2.0.0/24"], "certificates": {"old": "x"}, "port": 4443}
            document = fake.value(5) | {"role": "console-proxy", "console": console}
            assert cloud.ask("PUT", f"/v1/vms/{name}/document", document)[0] == 200
        proxies[1].down()
        given = {"certificates": {"server": "-----BEGIN"}, "key": "-----BEGIN KEY"}
        status, answer = root.ask("PUT", "/v1/certificates", given)
        assert (status, [(one["vm"], one["done"]) for one in answer]) == (
            200, [("v-0-vm", True), ("v-1-vm", False)],
        )  # fmt: skip
        found = proxies[0].engine.current().document
        assert found.generation == 6
        assert found.value["console"] == {"networks": ["10.2.0.0/24"], "port": 4443} | given
    assert agent.engine.calls == []


# -- heartbeats --------------------------------------------------------------------------------


def known(database: Database, name: str, key: str = KEY, seal: Seal = SEAL) -> None:
    registered = Registered(
        name=name, role="router", zone="z1", pod="", cluster="", account="", domain="",
        agent="https://127.0.0.1:8443", server_name="", template="",
    )  # fmt: skip
    database.write(lambda c: fleet.register(c, registered))
    kept = fleet.Kept(
        generation=1, digest="d", sealed="", heartbeat_key=seal.close(key, f"heartbeat {name}")
    )
    database.write(lambda c: fleet.keep(c, name, kept))


def beat(name: str, seq: int, boot: str = "b1") -> Beat:
    return Beat(
        vm=name, boot=boot, seq=seq, role="router", generation=1, revision=2, health=Health.OK,
        monotonic=1.0,
    )  # fmt: skip


def test_a_heartbeat_is_taken_once_also_by_a_manager_that_begins_anew(database: Database) -> None:
    known(database, "r-1-vm")
    one = encode(beat("r-1-vm", 5), bytes.fromhex(KEY))
    first = Beats(database, SEAL)
    first.look()
    first.take(one)
    with pytest.raises(Refused):
        first.take(one)
    first.flush()
    second = Beats(database, SEAL)
    second.look()
    for number in (5, 6, 5 + AHEAD):  # and what the first may have heard after it wrote that down
        with pytest.raises(Refused):
            second.take(encode(beat("r-1-vm", number), bytes.fromhex(KEY)))
    second.take(encode(beat("r-1-vm", 6 + AHEAD), bytes.fromhex(KEY)))
    with database.read() as connection:
        row = fleet.get(connection, "r-1-vm", "0")
    assert (row.health, row.running, row.revision) == ("ok", 1, 2)


def test_a_heartbeat_of_another_key_or_vm_is_refused(database: Database) -> None:
    known(database, "r-1-vm")
    known(database, "r-2-vm", OTHER)
    heard = Beats(database, SEAL)
    heard.look()
    for datagram in (
        encode(beat("r-1-vm", 5), bytes.fromhex(OTHER)),
        encode(beat("r-3-vm", 5), bytes.fromhex(KEY)),
        b"", b"SVHB\x01", b"x" * 1400, b'"vm":"r-1-vm"',
    ):  # fmt: skip
        with pytest.raises(Refused):
            heard.take(datagram)
    heard.take(encode(beat("r-1-vm", 1), bytes.fromhex(KEY)))


def test_a_vm_that_falls_silent_is_told_once_and_heard_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    known(database, "r-1-vm")
    heard = Beats(database, SEAL, now=lambda: clock[0])

    def turn(seq: int | None, seconds: float) -> str:
        clock[0] += seconds
        if seq is not None:
            heard.take(encode(beat("r-1-vm", seq), bytes.fromhex(KEY)))
        heard.turn()
        with database.read() as connection:
            return fleet.get(connection, "r-1-vm", "0").health

    heard.look()
    assert turn(1, 5) == "ok"
    assert turn(None, beats.SILENT + 1) == "silent"
    assert turn(None, 30) == "silent"
    assert turn(2, 5) == "ok"
    with database.read() as connection:
        found = happenings.listed(connection)
    assert [one.kind for one in found] == ["manager.vm-silent"]


# -- events ------------------------------------------------------------------------------------


def event(seq: int) -> dict[str, Any]:
    return {
        "seq": seq, "boot": "b1", "time": "2026-11-26T19:19:39.301Z", "monotonic": 1.5,
        "kind": "document.committed", "severity": "info", "subject": f"revision {seq}",
        "message": "it runs", "data": {"revision": seq},
    }  # fmt: skip


@pytest.fixture
def inbox(database: Database, keys: Keys) -> Iterator[int]:
    """The port of one."""
    known(database, "r-1-vm")
    registry = Registry(database, Audit(database), {"z1"})
    made = Inbox(database, Shown(*keys.own, keys.ca), registry)
    listener = bind(Endpoint("127.0.0.1", 0))
    port = listener.getsockname()[1]
    stop = threading.Event()
    thread = threading.Thread(target=made.run, args=(listener, stop))
    thread.start()
    yield port
    stop.set()
    thread.join(10)


Post = Callable[..., tuple[int, Any]]


@pytest.fixture
def post(inbox: int, keys: Keys) -> Iterator[Post]:
    """Push a batch over one connection, as the VM does."""
    connection = client(inbox, keys, keys.vm)

    def send(
        events: list[Any], vm: str = "r-1-vm", path: str = "/v1/events", **more: object
    ) -> tuple[int, Any]:
        batch = {"vm": vm, "boot": "b1", "stream": "s1", "events": events, **more}
        connection.request("POST", path, json.dumps(batch).encode())
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    yield send
    connection.close()


def client(
    port: int, keys: Keys, identity: tuple[Path, Path] | None
) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=str(keys.ca))
    if identity is not None:
        context.load_cert_chain(*identity)
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)


def numbers(database: Database) -> list[int]:
    with database.read() as connection:
        return [one.seq for one in happenings.listed(connection, after=0, vm="r-1-vm", limit=1000)]


def test_events_are_acknowledged_when_they_are_kept_each_once(
    post: Post, database: Database
) -> None:
    assert post([event(1), event(2)]) == (200, {"stream": "s1", "acknowledged": 2})
    assert post([event(1), event(2), event(3)]) == (200, {"stream": "s1", "acknowledged": 3})
    assert numbers(database) == [1, 2, 3]


def test_a_thousand_events_after_an_hour_without_a_link_come_in_order(
    post: Post, database: Database
) -> None:
    for start in range(0, 1000, 100):
        batch = [event(seq) for seq in range(start, start + 100)]
        assert post(batch)[0] == post(batch)[0] == 200
    assert numbers(database) == list(range(1000))


def test_events_of_a_vm_that_is_not_known_are_not_taken(post: Post) -> None:
    assert post([event(1)], vm="r-9-vm")[0] == 404


def test_a_certificate_speaks_for_its_own_vm(inbox: int, keys: Keys, database: Database) -> None:
    known(database, "r-2-vm")
    connection = client(inbox, keys, (keys.identity.certificate, keys.identity.key))
    batch = {"vm": "r-2-vm", "boot": "b1", "stream": "s1", "events": [event(1)]}
    connection.request("POST", "/v1/events", json.dumps(batch).encode())
    assert connection.getresponse().status == 403
    connection.close()
    with database.read() as connection_:
        assert [one.kind for one in happenings.listed(connection_)] == ["manager.foreign-events"]


def test_without_a_certificate_nothing_is_heard(inbox: int, keys: Keys) -> None:
    connection = client(inbox, keys, None)

    def ask() -> None:
        connection.request("POST", "/v1/events", b"{}")
        connection.getresponse()

    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        ask()


@pytest.mark.parametrize(
    ("events", "path", "status"),
    [
        ([], "/v1/events", 422),
        ([{"seq": 1}], "/v1/events", 422),
        ([event(1) | {"kind": "a b"}], "/v1/events", 422),
        ([event(1)], "/v1/other", 404),
    ],
)
def test_what_is_no_batch_is_refused(post: Post, events: list[Any], path: str, status: int) -> None:
    assert post(events, path=path)[0] == status


def test_a_newer_agent_may_say_more(post: Post, database: Database) -> None:
    newer = event(1) | {"colour": "red", "data": {"unheard": ["of"]}}
    assert post([newer], weather="fair") == (200, {"stream": "s1", "acknowledged": 1})
    with database.read() as connection:
        (told,) = happenings.listed(connection, after=0, vm="r-1-vm", limit=10)
    assert (told.seq, told.data) == (1, {"unheard": ["of"]})


def test_names_are_those_of_the_certificate() -> None:
    shown = {
        "subject": ((("commonName", "r-1-vm"),),),
        "subjectAltName": (("DNS", "router"), ("IP Address", "169.254.10.2")),
    }
    assert Names.of(shown) == Names(frozenset({"r-1-vm", "router"}), frozenset({"169.254.10.2"}))


def test_events_are_told_as_they_come(rig: Rig, cloud: Person, database: Database) -> None:
    batch = happenings.Batch(
        vm="vm1", boot="b1", stream="s1", events=(happenings.PushedEvent(**event(1)),)
    )
    timer = threading.Timer(0.5, lambda: database.write(lambda c: happenings.take(c, batch, 1.0)))
    timer.start()
    found = cloud.get("/v1/events?after=0&wait=30")
    timer.join()
    assert [(one["vm"], one["seq"], one["data"]) for one in found] == [("vm1", 1, {"revision": 1})]
    assert cloud.get(f"/v1/events?after={found[0]['id']}") == []
