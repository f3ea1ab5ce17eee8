"""websockify's plug-ins in our proxy, and our sessions in websockify."""

import contextlib
import importlib.util
import socket
import struct
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from websockify.websocket import WebSocket

from agent.console import plugins
from agent.console.configuration import Plugin
from agent.console.websocket import client_frame
from appliance.lab.wait import wait_until
from tests.unit.console.rig import (
    KEY,
    ORIGIN,
    Proxy,
    Screen,
    exchange,
    free_ports,
    make,
    own_address,
    running,
)

STOCK = "websockify.token_plugins"
needs_an_address = pytest.mark.skipif(
    not own_address(), reason="the machine has no address but loopback's, which is never a target"
)


@pytest.fixture
def screen() -> Iterator[Screen]:
    one = Screen()
    yield one
    one.close()


def upgrade(path: str, more: str = "") -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: console.example\r\nOrigin: {ORIGIN}\r\n"
        f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {'A' * 22}==\r\n{more}\r\n"
    ).encode()


def answer(proxy: Proxy, request: bytes) -> bytes:
    """The head, and the first bytes of what follows a WebSocket's."""
    with socket.create_connection(("127.0.0.1", proxy.ports["plain"]), 20) as sock:
        sock.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data or (b" 101 " in data and not data.endswith(b"003.008\n")):
            piece = sock.recv(4096)
            if not piece:
                break
            data += piece
        return data


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("JSONTokenApi", "requests"),
        ("BaseTokenAPI", "requests"),
        ("JWTTokenApi", "jwcrypto"),
        ("TokenRedis", "redis"),
    ],
)
def test_a_plug_in_without_what_it_imports_is_refused(name: str, module: str) -> None:
    if importlib.util.find_spec(module):
        pytest.skip(f"{module} is installed here")
    with pytest.raises(plugins.PluginRefused, match=f"needs .*{module}.* not installed"):
        plugins.load(Plugin(f"{STOCK}.{name}", "anything"), "lookup")


@pytest.mark.parametrize(
    ("path", "method", "why"),
    [
        ("no.such.module.Class", "lookup", "No module named"),
        (f"{STOCK}.NoSuch", "lookup", "no class with lookup"),
        (f"{STOCK}.parse_source_args", "lookup", "no class with lookup"),
        ("websockify.auth_plugins.BasicHTTPAuth", "lookup", "no class with lookup"),
        (f"{STOCK}.TokenFileName", "lookup", "cannot be made"),  # its source is no folder
    ],
)
def test_what_is_no_plug_in_is_refused(path: str, method: str, why: str) -> None:
    with pytest.raises(plugins.PluginRefused, match=why):
        plugins.load(Plugin(path, "/nowhere"), method)


@pytest.mark.parametrize("name", ["TokenFile", "ReadOnlyTokenFile"])
def test_websockifys_own_plug_ins_load_unchanged(tmp_path: Path, name: str) -> None:
    file = tmp_path / "tokens"
    file.write_text("abc: 10.2.0.7:5901\n")
    plugin = plugins.load(Plugin(f"{STOCK}.{name}", str(file)), "lookup")
    found = plugins.target(plugin.lookup("abc"))
    assert found is not None
    assert (found.address, found.port) == (ip_address("10.2.0.7"), 5901)
    assert plugins.target(plugin.lookup("other")) is None


def test_a_folder_of_tokens_and_one_of_sockets(tmp_path: Path) -> None:
    (tmp_path / "abc").write_text("10.2.0.7:5901")
    plugin = plugins.load(Plugin(f"{STOCK}.TokenFileName", str(tmp_path)), "lookup")
    found = plugins.target(plugin.lookup("abc"))
    assert found is not None
    assert (found.address, found.port) == (ip_address("10.2.0.7"), 5901)
    path = tmp_path / "vm"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        plugin = plugins.load(Plugin(f"{STOCK}.UnixDomainSocketDirectory", str(tmp_path)), "lookup")
        assert tuple(plugin.lookup("vm")) == ("unix_socket", str(path))
        with pytest.raises(ValueError, match="no hypervisor"):
            plugins.target(plugin.lookup("vm"))


def test_a_plug_in_that_asks_over_http_works_where_requests_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("requests") is None:
        if importlib.util.find_spec("pip._vendor.requests") is None:
            pytest.skip("there is no requests, nor pip's own copy of it")
        (tmp_path / "requests.py").write_text("from pip._vendor.requests import get\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/?token=abc"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(b'{"host": "10.2.0.7", "port": 5901}')

        def log_message(self, *arguments: object) -> None:
            """Nothing is said."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = f"http://127.0.0.1:{server.server_port}/?token=%s"
        plugin = plugins.load(Plugin(f"{STOCK}.JSONTokenApi", source), "lookup")
        found = plugins.target(plugin.lookup("abc"))
        assert found is not None
        assert (found.address, found.port) == (ip_address("10.2.0.7"), 5901)
        assert plugin.lookup("other") is None
        server.shutdown()
    monkeypatch.undo()
    sys.modules.pop("requests", None)


@pytest.mark.parametrize(
    ("name", "source", "right", "wrong"),
    [
        (
            "ExpectOrigin",
            "https://a.example https://b.example",
            {"origin": "https://a.example"},
            {"origin": "https://evil.example"},
        ),
        ("ExpectOrigin", "https://a.example", {"origin": "https://a.example"}, {}),
        ("ClientCertCNAuth", "alice bob", {"SSL_CLIENT_S_DN_CN": "bob"}, {}),
    ],
)
def test_websockifys_own_auth_plug_ins(
    name: str, source: str, right: dict[str, str], wrong: dict[str, str]
) -> None:
    plugin = plugins.load(Plugin(f"websockify.auth_plugins.{name}", source), "authenticate")
    plugins.authenticate(
        plugin, {field.lower(): value for field, value in right.items()}, None, None
    )
    with pytest.raises(plugins.Denied):
        plugins.authenticate(plugin, wrong, None, None)


@pytest.mark.parametrize(
    "found", [("unix_socket", "/run/x"), ["kvm.example", "5900"], ["10.0.0.1", "x"], ["10.0.0.1"]]
)
def test_targets_that_are_none(found: object) -> None:
    with pytest.raises(ValueError, match=r"no hypervisor|IPv4|literal|unpack"):
        plugins.target(found)


def test_an_auth_plug_in_says_with_which_status() -> None:
    plugin = plugins.load(
        Plugin("websockify.auth_plugins.BasicHTTPAuth", "alice:pw"), "authenticate"
    )
    right = {"authorization": "Basic " + b64encode(b"alice:pw").decode()}
    plugins.authenticate(plugin, right, None, None)
    with pytest.raises(plugins.Denied) as denied:
        plugins.authenticate(plugin, {}, None, None)
    assert (denied.value.status, denied.value.challenge) == (401, 'Basic realm="Websockify"')
    with pytest.raises(plugins.Denied) as denied:
        plugins.authenticate(plugin, {"authorization": "Bearer x"}, None, None)
    assert denied.value.status == 403


@needs_an_address
def test_a_token_plug_in_serves_beside_the_sessions(tmp_path: Path, screen: Screen) -> None:
    tokens = tmp_path / "tokens"
    good, own = f"{own_address()}:{screen.port}", f"127.0.0.1:{screen.port}"
    tokens.write_text(f"good: {good}\nself: {own}\nname: localhost:5900\n")
    plugin = {"class": f"{STOCK}.TokenFile", "source": str(tokens)}
    with running(make(tmp_path, "plain", token_plugin=plugin)) as proxy:
        assert b"RFB 003.008" in answer(proxy, upgrade("/socket?token=good"))
        assert answer(proxy, upgrade("/socket?token=bad")).startswith(b"HTTP/1.1 403")
        assert answer(proxy, upgrade("/socket?token=name")).startswith(b"HTTP/1.1 403")
        greeted = upgrade("/socket?token=self") + client_frame(b"RFB 003.008\n", b"mask")
        assert b"not valid" in exchange(proxy, "plain", greeted)  # as any secret, in RFB
        wait_until(
            lambda: "target is refused: 127.0.0.1 is a loopback" in proxy.log, 10, "a refusal"
        )
        assert screen.connections == 0
        # What was pushed goes on beside it.
        with_secret = proxy.offer("s1", screen.port)
        assert b"RFB 003.008" in answer(
            proxy, upgrade("/socket", f"Sec-WebSocket-Protocol: binary, secret.{with_secret}\r\n")
        )
        for word in ("good", "bad"):
            assert word not in proxy.log


@needs_an_address
def test_an_auth_plug_in_is_asked_before_there_is_a_websocket(
    tmp_path: Path, screen: Screen
) -> None:
    plugin = {"class": "websockify.auth_plugins.BasicHTTPAuth", "source": "alice:pw"}
    with running(make(tmp_path, "plain", auth_plugin=plugin)) as proxy:
        denied = answer(proxy, upgrade("/socket"))
        assert denied.startswith(b"HTTP/1.1 401")
        assert b'WWW-Authenticate: Basic realm="Websockify"' in denied
        credentials = b64encode(b"alice:pw").decode()
        assert b"101 Switching" in exchange(
            proxy,
            "plain",
            upgrade("/socket", f"Authorization: Basic {credentials}\r\n") + b"\x88\x80\0\0\0\0",
        )


def test_a_proxy_with_a_plug_in_that_cannot_work_does_not_start(tmp_path: Path) -> None:
    if importlib.util.find_spec("redis"):
        pytest.skip("redis is installed here")
    proxy = make(tmp_path, "plain", token_plugin={"class": f"{STOCK}.TokenRedis", "source": "x"})
    try:
        proxy.start()
        assert proxy.process is not None
        assert proxy.process.wait(20) == 1
        why = "a worker cannot begin: websockify.token_plugins.TokenRedis needs"
        assert why in proxy.log
    finally:
        with contextlib.suppress(ProcessLookupError):
            proxy.stop()


@needs_an_address
def test_our_sessions_open_under_the_stock_websockify(tmp_path: Path, screen: Screen) -> None:
    (port,) = free_ports(1)
    with running(make(tmp_path, "plain")) as proxy:
        secret = proxy.offer("s1", screen.port)
        stock = subprocess.Popen(
            (
                *(str(Path(sys.executable).with_name("websockify")), f"127.0.0.1:{port}"),
                *("--token-plugin", "agent.console.session_plugin.SessionToken"),
                *("--token-source", str(proxy.control)),
            ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:

            def answers() -> bool:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
                    return True
                return False

            wait_until(answers, 30, "websockify")

            def ask(then: bytes, until: bytes) -> bytes:
                with socket.create_connection(("127.0.0.1", port), 20) as sock:
                    sock.sendall(upgrade(f"/?token={secret}"))
                    data = b""
                    with contextlib.suppress(ConnectionResetError):
                        while b"003.008\n" not in data and (piece := sock.recv(4096)):
                            data += piece
                        if b"003.008\n" in data:
                            sock.sendall(then)
                            while until not in data and (piece := sock.recv(4096)):
                                data += piece
                            wait_until(lambda: screen.heard == KEY, 10, "a key at the screen")
                    return data

            # The client does RFB itself there: through it, and a key to the screen behind it.
            client = b"".join(
                client_frame(said, b"mask") for said in (b"RFB 003.008\n", b"\x01", b"\x01", KEY)
            )
            assert b"QEMU" in ask(client, b"QEMU")
            assert proxy.session("s1") is None
            assert "opened through another proxy" in proxy.log
            assert b"RFB" not in ask(client, b"QEMU")
        finally:
            stock.terminate()
            stock.wait(20)


def test_the_class_of_websockify_is_driven_without_a_socket() -> None:
    from agent.console.websocket import Protocol

    assert issubclass(Protocol, WebSocket)
    protocol = Protocol()
    opening = {"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version": "13"}
    answer_ = protocol.answer(opening, binary=True)
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer_  # RFC 6455, section 1.3
    assert b"Sec-WebSocket-Protocol: binary" in answer_
    assert b"Protocol" not in Protocol().answer(opening, binary=False).replace(b"Protocols", b"")
    assert protocol.pinging() == b"\x89\x00"
    assert protocol.ponging(b"a") == b"\x8a\x01a"
    assert protocol.closing(1012, "later") == b"\x88\x07" + struct.pack(">H", 1012) + b"later"
    assert protocol.closing(1000, "") == b""
