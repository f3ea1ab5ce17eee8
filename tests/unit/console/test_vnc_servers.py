"""What hypervisors ask of the proxy, and what the user reads of one that cannot be had."""

import os
import socket
from pathlib import Path

import pytest

from appliance.lab.pki import Authority
from appliance.lab.wait import wait_until
from tests.unit.console.rig import (
    CHALLENGE,
    KEY,
    Browser,
    Proxy,
    Screen,
    TurnedAway,
    own_address,
    tls_context,
    with_password,
    with_vencrypt,
)


def test_a_vnc_password_is_given_by_the_proxy(proxy: Proxy, name: str) -> None:
    screen = Screen(with_password("secret"))
    offered = proxy.offer(name, screen.port, credentials={"password": "secret"})
    assert Browser(proxy, offer=offered).open() == "web 1"


def test_a_wrong_vnc_password_is_told(proxy: Proxy, name: str) -> None:
    screen = Screen(with_password("secret"))
    offered = proxy.offer(name, screen.port, credentials={"password": "other"})
    with pytest.raises(TurnedAway, match="refused the VNC credentials: Authentication failure"):
        Browser(proxy, offer=offered).open()
    wait_until(lambda: proxy.session(name) is None, 10, "the end")


def test_nobody_at_the_hypervisor_is_told(proxy: Proxy, name: str) -> None:
    with socket.create_server((own_address(), 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(TurnedAway, match="cannot be reached: Connection refused"):
        Browser(proxy, offer=proxy.offer(name, port)).open()


@pytest.mark.parametrize("kind", [260, 261, 262])
def test_vencrypt_with_a_client_certificate(
    proxy: Proxy, name: str, kind: int, tmp_path: Path
) -> None:
    ca = Authority.create("hypervisors")
    server = ca.issue("kvm7.example", addresses=[own_address()])
    client = ca.issue("console-proxy")
    context = tls_context(server, tmp_path, ca=ca.identity.certificate)
    screen = Screen(with_vencrypt(kind, context))
    credentials = {
        "username": "alice" if kind == 262 else "",
        "password": "" if kind == 260 else "secret",
        "ca": ca.identity.certificate,
        "certificate": client.certificate,
        "key": client.key,
    }
    browser = Browser(proxy, offer=proxy.offer(name, screen.port, credentials=credentials))
    assert browser.open() == "web 1"
    browser.say(KEY)
    wait_until(lambda: screen.heard == KEY, 10, "a key at the screen")
    data = os.urandom(1 << 20)
    screen.say(data)
    assert browser.take(len(data)) == data
    browser.close()


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("another CA", "certificate is not believed"),
        ("another name", "certificate is not believed: it is for another name"),
        ("another address", "certificate is not believed: it is for another name"),
        ("no CA", "no CA to know it by"),
        ("no client certificate", "TLS with the hypervisor failed|closed the connection"),
    ],
)
def test_a_hypervisor_that_cannot_be_believed(
    proxy: Proxy, name: str, tmp_path: Path, case: str, why: str
) -> None:
    ca, other = Authority.create("hypervisors"), Authority.create("others")
    address = "192.0.2.9" if case == "another address" else own_address()
    server = ca.issue("kvm7.example", addresses=[address])
    client = ca.issue("console-proxy")
    screen = Screen(with_vencrypt(260, tls_context(server, tmp_path, ca.identity.certificate)))
    credentials = {"ca": ca.identity.certificate}
    credentials |= {"certificate": client.certificate, "key": client.key}
    if case == "another CA":
        credentials["ca"] = other.identity.certificate
    if case == "no CA":
        credentials = {}
    if case == "no client certificate":
        credentials = {"ca": ca.identity.certificate}
    target = {"name": "kvm8.example"} if case == "another name" else {}
    offered = proxy.offer(name, screen.port, credentials=credentials, target=target)
    with pytest.raises(TurnedAway, match=why) as told:
        Browser(proxy, offer=offered).open()
    assert screen.heard == b""
    for word in (own_address(), "kvm8.example"):
        assert word not in str(told.value)  # where the hypervisor is, is none of the user's affair
    if case == "another name":
        assert "not valid for 'kvm8.example'" in proxy.log


def test_a_hypervisor_that_closes_ends_the_console(proxy: Proxy, screen: Screen, name: str) -> None:
    browser = Browser(proxy, offer=proxy.offer(name, screen.port))
    browser.open()
    wait_until(lambda: screen.sockets, 10, "the screen")
    screen.close()
    assert browser.end() == (1011, "The hypervisor closed the console.")
    wait_until(lambda: proxy.session(name) is None, 10, "the end")


@pytest.mark.parametrize("step", range(6))
def test_a_hypervisor_that_breaks_off_is_told(proxy: Proxy, name: str, step: int) -> None:
    said = (b"RFB 003", b".008\n", b"\x01", b"\x02", CHALLENGE[:9], CHALLENGE[9:])

    def talk(_: Screen, sock: socket.socket) -> None:
        for piece in said[: step + 1]:
            sock.sendall(piece)

    screen = Screen(talk)
    offered = proxy.offer(name, screen.port, credentials={"password": "secret"})
    with pytest.raises(TurnedAway, match=r"The hypervisor closed the connection: [a-zA-Z ]+\.$"):
        Browser(proxy, offer=offered).open()
    wait_until(lambda: proxy.session(name) is None, 10, "the end")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "What answers at the hypervisor is no VNC server"),
        (b"\x03\x00\x00\x13\x0e\xd0" + bytes(13), "What answers at the hypervisor is no VNC"),
        (b"RFB 003.008\n\x00\x00\x00\x00\x0fToo many people", "refuses: Too many people"),
        (b"RFB 003.008\n\x01\x05", "cannot do what the hypervisor offers: RA2"),
    ],
)
def test_what_is_no_screen_is_told(proxy: Proxy, name: str, answer: bytes, why: str) -> None:
    def talk(_: Screen, sock: socket.socket) -> None:
        sock.sendall(answer)
        while sock.recv(4096):
            pass

    screen = Screen(talk)
    with pytest.raises(TurnedAway, match=why):
        Browser(proxy, offer=proxy.offer(name, screen.port)).open()
