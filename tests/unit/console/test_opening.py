"""From a secret to a screen and back, in the proxy's own processes, with real TLS."""

import os
import struct
from pathlib import Path

import pytest

from appliance.lab.wait import wait_until
from tests.unit.console.rig import (
    KEY,
    ORIGIN,
    PICTURE,
    UPDATE,
    Browser,
    Proxy,
    Screen,
    TurnedAway,
    exchange,
    get,
    own_address,
    resume,
    secret,
)


@pytest.mark.parametrize("service", ["tls", "plain"])
def test_a_secret_opens_a_screen(proxy: Proxy, screen: Screen, name: str, service: str) -> None:
    browser = Browser(proxy, service, offer=proxy.offer(name, screen.port))
    assert browser.web.protocol == "binary"
    assert browser.open() == "web 1"
    browser.say(UPDATE + KEY)
    wait_until(lambda: screen.heard == UPDATE + KEY, 10, "keys at the screen")
    screen.say(PICTURE)
    assert browser.take(len(PICTURE)) == PICTURE
    assert proxy.ask({"op": "get", "id": name})["session"]["state"] == "open"
    browser.close()
    wait_until(lambda: proxy.session(name) is None, 10, "the end")
    assert f"session {name}: alice opens the console of i-{name} from 127.0.0.1" in proxy.log
    said = f"{len(UPDATE + KEY)} bytes to it and {len(PICTURE)} from it: closed by the user"
    wait_until(lambda: said in proxy.log, 10, "the record")


def test_a_secret_may_come_in_the_first_message(proxy: Proxy, screen: Screen, name: str) -> None:
    browser = Browser(proxy)
    browser.say(f"secret.{proxy.offer(name, screen.port)} {resume('later')}\n".encode())
    assert browser.open() == "web 1"
    browser.close()


def test_many_mebibytes_pass_whole(proxy: Proxy, screen: Screen, name: str) -> None:
    browser = Browser(proxy, offer=proxy.offer(name, screen.port))
    browser.open()
    data = os.urandom(1 << 20) * 8
    import threading

    threading.Thread(target=screen.say, args=(data,), daemon=True).start()
    assert browser.take(len(data)) == data
    paste = struct.pack(">Bxxxi", 6, 1 << 20) + os.urandom(1 << 20)
    browser.say(paste)
    wait_until(lambda: len(screen.heard) == len(paste), 20, "a paste")
    assert screen.heard == paste
    browser.close()


@pytest.mark.parametrize("why", ["wrong", "used", "expired", "revoked"])
def test_a_secret_that_opens_nothing_says_so(
    proxy: Proxy, screen: Screen, name: str, why: str
) -> None:
    offered = proxy.offer(name, screen.port, valid=0.0 if why == "expired" else 60.0)
    if why == "wrong":
        offered = secret("another")
    if why == "used":
        Browser(proxy, offer=offered).open()
    if why == "revoked":
        assert proxy.ask({"op": "delete", "id": name}) == {"result": "ended"}
    browser = Browser(proxy, offer=offered)
    with pytest.raises(TurnedAway, match="not valid"):
        browser.open()
    assert browser.end()[0] == 1008


def test_no_secret_is_ever_in_the_log(proxy: Proxy, screen: Screen, name: str) -> None:
    offered = proxy.offer(name, screen.port, credentials={"password": "hidden-password"})
    Browser(proxy, offer=offered, back=secret("come back")).open()
    with pytest.raises(TurnedAway):
        Browser(proxy, offer=offered).open()
    exchange(proxy, "tls", b"GET /socket?token=%b HTTP/1.1\r\n\r\n" % offered.encode())
    for word in (offered, "hidden-password", secret("come back")):
        assert word not in proxy.log
    assert proxy.process is not None
    command = Path(f"/proc/{proxy.process.pid}/cmdline").read_bytes()
    assert offered.encode() not in command


def test_a_session_bound_to_an_address(proxy: Proxy, screen: Screen, name: str) -> None:
    offered = proxy.offer(name, screen.port, policy={"source": "127.0.0.9/32"})
    with pytest.raises(TurnedAway, match="not valid"):
        Browser(proxy, offer=offered).open()
    assert Browser(proxy, offer=offered, source="127.0.0.9").open() == "web 1"


@pytest.mark.parametrize(
    ("origin", "host", "path", "status"),
    [
        ("https://evil.example", "console.example", "/socket", "403"),
        ("http://console.example", "console.example", "/socket", "403"),
        ("https://console.example:8443", "console.example", "/socket", "403"),
        (None, "console.example", "/socket", "403"),
        (ORIGIN, "evil.example", "/socket", "421"),
        (ORIGIN, "console.example", "/other", "404"),
    ],
)
def test_what_does_not_get_a_websocket(
    proxy: Proxy, origin: str | None, host: str, path: str, status: str
) -> None:
    with pytest.raises(Exception, match=f"denied: {status}"):
        Browser(proxy, origin=origin, host=host, path=path)


def test_a_secret_in_an_address_is_refused(proxy: Proxy, name: str) -> None:
    upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += f"Origin: {ORIGIN}\r\nSec-WebSocket-Key: {'A' * 22}==\r\n"
    request = get(f"/socket?token={secret(name)}", upgrade)
    request = request.replace(b"Connection: close", b"Connection: Upgrade")
    answer = exchange(proxy, "tls", request)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"does not belong into an address" in answer


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ({"address": "127.0.0.1"}, "loopback"),
        ({"address": "169.254.169.254"}, "link-local"),
        ({"port": 22}, "port 22"),
    ],
)
def test_a_target_that_is_not_allowed_is_refused(
    proxy: Proxy, name: str, target: dict[str, object], why: str
) -> None:
    value = {"id": name, "secret_sha256": "00" * 32, "vm": "v", "user": "u"}
    value |= {"target": {"kind": "vnc", "address": own_address(), "port": 5900} | target}  # type: ignore[dict-item]
    answer = proxy.ask({"op": "put", "session": value})
    assert answer["error"] == "refused"
    assert why in answer["detail"]
    assert proxy.session(name) is None


@pytest.mark.parametrize("message", [{"op": "put", "session": {}}, {"op": "nonsense"}, {}])
def test_the_keeper_answers_what_it_does_not_understand(
    proxy: Proxy, message: dict[str, object]
) -> None:
    assert proxy.ask(message)["error"] == "malformed"
