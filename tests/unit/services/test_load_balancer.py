"""haproxy's file: as looked at, parsed back, and refused where it would be wrong."""

from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine.model import HaproxyRuns, Protocol, Reaction, Reload
from agent.services import load_balancer
from tests.unit.services.conftest import Golden
from tests.unit.services.sites import context, linted, rendered, texts

NAME = "load_balancer"
CFG = "haproxy/haproxy.cfg"
VM1 = {"address": "10.1.1.10", "port": 8080}
WHOLE: dict[str, Any] = {
    "listeners": {
        "web": {
            "address": "203.0.113.10",
            "port": 80,
            "mode": "http",
            "servers": {
                "vm1": VM1 | {"weight": 3},
                "vm2": {"address": "10.1.1.11", "port": 8080, "state": "drain"},
                "vm3": {"address": "10.1.1.12", "port": 8080, "state": "maintenance"},
            },
            "check": {"type": "http", "path": "/health?x=%20", "host": "web.example"},
        },
        "mail": {
            "address": "203.0.113.11",
            "port": 25,
            "balance": "leastconn",
            "servers": {"vm1": VM1},
            "timeouts": {"client_ms": 1000, "server_ms": 2000, "connect_ms": 3000},
            "max_connections": 7,
        },
        "inside": {
            "address": "2001:db8:1::1",
            "port": 443,
            "balance": "source",
            "servers": {"a": {"address": "2001:db8:1::10", "port": 443}},
            "check": {"type": "none"},
        },
        "empty": {"address": "203.0.113.10", "port": 81},
    }
}


def parse(text: str) -> dict[str, list[list[str]]]:
    """The sections of a haproxy configuration and the words of their lines."""
    sections: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        if not line.startswith(" "):
            sections[" ".join(words)] = []
        else:
            sections[next(reversed(sections))].append(words)
    return sections


def listener(**more: Any) -> dict[str, Any]:
    return {"listeners": {"web": {"address": "203.0.113.10", "port": 80} | more}}


def test_whole_section_renders_as_looked_at(golden: Golden) -> None:
    golden(NAME, rendered(NAME, WHOLE))


def test_no_listeners_want_nothing() -> None:
    assert load_balancer.ABSENT is None
    assert rendered(NAME, {}).units == ()


def test_parses_back() -> None:
    found = parse(texts(rendered(NAME, WHOLE))[CFG])
    assert list(found) == [
        "global", "ring notices", "defaults", "listen empty", "listen inside", "listen mail",
        "listen web",
    ]  # fmt: skip
    web, inside = found["listen web"], found["listen inside"]
    assert ["bind", "203.0.113.10:80"] in web
    assert ["option", "forwardfor"] in web
    assert [w for w in web if w[0] == "server"] == [
        ["server", "vm1", "10.1.1.10:8080", "guid", "web:vm1", "weight", "3"],
        ["server", "vm2", "10.1.1.11:8080", "guid", "web:vm2", "weight", "0"],
        ["server", "vm3", "10.1.1.12:8080", "guid", "web:vm3", "weight", "1", "disabled"],
    ]
    assert ["bind", "[2001:db8:1::1]:443"] in inside
    assert ["hash-type", "consistent"] in inside
    assert not any(words[0] == "default-server" for words in inside)
    assert ["maxconn", "7"] in found["listen mail"]


def test_pointer_stands_before_each_listener() -> None:
    text = texts(rendered(NAME, WHOLE))[CFG]
    for name in WHOLE["listeners"]:
        assert f"# /load_balancer/listeners/{name}\nlisten {name}\n" in text


def test_unit_reloads_by_its_master_and_the_witness_is_the_description() -> None:
    artifacts = rendered(NAME, WHOLE)
    assert [f.reaction for f in artifacts.files] == [Reaction.RELOAD]
    assert artifacts.units[0].reload is Reload.HAPROXY_MASTER
    section = load_balancer.Section.model_validate(WHOLE)
    probes = load_balancer.probe(section, context(), artifacts)
    (runs,) = [p for p in probes if isinstance(p, HaproxyRuns)]
    assert ["description", runs.description] in parse(texts(artifacts)[CFG])["global"]
    assert runs.description not in texts(rendered(NAME, listener()))[CFG]


def test_public_addresses_are_gated_by_their_ingress_chain() -> None:
    openings = {str(o.destination): o for o in rendered(NAME, WHOLE).openings}
    assert openings["203.0.113.10"].gate == "in4-203.0.113.10"
    assert openings["203.0.113.10"].nic is None
    assert openings["2001:db8:1::1"].gate == ""
    assert openings["2001:db8:1::1"].nic == "eth1"
    assert all(o.protocol is Protocol.TCP and o.sets for o in openings.values())


def test_sets_name_each_listener_as_ipset_prints_it() -> None:
    sets = {s.name: s.members for s in rendered(NAME, WHOLE).sets}
    assert sets == {
        "lb4": {"203.0.113.10,tcp:80", "203.0.113.10,tcp:81", "203.0.113.11,tcp:25"},
        "lb6": {"2001:db8:1::1,tcp:443"},
    }


def test_claims_stand_at_the_listeners_path() -> None:
    claims = {(str(c.address), str(c.ports), c.path) for c in rendered(NAME, WHOLE).claims}
    assert ("203.0.113.11", "25", "/load_balancer/listeners/mail") in claims


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (listener(address="203.0.113.99"), "/load_balancer/listeners/web/address"),
        (listener(address="192.0.2.10"), "/load_balancer/listeners/web/address"),
        (
            listener(servers={"a": {"address": "127.0.0.1", "port": 1}}),
            "/load_balancer/listeners/web/servers/a/address",
        ),
        (
            listener(servers={"a": {"address": "203.0.113.11", "port": 1}}),
            "/load_balancer/listeners/web/servers/a/address",
        ),
        (
            listener(servers={"a": {"address": "224.0.0.1", "port": 1}}),
            "/load_balancer/listeners/web/servers/a/address",
        ),
        (listener(check={"expect": "399-200"}), "/load_balancer/listeners/web/check/expect"),
    ],
)
def test_lint_names_the_place(value: Any, path: str) -> None:
    assert [problem.path for problem in linted(NAME, value)] == [path]


HOSTILE = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["web\nbind :1", "a b", "a\tb", "a#b", "a\\", '"a"', "'", "$HOME", "/x y", "/\n", "200\n"]
    ),
)


@given(name=HOSTILE, path=HOSTILE, expect=HOSTILE, host=HOSTILE)
def test_strings_are_refused_or_come_back_as_they_were(
    name: str, path: str, expect: str, host: str
) -> None:
    for check in ({"path": path}, {"expect": expect}, {"host": host}, {}):
        value = {
            "listeners": {
                name if not check else "web": {
                    "address": "203.0.113.10",
                    "port": 80,
                    "servers": {name if not check else "a": VM1},
                    "check": {"type": "http"} | check,
                }
            }
        }
        try:
            section = load_balancer.Section.model_validate(value)
        except pydantic.ValidationError:
            continue
        text = texts(load_balancer.render(section, context()))[CFG]
        found = parse(text)
        assert len(found) == 4
        words = found[f"listen {name if not check else 'web'}"]
        assert [w[0] for w in words].count("bind") == 1
        send = next(w for w in words if w[:2] == ["http-check", "send"])
        assert send[5] == (check.get("path") or "/")
        if "host" in check:
            assert send[-1] == host
        if "expect" in check:
            assert ["http-check", "expect", "status", expect] in words
