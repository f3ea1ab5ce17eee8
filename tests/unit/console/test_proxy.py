"""The proxy as a whole, in its own processes, with real TLS: from a secret to a screen and back."""

import os
import signal
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.lab.pki import Authority
from appliance.lab.wait import wait_until
from tests.unit.console.rig import (
    ORIGIN,
    Browser,
    Proxy,
    Screen,
    TurnedAway,
    exchange,
    make,
    own_address,
    resume,
    running,
    secret,
    tls_context,
    with_password,
    with_vencrypt,
)

pytestmark = pytest.mark.skipif(
    not own_address(), reason="the machine has no address but loopback's, which is never a target"
)

KEY = struct.pack(">BBxxI", 4, 1, 0x61)
UPDATE = struct.pack(">BBHHHH", 3, 1, 0, 0, 8, 6)
PICTURE = struct.pack(">BxHHHHHi", 0, 1, 0, 0, 2, 1, 0) + bytes(8)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running(make(tmp_path_factory.mktemp("proxy"), "tls", "plain", "redirect", "status")) as p:
        yield p


@pytest.fixture
def screen() -> Iterator[Screen]:
    one = Screen()
    yield one
    one.close()


def name_of(request: pytest.FixtureRequest) -> str:
    return str(request.node.name).replace("[", "-").replace("]", "")[:60]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A session's id of the test's own."""
    return name_of(request)


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


# -- hypervisors -------------------------------------------------------------------------------


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
        ("another name", "certificate is not believed"),
        ("no CA", "no CA to know it by"),
        ("no client certificate", "TLS with the hypervisor failed|closed the connection"),
    ],
)
def test_a_hypervisor_that_cannot_be_believed(
    proxy: Proxy, name: str, tmp_path: Path, case: str, why: str
) -> None:
    ca, other = Authority.create("hypervisors"), Authority.create("others")
    server = ca.issue("kvm7.example", addresses=[own_address()])
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
    with pytest.raises(TurnedAway, match=why):
        Browser(proxy, offer=offered).open()
    assert screen.heard == b""


def test_a_hypervisor_that_closes_ends_the_console(proxy: Proxy, screen: Screen, name: str) -> None:
    browser = Browser(proxy, offer=proxy.offer(name, screen.port))
    browser.open()
    wait_until(lambda: screen.sockets, 10, "the screen")
    screen.close()
    assert browser.end() == (1011, "The hypervisor closed the console.")
    wait_until(lambda: proxy.session(name) is None, 10, "the end")


# -- policy ------------------------------------------------------------------------------------


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


# -- the page ----------------------------------------------------------------------------------


def get(path: str, more: str = "", host: str = "console.example") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n".encode()


def test_the_page_and_what_it_may_do(proxy: Proxy) -> None:
    answer = exchange(proxy, "tls", get("/"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    for line in (
        b"Content-Type: text/html; charset=utf-8",
        b"Referrer-Policy: no-referrer",
        b"Cache-Control: no-store",
        b"X-Content-Type-Options: nosniff",
        b"Strict-Transport-Security: max-age=31536000",
        b"frame-ancestors 'none'",
    ):
        assert line in head
    assert b"console.js" in body
    script = exchange(proxy, "tls", get("/novnc/core/rfb.js"))
    assert b"text/javascript" in script
    etag = next(line for line in script.split(b"\r\n") if line.startswith(b"ETag: "))[6:]
    again = get("/novnc/core/rfb.js", f"If-None-Match: {etag.decode()}\r\n")
    assert exchange(proxy, "tls", again).startswith(b"HTTP/1.1 304")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/../../etc/passwd"), b"404"),
        (get("/novnc/../key.pem"), b"404"),
        (get("/novnc/core"), b"404"),
        (get("/%2e%2e/"), b"404"),
        (get("/", host="evil.example"), b"421"),
        (get("/", "X: a\r\nHost: console.example\r\n"), b"400"),
        (get("/", "X : a\r\n"), b"400"),
        (get("/", "X: a\r\n folded\r\n"), b"400"),
        (get("/", "X: a\nY: b\r\n"), b"400"),
        (get("/", "X: a\rb\r\n"), b"400"),
        (get("/", "Content-Length: 5\r\n"), b"400"),
        (get("/", "Transfer-Encoding: chunked\r\n"), b"400"),
        (get("/", "X: " + "a" * 9000 + "\r\n"), b"431"),
        (get("/", "X: a\r\n" * 100), b"431"),
        (get("/").replace(b"GET", b"POST"), b"405"),
        (get("/").replace(b"HTTP/1.1", b"HTTP/2.0"), b"400"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
    ],
)
def test_requests_that_are_refused(proxy: Proxy, request_: bytes, status: bytes) -> None:
    assert exchange(proxy, "plain", request_).split(b" ")[1] == status


def test_a_browser_without_tls_is_sent_to_where_it_is(proxy: Proxy) -> None:
    answer = exchange(proxy, "redirect", get("//evil.example/"))
    assert answer.startswith(b"HTTP/1.1 308")
    assert f"Location: {ORIGIN}/\r\n".encode() in answer


def test_the_agents_probe_is_told_which_files_are_gone_by(proxy: Proxy) -> None:
    witness = proxy.settings["witness"]
    assert exchange(proxy, "status", get(f"/witness/{witness}")).startswith(b"HTTP/1.1 204")
    assert exchange(proxy, "status", get("/witness/other")).startswith(b"HTTP/1.1 404")
    assert exchange(proxy, "status", get("/")).startswith(b"HTTP/1.1 404")


# -- abuse -------------------------------------------------------------------------------------


def test_old_tls_is_refused(proxy: Proxy) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", proxy.ports["tls"]), 10) as sock,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(sock)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x82\x01a", 1002),  # not masked
        (b"\xc2\x81\0\0\0\0a", 1002),  # compressed
        (b"\x81\x81\0\0\0\0a", 1003),  # text
        (b"\x89\xfe\x00\x80\0\0\0\0", 1002),  # a ping of 128 bytes
        (b"\x09\x80\0\0\0\0", 1002),  # a ping in pieces
        (b"\x80\x81\0\0\0\0a", 1002),  # a continuation of nothing
        (b"\x83\x80\0\0\0\0", 1002),  # an unknown kind
        (b"\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0", 1002),  # a negative length
        (b"\x82\xff\0\0\0\0\x40\0\0\0\0\0\0\0", 1009),  # a gibibyte
    ],
)
def test_a_broken_frame_ends_its_session_with_the_right_code(
    proxy: Proxy, screen: Screen, request: pytest.FixtureRequest, frame: bytes, code: int
) -> None:
    name = f"frame-{abs(hash((frame, code)))}"
    browser = Browser(proxy, "plain", offer=proxy.offer(name, screen.port))
    browser.open()
    browser.sock.sendall(frame)
    assert browser.end()[0] == code
    wait_until(lambda: proxy.session(name) is None, 10, "the end")


def test_a_browser_that_does_not_read_costs_next_to_nothing(
    proxy: Proxy, screen: Screen, name: str
) -> None:
    browser = Browser(proxy, offer=proxy.offer(name, screen.port))
    browser.open()
    wait_until(lambda: screen.sockets, 10, "the screen")
    worker = worker_pid(proxy)
    before = resident(worker)
    sock = screen.sockets[-1]
    sock.settimeout(0.5)
    with pytest.raises(TimeoutError):
        sock.sendall(bytes(1 << 28))
    assert resident(worker) - before < 2 << 20
    browser.say(KEY)  # and the other way still goes
    wait_until(lambda: screen.heard == KEY, 10, "a key")
    browser.sock.close()


def worker_pid(proxy: Proxy) -> int:
    assert proxy.process is not None
    children = Path(f"/proc/{proxy.process.pid}/task/{proxy.process.pid}/children").read_text()
    return int(children.split()[0])


def resident(pid: int) -> int:
    """Bytes that are the process's own."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024


def test_nobody_holds_on_to_half_a_request(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.ports["plain"]), 30) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: ")
        begun = time.monotonic()
        assert sock.recv(1) == b""
        assert 3 < time.monotonic() - begun < 20


# -- proxies of their own ----------------------------------------------------------------------


def test_limits_of_one_source(tmp_path: Path) -> None:
    with running(make(tmp_path, "plain", half_open=6, half_open_each=3)) as proxy:
        idle = [
            socket.create_connection(("127.0.0.1", proxy.ports["plain"]), 10, (source, 0))
            for source in ("127.0.0.2",) * 3
        ]
        with socket.create_connection(
            ("127.0.0.1", proxy.ports["plain"]), 10, ("127.0.0.2", 0)
        ) as s:
            assert s.recv(1) == b""
        assert exchange(proxy, "plain", get("/")).startswith(b"HTTP/1.1 200")
        for sock in idle:
            sock.close()


def test_the_rate_of_one_source(tmp_path: Path) -> None:
    settings = {"handshakes_per_second": 0.001, "handshakes_burst": 2}
    with running(make(tmp_path, "plain", **settings)) as proxy:
        answers = [exchange(proxy, "plain", get("/")) for _ in range(4)]
        assert [bool(answer) for answer in answers] == [True, True, False, False]


def test_a_full_proxy_says_so_and_has_room_again(tmp_path: Path, screen: Screen) -> None:
    with running(make(tmp_path, "plain", cap=1)) as proxy:
        first = Browser(proxy, "plain", offer=proxy.offer("first", screen.port))
        first.open()
        offered = proxy.offer("second", screen.port)
        with pytest.raises(TurnedAway, match="full"):
            Browser(proxy, "plain", offer=offered).open()
        first.close()
        wait_until(lambda: proxy.session("first") is None, 10, "the end")
        assert Browser(proxy, "plain", offer=offered).open() == "web 1"


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
        killed = time.monotonic()

        def back() -> bool:
            try:
                return Browser(proxy, offer=secret("back")).open() == "web 1"
            except (OSError, EOFError):
                return False

        wait_until(back, 30, "a way back")
        assert time.monotonic() - killed < 15
        assert "its browsers come back to another" in proxy.log


@pytest.mark.parametrize("kind", [1, 2])
def test_a_balancer_says_who_it_is_that_comes(tmp_path: Path, screen: Screen, kind: int) -> None:
    with running(make(tmp_path, "tls", balancers=["127.0.0.1/32"])) as proxy:
        offered = proxy.offer("s1", screen.port, policy={"source": "198.51.100.7/32"})
        preamble = b"PROXY TCP4 198.51.100.7 192.0.2.1 50000 443\r\n"
        if kind == 2:
            there = socket.inet_aton("198.51.100.7") + socket.inet_aton("192.0.2.1")
            preamble = b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(">H", 12) + there + bytes(4)
        browser = Browser(proxy, offer=offered, preamble=preamble)
        assert browser.open() == "web 1"
        live = proxy.session("s1")
        assert live is not None
        assert live["source"] == "198.51.100.7"


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
