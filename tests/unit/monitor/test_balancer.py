"""Servers that go down and come up, as haproxy's notices and its own figures say."""

from pathlib import Path

import pytest

from agent.monitor.balancer import Servers
from agent.monitor.events import Kind
from agent.system.haproxy import Health
from tests.unit.monitor.heard import Heard

# As haproxy 3.0.11 says it.
DOWN = (
    'Server shop/vm1 is DOWN, reason: Layer4 connection problem, info: "Connection refused", '
    "check duration: 0ms. 1 active and 0 backup servers left. 0 sessions active, 0 requeued, "
    "0 remaining in queue."
)
UP = (
    "Server shop/vm1 is UP, reason: Layer4 check passed, check duration: 0ms. 1 active and 0 "
    "backup servers online. 0 sessions requeued, 0 total in queue."
)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def servers(tmp_path: Path, heard: Heard) -> Servers:
    return Servers("/nowhere", tmp_path / "down.json", heard)


def test_notices_are_told_once(servers: Servers, heard: Heard) -> None:
    for line in (DOWN, DOWN, "proxy shop has no server available!", UP, UP):
        servers.heard(line)
    assert heard.kinds == [Kind.SERVER_DOWN, Kind.SERVER_UP]
    assert heard.events[0].subject == "shop/vm1"
    assert heard.events[0].data["check"] == (
        'Layer4 connection problem, info: "Connection refused", check duration: 0ms'
    )


def test_server_that_an_operator_takes_away_is_not_down(servers: Servers, heard: Heard) -> None:
    servers.heard("Server shop/vm1 is going DOWN for maintenance. 1 active and 0 backup servers")
    servers.heard("Server shop/vm1 is stopping for maintenance (drain).")
    assert heard.kinds == []


def test_what_changed_unheard_is_found(servers: Servers, heard: Heard) -> None:
    servers.compare([Health("shop", "vm1", "DOWN", "L4CON"), Health("shop", "vm2", "UP", "L4OK")])
    servers.compare(
        [Health("shop", "vm1", "UP", "L4OK"), Health("shop", "vm2", "DOWN 1/2", "L4TOUT")]
    )
    assert [(event.kind, event.subject) for event in heard.events] == [
        (Kind.SERVER_DOWN, "shop/vm1"),
        (Kind.SERVER_UP, "shop/vm1"),
        (Kind.SERVER_DOWN, "shop/vm2"),
    ]


def test_server_that_was_not_checked_yet_is_not_up(servers: Servers, heard: Heard) -> None:
    """As haproxy takes every server for up when it starts."""
    servers.heard(DOWN)
    servers.compare([Health("shop", "vm1", "UP", "INI")])
    assert heard.kinds == [Kind.SERVER_DOWN]
    servers.compare([Health("shop", "vm1", "DOWN", "L4CON")])
    assert heard.kinds == [Kind.SERVER_DOWN]
    servers.compare([Health("shop", "vm1", "UP", "L4OK")])
    assert heard.kinds == [Kind.SERVER_DOWN, Kind.SERVER_UP]


def test_server_that_the_document_no_longer_has_is_forgotten(
    servers: Servers, heard: Heard
) -> None:
    servers.heard(DOWN)
    servers.compare([])
    servers.heard(DOWN)
    assert heard.kinds == [Kind.SERVER_DOWN, Kind.SERVER_DOWN]


def test_agent_that_starts_again_tells_nothing_twice(
    servers: Servers, heard: Heard, tmp_path: Path
) -> None:
    servers.heard(DOWN)
    again = Servers("/nowhere", tmp_path / "down.json", heard)
    again.compare([Health("shop", "vm1", "DOWN", "L4CON")])
    again.heard(UP)
    assert heard.kinds == [Kind.SERVER_DOWN, Kind.SERVER_UP]
    (tmp_path / "down.json").write_text("{")
    Servers("/nowhere", tmp_path / "down.json", heard).heard(DOWN)
