"""Other addresses and ports while consoles are open: nobody is thrown out."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.lab.wait import wait_until
from tests.unit.console.rig import (
    Browser,
    Proxy,
    Screen,
    TurnedAway,
    free_ports,
    make,
    own_address,
    running,
)

pytestmark = pytest.mark.skipif(
    not own_address(), reason="the machine has no address but loopback's"
)


@pytest.fixture
def screen() -> Iterator[Screen]:
    one = Screen()
    yield one
    one.close()


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    proxy = make(tmp_path, "tls", "status")
    proxy.workers = 2
    proxy.write()
    with running(proxy):
        yield proxy


def reload(proxy: Proxy, witness: str) -> None:
    proxy.write(witness=witness)
    assert proxy.process is not None
    proxy.process.send_signal(signal.SIGHUP)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
    except ConnectionRefusedError:
        return False
    return True


def workers(proxy: Proxy) -> set[str]:
    assert proxy.process is not None
    pid = proxy.process.pid
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def test_another_port_is_listened_at_and_open_consoles_go_on(proxy: Proxy, screen: Screen) -> None:
    one = Browser(proxy, offer=proxy.offer("s1", screen.port))
    one.open()
    old, before = proxy.ports["tls"], workers(proxy)
    (proxy.ports["tls"],) = free_ports(1)
    reload(proxy, "second")
    wait_until(lambda: proxy.ask({"op": "state"})["witnesses"] == ["second"], 20, "a reload")
    assert proxy.ask({"op": "state"})["workers"] == 2
    # Here as well as before, in both directions.
    one.say(b"\x04\x01\0\0\0\0\0a")
    wait_until(lambda: screen.heard.endswith(b"a"), 10, "a key")
    screen.say(b"\x02")
    assert one.take(1) == b"\x02"
    wait_until(lambda: not accepts(old), 10, "the end of the port before")
    two = Browser(proxy, offer=proxy.offer("s2", screen.port))
    two.open()
    # Management still has a hand on the one that came by the port before.
    assert proxy.ask({"op": "delete", "id": "s1"}) == {"result": "ended"}
    assert one.end() == (1008, "The console was closed: ended by management.")
    two.close()
    assert "its browsers come back" not in proxy.log
    assert len(workers(proxy) - before) == 2


def test_a_port_that_somebody_has_leaves_all_as_it_was(proxy: Proxy, screen: Screen) -> None:
    before = proxy.ports["tls"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        proxy.ports["tls"] = taken.getsockname()[1]
        reload(proxy, "second")
        wait_until(lambda: "Address already in use" in proxy.log, 20, "the reason")
    assert proxy.ask({"op": "state"})["witnesses"] == ["first"]
    proxy.ports["tls"] = before
    with pytest.raises(TurnedAway, match="not valid"):
        Browser(proxy, offer="x" * 43).open()
    # And it can be told again.
    (proxy.ports["tls"],) = free_ports(1)
    reload(proxy, "third")
    wait_until(lambda: proxy.ask({"op": "state"})["witnesses"] == ["third"], 20, "a reload")
    Browser(proxy, offer=proxy.offer("s1", screen.port)).open()


def test_certificates_that_cannot_be_used_at_the_new_port_leave_all_as_it_was(
    proxy: Proxy, screen: Screen
) -> None:
    before = proxy.ports["tls"]
    one = Browser(proxy, offer=proxy.offer("s1", screen.port))
    one.open()
    (proxy.folder / "chain.pem").write_text("nothing")
    (proxy.ports["tls"],) = free_ports(1)
    reload(proxy, "second")
    wait_until(lambda: "what was there before goes on" in proxy.log, 30, "the reason")
    assert proxy.ask({"op": "state"})["witnesses"] == ["first"]
    assert accepts(before)
    wait_until(lambda: not accepts(proxy.ports["tls"]), 10, "no listener")
    screen.say(b"\x02")
    assert one.take(1) == b"\x02"


def test_workers_that_nobody_has_any_more_end(proxy: Proxy, screen: Screen) -> None:
    one = Browser(proxy, offer=proxy.offer("s1", screen.port))
    one.open()
    before = workers(proxy)
    (proxy.ports["tls"],) = free_ports(1)
    reload(proxy, "second")
    wait_until(lambda: proxy.ask({"op": "state"})["witnesses"] == ["second"], 20, "a reload")
    # One of the two before has a console, and the other has a while for who is on the way.
    wait_until(lambda: len(workers(proxy) & before) == 1, 45, "the end of one")
    screen.say(b"\x02")
    assert one.take(1) == b"\x02"
    one.close()
    wait_until(lambda: not workers(proxy) & before, 20, "the end of the other")
