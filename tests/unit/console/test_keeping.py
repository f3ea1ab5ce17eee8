"""Sessions outlive lost browsers, other certificates, drains and killed workers."""

import os
import signal
import socket
import ssl
from pathlib import Path

import pytest

from appliance.lab.wait import wait_until
from tests.unit.console.rig import (
    KEY,
    PICTURE,
    Browser,
    Proxy,
    Screen,
    TurnedAway,
    make,
    running,
    secret,
)


def test_a_lost_browser_comes_back(proxy: Proxy, screen: Screen, name: str) -> None:
    browser = Browser(proxy, offer=proxy.offer(name, screen.port), back=secret("back"))
    browser.open()
    browser.sock.close()

    def state() -> object:
        found = proxy.session(name)
        return found and found["state"]

    wait_until(lambda: state() == "waiting", 10, "a wait")
    again = Browser(proxy, offer=secret("back"), back=secret("once more"))
    assert again.open() == "web 1"
    found = proxy.session(name)
    assert found is not None
    assert (found["state"], found["connections"]) == ("open", 2)
    # It comes back another time before anybody saw that it was away.
    third = Browser(proxy, offer=secret("once more"))
    assert third.open() == "web 1"
    assert again.end()[0] == 1000
    third.say(KEY)
    wait_until(lambda: screen.heard.endswith(KEY), 10, "a key")
    third.close()


def test_certificates_change_and_sessions_stay(tmp_path: Path, screen: Screen) -> None:
    with running(make(tmp_path, "tls", "status")) as proxy:
        browser = Browser(proxy, offer=proxy.offer("s1", screen.port))
        browser.open()
        old = serial(proxy)

        def reloaded(witness: str) -> None:
            proxy.write(witness=witness)
            assert proxy.process is not None
            proxy.process.send_signal(signal.SIGHUP)

        proxy.certify()
        reloaded("second")
        wait_until(lambda: proxy.ask({"op": "state"})["witnesses"] == ["second"], 10, "a reload")
        new = serial(proxy)
        assert new != old
        # A key that is another's changes nothing, and is said.
        (tmp_path / "key.pem").write_text(proxy.authority.issue("other").key)
        reloaded("third")
        wait_until(lambda: "what was there before goes on" in proxy.log, 10, "a complaint")
        assert serial(proxy) == new
        assert proxy.ask({"op": "state"})["witnesses"] == ["second"]
        browser.say(KEY)
        wait_until(lambda: screen.heard == KEY, 10, "a key")
        screen.say(PICTURE)
        assert browser.take(len(PICTURE)) == PICTURE


def serial(proxy: Proxy) -> object:
    context = ssl.create_default_context(cadata=proxy.authority.identity.certificate)
    with (
        socket.create_connection(("127.0.0.1", proxy.ports["tls"]), 10) as sock,
        context.wrap_socket(sock, server_hostname="console.example") as tls,
    ):
        return (tls.getpeercert() or {})["serialNumber"]


def test_a_drain_lets_sessions_go_on_and_then_sends_them_away(
    tmp_path: Path, screen: Screen
) -> None:
    with running(make(tmp_path, "plain")) as proxy:
        offered = proxy.offer("s1", screen.port)
        browser = Browser(proxy, "plain", offer=offered, back=secret("back"))
        browser.open()
        waiting = proxy.offer("s2", screen.port)
        assert proxy.ask({"op": "drain", "within": 1.0})["draining"] is True
        with pytest.raises(TurnedAway):
            Browser(proxy, "plain", offer=waiting).open()
        browser.say(KEY)
        wait_until(lambda: screen.heard == KEY, 10, "a key")
        assert browser.end() == (1012, "This console proxy is being replaced.")
        again = Browser(proxy, "plain", offer=secret("back"))
        assert again.open() == "web 1"


def test_a_stop_sends_everybody_away_with_1012(tmp_path: Path, screen: Screen) -> None:
    proxy = make(tmp_path, "plain").start()
    browser = Browser(proxy, "plain", offer=proxy.offer("s1", screen.port))
    browser.open()
    proxy.stop()
    assert browser.end() == (1012, "This console proxy is restarting.")
    assert proxy.process is not None
    assert proxy.process.returncode == 0


def test_a_killed_worker_is_replaced_and_its_browsers_come_back(
    tmp_path: Path, screen: Screen
) -> None:
    proxy = make(tmp_path, "tls")
    proxy.workers = 2
    with running(proxy):
        browser = Browser(proxy, offer=proxy.offer("s1", screen.port), back=secret("back"))
        browser.open()
        assert proxy.process is not None
        task = Path(f"/proc/{proxy.process.pid}/task/{proxy.process.pid}/children")
        for pid in task.read_text().split():
            os.kill(int(pid), signal.SIGKILL)

        def back() -> bool:
            try:
                return Browser(proxy, offer=secret("back")).open() == "web 1"
            except (OSError, EOFError):
                return False

        wait_until(back, 30, "a way back")
        assert "its browsers come back to another" in proxy.log


def test_watching_the_keeper_tells_every_change(proxy: Proxy, screen: Screen, name: str) -> None:
    import json

    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(proxy.control))
        sock.sendall(b'{"op":"watch"}\n')
        lines = sock.makefile()
        assert "sessions" in json.loads(lines.readline())
        browser = Browser(proxy, "plain", offer=proxy.offer(name, screen.port))
        browser.open()

        def told(state: str, where: str) -> bool:
            report = json.loads(lines.readline())
            return any(row["id"] == name and row["state"] == state for row in report[where])

        wait_until(lambda: told("open", "sessions"), 10, "an opening")
        browser.close()
        wait_until(lambda: told("ended", "ended"), 10, "an end")
