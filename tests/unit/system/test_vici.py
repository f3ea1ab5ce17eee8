"""charon over vici: what it is told, in which order, and what it tells of tunnels.

A small charon stands behind a real socket and speaks the protocol with the library's own codec;
that it is like the real one is proved in tests/lab.
"""

import base64
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from vici.protocol import FiniteStream, Message, Packet, Transport

from agent.engine.host import StepFailed
from agent.engine.model import Connection
from agent.monitor.events import Kind
from agent.system.paths import Paths
from agent.system.vici import FILE, Charon, Listener, load_running
from tests.unit.monitor.heard import Heard

CONTENT: dict[str, Any] = {
    "connection": {
        "local": {"auth": "psk"},
        "remote": {"auth": "psk"},
        "children": {"one": {"mode": "tunnel"}},
    },
    "secret": {"type": "IKE", "data": "a secret", "owners": ["a", "b"]},
    "key": None,
    "crl": None,
}


def connection(name: str = "one", digest: str = "d1", **content: object) -> Connection:
    text = json.dumps(CONTENT | content).encode()
    return Connection(name, digest, text, path=f"/ipsec/connections/{name}")


class SmallCharon:
    """Holds connections and secrets, and remembers what it was asked."""

    def __init__(self, path: Path) -> None:
        self.connections: dict[str, Any] = {}
        self.secrets: dict[str, Any] = {}
        self.certificates: dict[bytes, str] = {}  # what each is taken for
        self.associations: list[str] = []
        self.asked: list[str] = []
        self.refuses = ""
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """A socket that another thread waits at is shut down before its number is given back."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                peer = self._server.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._talk, args=(peer,), daemon=True).start()

    def _talk(self, peer: socket.socket) -> None:
        transport = Transport(peer)
        while True:
            try:
                data = transport.receive()
            except OSError:
                peer.close()
                return
            kind, name = data[0], data[2 : 2 + data[1]].decode()
            if kind in {Packet.EVENT_REGISTER, Packet.EVENT_UNREGISTER}:
                transport.send(bytes([Packet.EVENT_CONFIRM]))
                continue
            rest = data[2 + data[1] :]
            for event, body in self._events(name):
                header = bytes([Packet.EVENT, len(event)]) + event.encode()
                transport.send(header + Message.serialize(body))
            answer = self._answer(name, Message.deserialize(FiniteStream(rest)))
            transport.send(bytes([Packet.CMD_RESPONSE]) + Message.serialize(answer))

    def _events(self, name: str) -> Iterator[tuple[str, Any]]:
        if name == "list-conns":
            for key in self.connections:
                yield "list-conn", {key: {}}
        if name == "list-certs":
            for data in self.certificates:
                yield "list-cert", {"type": "X509", "data": data}
        if name == "list-sas":
            for key in self.associations:
                yield "list-sa", {key: {"state": "ESTABLISHED"}}

    def _answer(self, name: str, message: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append(name)
        if name == self.refuses:
            return {"success": "no", "errmsg": "it was told to refuse"}
        match name:
            case "load-conn":
                self.connections.update(message)
            case "unload-conn":
                self.connections.pop(message["name"].decode())
            case "load-shared":
                self.secrets[message["id"].decode()] = message["data"]
            case "unload-shared":
                self.secrets.pop(message["id"].decode())
            case "get-shared":
                return {"keys": list(self.secrets)}
            case "load-cert" if message["type"] == b"X509":
                body = message["data"].decode().split("-----")[2]
                self.certificates[base64.b64decode(body)] = message["flag"].decode()
            case "clear-creds":
                self.secrets.clear()
                self.certificates.clear()
            case "terminate":
                self.associations.clear()
        return {"success": "yes"}


@pytest.fixture
def charon(tmp_path: Path) -> Iterator[SmallCharon]:
    small = SmallCharon(tmp_path / "vici")
    yield small
    small.close()


@pytest.fixture
def door(tmp_path: Path, charon: SmallCharon) -> Charon:
    return Charon(tmp_path / "vici", Paths(tmp_path / "run", tmp_path / "state"))


def test_no_daemon_has_no_connections_and_takes_none(tmp_path: Path) -> None:
    nobody = Charon(tmp_path / "vici")
    assert nobody.connections() == {}
    assert nobody.associations() == ()
    nobody.unload("one")
    with pytest.raises(StepFailed, match="charon does not run") as caught:
        nobody.load(connection())
    assert caught.value.path == "/ipsec/connections/one"


def test_digest_is_told_back(door: Charon, charon: SmallCharon) -> None:
    door.load(connection())
    assert door.connections() == {"one": "d1"}
    assert charon.secrets == {"sysvm:one:d1": b"a secret"}
    charon.connections["stray"] = {}
    assert door.connections() == {"one": "d1", "stray": ""}


def test_same_connection_is_not_touched(door: Charon, charon: SmallCharon) -> None:
    door.load(connection())
    charon.asked.clear()
    door.load(connection())
    assert not {"load-conn", "load-shared", "unload-conn"} & set(charon.asked)


def test_changed_connection_ends_before_it_begins_anew(door: Charon, charon: SmallCharon) -> None:
    door.load(connection())
    charon.associations.append("one")
    charon.asked.clear()
    door.load(connection(digest="d2"))
    changes = [w for w in charon.asked if not w.startswith(("list-", "get-"))]
    assert changes == [
        "unload-conn",
        "terminate",
        "unload-shared",
        "flush-certs",
        "load-shared",
        "load-conn",
    ]
    assert door.connections() == {"one": "d2"}


def test_unload_takes_the_secret_along(door: Charon, charon: SmallCharon) -> None:
    door.load(connection())
    door.load(connection("two"))
    door.unload("one")
    assert door.connections() == {"two": "d1"}
    assert list(charon.secrets) == ["sysvm:two:d1"]


def test_refusal_has_charons_words_and_the_path(door: Charon, charon: SmallCharon) -> None:
    charon.refuses = "load-conn"
    with pytest.raises(StepFailed, match="it was told to refuse") as caught:
        door.load(connection())
    assert caught.value.path == "/ipsec/connections/one"
    assert "a secret" not in str(caught.value)
    assert door.connections() == {}


def test_new_revocation_list_displaces_the_old_one(
    tmp_path: Path, door: Charon, charon: SmallCharon
) -> None:
    """charon forgets everything; what the others have is loaded again, and only what is loaded."""
    door.load(connection("two", "d2"))
    folder = tmp_path / "run/current/ipsec"
    folder.mkdir(parents=True)
    rows = [{"name": "two", "digest": "d2"}, {"name": "later", "digest": "d3"}]
    (tmp_path / "run/current" / FILE).write_text(
        json.dumps([row | {"content": CONTENT} for row in rows])
    )
    door.load(connection(crl="a list"))
    assert "clear-creds" in charon.asked
    assert door.connections() == {"two": "d2", "one": "d1"}
    assert sorted(charon.secrets) == ["sysvm:one:d1", "sysvm:two:d2"]


def trusting(*authorities: str) -> dict[str, Any]:
    """What a connection says whose peer has a certificate of one of these."""
    bodies = [base64.b64encode(name.encode()).decode() for name in authorities]
    certificates = [f"-----BEGIN C-----\n{body}\n-----END C-----\n" for body in bodies]
    return CONTENT | {"connection": {"local": {}, "remote": {"cacerts": certificates}}}


def test_authority_that_no_connection_has_any_more_is_forgotten(
    tmp_path: Path, door: Charon, charon: SmallCharon
) -> None:
    (tmp_path / "run/current/ipsec").mkdir(parents=True)

    def run(**contents: Any) -> None:
        rows = [{"name": n, "digest": d, "content": c} for n, (d, c) in contents.items()]
        (tmp_path / "run/current" / FILE).write_text(json.dumps(rows))

    door.load(connection("one", "d-one", **trusting("first", "shared")))
    door.load(connection("two", "d-two", **trusting("second", "shared")))
    door.load(connection("three", "d-three"))
    assert charon.certificates == {b"first": "CA", b"shared": "CA", b"second": "CA"}
    assert "clear-creds" not in charon.asked

    # Another one in the place of the first: what others have stays, or comes back.
    one, two = trusting("other", "shared"), trusting("second", "shared")
    run(one=("d-one-2", one), two=("d-two", two), three=("d-three", CONTENT))
    door.load(connection("one", "d-one-2", **one))
    assert set(charon.certificates) == {b"other", b"shared", b"second"}
    assert sorted(charon.secrets) == ["sysvm:one:d-one-2", "sysvm:three:d-three", "sysvm:two:d-two"]

    # A connection whose authorities others have as well: nothing is told anew.
    charon.asked.clear()
    run(one=("d-one-2", one), two=("d-two", two))
    door.unload("three")
    assert "clear-creds" not in charon.asked

    run(two=("d-two", two))
    door.unload("one")
    assert set(charon.certificates) == {b"second", b"shared"}
    assert list(charon.secrets) == ["sysvm:two:d-two"]
    run()
    door.unload("two")
    assert charon.certificates == {}


def test_daemon_that_starts_is_told_what_runs(
    tmp_path: Path, door: Charon, charon: SmallCharon
) -> None:
    paths = Paths(tmp_path / "run", tmp_path / "state")
    assert load_running(paths, door) == 0
    (tmp_path / "run/current/ipsec").mkdir(parents=True)
    rows = [{"name": name, "digest": "d", "content": CONTENT} for name in ("a", "b")]
    (tmp_path / "run/current" / FILE).write_text(json.dumps(rows))
    assert load_running(paths, door) == 0
    assert door.connections() == {"a": "d", "b": "d"}
    charon.refuses = "load-conn"
    charon.connections.clear()
    assert load_running(paths, door) == 2


# -- what happens ------------------------------------------------------------------------------


class Ear:
    """A listener whose clock is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.listener = Listener(now=lambda: self.now)

    def log(self, text: str, name: str = "one", attempt: str = "1") -> None:
        self.listener.hear("log", {"ikesa-name": name, "ikesa-uniqueid": attempt, "msg": text})

    def reason(self, name: str = "one") -> str:
        found = self.listener.failures().get(name)
        return found.reason if found else ""


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("received NO_PROPOSAL_CHOSEN notify error", "no proposal chosen"),
        ("received AUTHENTICATION_FAILED notify error", "authentication failed"),
        ("tried 1 shared key for 'a' - 'b', but MAC mismatched", "authentication failed"),
        ("giving up after 4 retransmits", "no answer from the peer"),
        ("received TS_UNACCEPTABLE notify, no CHILD_SA built", "traffic selectors"),
        ("certificate was revoked on Nov 22 2026, reason: unspecified", "authentication failed"),
    ],
)
def test_reason_in_our_words(said: str, reason: str) -> None:
    ear = Ear()
    ear.log("sending packet: from a to b (80 bytes)")
    assert ear.reason() == ""
    ear.log(said)
    assert ear.reason().startswith(reason)


def test_first_words_of_an_attempt_count_and_the_next_attempt_anew() -> None:
    ear = Ear()
    ear.log("received NO_PROPOSAL_CHOSEN notify error")
    ear.log("giving up after 4 retransmits")
    assert ear.reason().startswith("no proposal")
    ear.log("giving up after 4 retransmits", attempt="2")
    assert ear.reason().startswith("no answer")
    ear.now += 60
    ear.log("received TS_UNACCEPTABLE notify, no CHILD_SA built", attempt="2")
    assert ear.reason().startswith("traffic selectors")


def test_reason_is_over_when_the_tunnel_comes_up_or_the_connection_goes() -> None:
    ear = Ear()
    ear.log("giving up after 4 retransmits")
    up = {"one": {"child-sas": {"one-1": {"name": "one"}}}, "up": "yes"}
    ear.listener.hear("child-updown", up)
    assert ear.reason() == ""
    assert ear.listener.tunnels()["one", "one"].up_since == 1000.0
    ear.log("giving up after 4 retransmits")
    ear.listener.hear("log", {"msg": "removed vici connection: one"})
    assert ear.reason() == ""
    ear.listener.hear("child-updown", up | {"up": "no"})
    assert ear.listener.tunnels()["one", "one"].up_since is None


def test_renewed_keys_keep_since_when_it_is_up() -> None:
    ear = Ear()
    children = {"one": {"old": {"install-time": "40"}, "new": {"install-time": "0"}}}
    ear.listener.hear("child-rekey", {"one": {"child-sas": children}})
    tunnel = ear.listener.tunnels()["one", "one"]
    assert (tunnel.up_since, tunnel.rekeyed) == (960.0, 1000.0)
    ear.now += 100
    ear.listener.hear("child-rekey", {"one": {"child-sas": children}})
    tunnel = ear.listener.tunnels()["one", "one"]
    assert (tunnel.up_since, tunnel.rekeyed) == (960.0, 1100.0)


def updown(*, up: bool, number: str = "1") -> dict[str, object]:
    children = {f"one-{number}": {"name": "one", "uniqueid": number}}
    return {"one": {"child-sas": children}, **({"up": "yes"} if up else {})}


def test_tunnels_that_come_and_go_are_told() -> None:
    ear, heard = Ear(), Heard()
    ear.listener.tell(heard)
    ear.listener.hear("child-updown", updown(up=True))
    ear.log("peer not responding, trying again (1/3)")
    ear.listener.hear("child-updown", updown(up=False))
    ear.listener.hear("child-updown", updown(up=True, number="2"))
    assert heard.kinds == [Kind.TUNNEL_UP, Kind.TUNNEL_DOWN, Kind.TUNNEL_UP]
    assert heard.events[1].data == {
        "connection": "one", "child": "one", "reason": "no answer from the peer",
    }  # fmt: skip


def test_tunnel_that_is_replaced_by_another_was_never_down() -> None:
    ear, heard = Ear(), Heard()
    ear.listener.tell(heard)
    ear.listener.hear("child-updown", updown(up=True, number="1"))
    ear.listener.hear("child-updown", updown(up=True, number="2"))
    ear.listener.hear("child-updown", updown(up=False, number="1"))
    assert heard.kinds == [Kind.TUNNEL_UP]
    assert ear.listener.tunnels()["one", "one"].up_since is not None
    children = {"one-2": {"old": {"name": "one", "uniqueid": "2"},
                          "new": {"name": "one", "uniqueid": "3"}}}  # fmt: skip
    ear.listener.hear("child-rekey", {"one": {"child-sas": children}})
    assert heard.kinds == [Kind.TUNNEL_UP]
    ear.listener.hear("child-updown", updown(up=False, number="3"))
    assert heard.kinds == [Kind.TUNNEL_UP, Kind.TUNNEL_DOWN]


def test_tunnel_of_before_the_agent_listened_can_go_down_too() -> None:
    ear, heard = Ear(), Heard()
    ear.listener.tell(heard)
    ear.listener.hear("child-updown", updown(up=False))
    assert heard.kinds == [Kind.TUNNEL_DOWN]


def test_tunnel_that_the_document_no_longer_wants_is_not_told() -> None:
    ear, heard = Ear(), Heard()
    ear.listener.tell(heard)
    ear.listener.hear("child-updown", updown(up=True))
    ear.listener.hear("log", {"msg": "removed vici connection: one"})
    ear.listener.hear("child-updown", updown(up=False))
    assert heard.kinds == [Kind.TUNNEL_UP]
    ear.listener.hear("child-updown", updown(up=True))
    ear.listener.hear("child-updown", updown(up=False))
    assert heard.kinds[1:] == [Kind.TUNNEL_UP, Kind.TUNNEL_DOWN]


def test_strangers_are_told_with_who_they_said_to_be() -> None:
    ear = Ear()
    ear.log("looking for peer configs matching a[a]...b[eve]", "(unnamed)")
    ear.log("no matching peer config found", "(unnamed)")
    (found,) = ear.listener.strangers()
    assert found.connection == ""
    assert found.said.endswith("b[eve]")
    assert ear.listener.failures() == {}
