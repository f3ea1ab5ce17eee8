"""What a session may do, held to by the proxy whatever the browser says, and how it ends."""

import json
import socket
import struct
import threading
import time

import pytest

from appliance.lab.wait import wait_until
from tests.unit.console.rig import (
    KEY,
    PICTURE,
    UPDATE,
    Browser,
    Proxy,
    Screen,
    digest,
    own_address,
    plain,
    secret,
)


def test_view_only_lets_no_key_through(proxy: Proxy, screen: Screen, name: str) -> None:
    browser = Browser(proxy, offer=proxy.offer(name, screen.port, policy={"view_only": True}))
    browser.open()
    browser.say(KEY + UPDATE + struct.pack(">BBHH", 5, 1, 1, 1) + KEY)
    browser.say(UPDATE)
    wait_until(lambda: len(screen.heard) >= 2 * len(UPDATE), 10, "requests")
    assert screen.heard == UPDATE + UPDATE
    browser.close()


def test_the_guests_clipboard_stays_with_it(proxy: Proxy, screen: Screen, name: str) -> None:
    policy = {"clipboard": "to-guest"}
    browser = Browser(proxy, offer=proxy.offer(name, screen.port, policy=policy))
    browser.open()
    wait_until(lambda: screen.sockets, 10, "the screen")
    screen.say(PICTURE + struct.pack(">Bxxxi", 3, 6) + b"hidden" + PICTURE)
    assert browser.take(2 * len(PICTURE)) == PICTURE * 2
    paste = struct.pack(">Bxxxi", 6, 4) + b"text"
    browser.say(paste)
    wait_until(lambda: screen.heard == paste, 10, "a paste")
    browser.close()


def test_an_idle_session_ends_and_a_used_one_does_not(
    proxy: Proxy, screen: Screen, name: str
) -> None:
    idle = Browser(proxy, offer=proxy.offer(name, screen.port, policy={"idle": 4.0}))
    used = Browser(proxy, offer=proxy.offer(f"{name}2", screen.port, policy={"idle": 4.0}))
    idle.open()
    used.open()
    begun = time.monotonic()

    def typing() -> bool:
        used.say(KEY)
        return proxy.session(name) is None

    wait_until(typing, 60, "the idle one's end", every=0.2)
    assert time.monotonic() - begun >= 3.9
    assert idle.end() == (1008, "The console was closed after 4 s without use.")
    assert proxy.session(f"{name}2") is not None
    used.close()


def test_a_session_ends_when_its_time_is_over(proxy: Proxy, screen: Screen, name: str) -> None:
    browser = Browser(proxy, offer=proxy.offer(name, screen.port, policy={"lifetime": 1.5}))
    browser.open()
    assert browser.end() == (1008, "The console was open for as long as it may be.")
    wait_until(lambda: proxy.session(name) is None, 10, "the end")


def test_management_throws_a_user_out(proxy: Proxy, screen: Screen, name: str) -> None:
    browser = Browser(proxy, offer=proxy.offer(name, screen.port))
    browser.open()
    assert proxy.ask({"op": "delete", "id": name}) == {"result": "ended"}
    code, reason = browser.end()
    assert code == 1008
    assert "ended by management" in reason
    wait_until(lambda: screen.open == 0, 10, "the screen's end")


def test_several_see_one_screen(proxy: Proxy, screen: Screen, name: str) -> None:
    first = Browser(proxy, offer=proxy.offer(name, screen.port))
    second = Browser(proxy, offer=proxy.offer(f"{name}2", screen.port))
    first.open()
    second.open()
    wait_until(lambda: screen.open == 2, 10, "two")
    second.close()
    wait_until(lambda: screen.open == 1, 10, "one")
    first.say(KEY)
    wait_until(lambda: screen.heard == KEY, 10, "a key")
    first.close()


def text(words: bytes) -> bytes:
    return struct.pack(">Bxxxi", 6, len(words)) + words


EXTENDED = struct.pack(">BxxxiI", 6, -4, 1 << 27)  # the extended clipboard: give me yours
ACTS = {
    "a key": KEY,
    "a key by its number": struct.pack(">BBHII", 255, 0, 1, 0x61, 30),
    "the pointer": struct.pack(">BBHH", 5, 1, 1, 1),
    "another size": struct.pack(">BxHHBxIHHHHI", 251, 8, 6, 1, 0, 0, 0, 8, 6, 0),
    "power": struct.pack(">BxBB", 250, 1, 4),
    "an input device": struct.pack(">BBH", 253, 0x80, 4) + bytes(4),
}
PASTES = {"a text": text(b"pasted"), "an extended one": EXTENDED}
EVERYTHING = ACTS | PASTES


def sent(proxy: Proxy, screen: Screen, name: str, policy: dict[str, object]) -> set[str]:
    """Which of a client's messages get past this policy, whatever page it is that says them."""
    passed = set()
    browser = Browser(proxy, "plain", offer=proxy.offer(name, screen.port, policy=policy))
    browser.open()
    for what, message in EVERYTHING.items():
        browser.say(message + UPDATE)
        wait_until(lambda: screen.heard.endswith(UPDATE), 10, what)
        if screen.heard != UPDATE:
            assert screen.heard == message + UPDATE, what
            passed.add(what)
        screen.heard = b""
    browser.close()
    return passed


@pytest.mark.parametrize(
    ("policy", "passed"),
    [
        ({}, set(EVERYTHING)),
        ({"view_only": True}, set()),
        ({"view_only": True, "clipboard": "none"}, set()),
        ({"clipboard": "none"}, set(ACTS)),
        ({"clipboard": "from-guest"}, set(ACTS)),
        ({"clipboard": "to-guest"}, set(EVERYTHING)),
    ],
)
def test_crafted_messages_do_not_get_past_a_policy(
    proxy: Proxy, screen: Screen, name: str, policy: dict[str, object], passed: set[str]
) -> None:
    assert sent(proxy, screen, name, policy) == passed


@pytest.mark.parametrize(("way", "comes"), [("both", True), ("from-guest", True), ("none", False)])
def test_the_guests_text_comes_where_it_may(
    proxy: Proxy, screen: Screen, name: str, way: str, comes: bool
) -> None:
    browser = Browser(proxy, offer=proxy.offer(name, screen.port, policy={"clipboard": way}))
    browser.open()
    wait_until(lambda: screen.sockets, 10, "the screen")
    said = struct.pack(">Bxxxi", 3, 6) + b"copied"
    screen.say(said + PICTURE)
    expected = said + PICTURE if comes else PICTURE
    assert browser.take(len(expected)) == expected
    browser.close()


def test_each_viewer_of_a_vm_has_a_policy_of_its_own(
    proxy: Proxy, screen: Screen, name: str
) -> None:
    viewer = Browser(proxy, offer=proxy.offer(name, screen.port, policy={"view_only": True}))
    user = Browser(proxy, offer=proxy.offer(f"{name}2", screen.port))
    viewer.open()
    user.open()
    viewer.say(KEY + UPDATE)
    wait_until(lambda: screen.heard == UPDATE, 10, "a request")
    user.say(KEY)
    wait_until(lambda: screen.heard == UPDATE + KEY, 10, "a key")
    for browser in (viewer, user):
        browser.close()


def test_a_page_that_asks_is_told_its_policy_and_no_other_client_is(
    proxy: Proxy, screen: Screen, name: str
) -> None:
    policy = {"view_only": True, "clipboard": "from-guest", "keyboard": "de"}
    browser = Browser(proxy, "plain")
    offered = proxy.offer(name, screen.port, policy=policy)
    browser.say(f"secret.{offered} policy\n".encode())
    assert browser.take(12) == b"RFB 003.008\n"
    browser.say(b"RFB 003.008\n\x01\x01")
    told = json.dumps(
        {"view_only": True, "to_guest": False, "from_guest": True, "keyboard": "de"}
    ).encode()
    raw = bytes(browser.web._recv_buffer)  # noqa: SLF001 - the rig's class would refuse a text
    while told not in raw:
        raw += browser.sock.recv(4096)
    assert b"\x81" + bytes((len(told),)) + told in raw
    browser.close()
    other = Browser(proxy, offer=proxy.offer(f"{name}2", screen.port, policy=policy))
    assert other.open() == "web 1"
    other.close()


def test_a_vm_that_moves_takes_its_browser_along(proxy: Proxy, screen: Screen, name: str) -> None:
    elsewhere = Screen()
    offered = proxy.offer(name, screen.port)
    browser = Browser(proxy, offer=offered, back=secret("moved"))
    browser.open()
    value = {"id": name, "secret_sha256": digest(offered).hex(), "vm": f"i-{name}", "user": "alice"}
    target = {"kind": "vnc", "address": own_address(), "port": elsewhere.port}
    put = {"op": "put", "session": value | {"title": "web 1", "target": target}}
    assert proxy.ask(put) == {"result": "moved"}
    assert proxy.ask(put) == {"result": "unchanged"}
    assert browser.end() == (1012, "The VM has moved.")
    wait_until(lambda: screen.open == 0, 10, "the old screen's end")
    again = Browser(proxy, offer=secret("moved"))
    assert again.open() == "web 1"
    again.say(KEY)
    wait_until(lambda: elsewhere.heard == KEY, 10, "a key where it is now")
    assert screen.heard == b""
    outside = put | {"session": value | {"title": "web 1", "target": target | {"port": 22}}}
    assert proxy.ask(outside)["error"] == "refused"
    again.close()
    elsewhere.close()


def test_a_session_that_is_ended_while_it_opens_shows_nothing(proxy: Proxy, name: str) -> None:
    go = threading.Event()

    def slow(screen: Screen, sock: socket.socket) -> None:
        go.wait(20)
        plain(screen, sock)

    hypervisor = Screen(slow)
    browser = Browser(proxy, "plain", offer=proxy.offer(name, hypervisor.port))
    browser.say(b"RFB 003.008\n\x01\x01")  # all that a browser says of itself
    wait_until(lambda: hypervisor.open == 1, 10, "the hypervisor")
    assert proxy.ask({"op": "delete", "id": name}) == {"result": "ended"}
    go.set()
    code, reason = browser.end()
    assert (code, "ended by management" in reason) == (1008, True)
    wait_until(lambda: hypervisor.open == 0, 10, "the hypervisor's end")
    assert hypervisor.heard == b""
    hypervisor.close()
