"""A proxy of its own processes on loopback, hypervisors' screens that do as told, and a browser."""

import contextlib
import hashlib
import json
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockify.websocket import WebSocket

from agent.console.rfb.des import vnc_response
from appliance.lab.pki import Authority, Identity
from appliance.lab.wait import wait_until
from tests.unit import ports

ORIGIN = "https://console.example"
PIXELS = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
CHALLENGE = bytes(range(16))
PASSWORD = "secret"
KEY = struct.pack(">BBxxI", 4, 1, 0x61)
UPDATE = struct.pack(">BBHHHH", 3, 1, 0, 0, 8, 6)  # asked for by the browser
PICTURE = struct.pack(">BxHHHHHi", 0, 1, 0, 0, 2, 1, 0) + bytes(8)


def own_address() -> str:
    """An address of this machine that is not loopback's, which the proxy never connects to."""
    words = subprocess.run(
        ("ip", "-4", "-o", "addr", "show", "scope", "global"),
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    return words[words.index("inet") + 1].partition("/")[0] if "inet" in words else ""


def secret(name: str) -> str:
    """A secret of 256 bits, the same one for the same name."""
    return urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).decode().rstrip("=")


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def resume(text: str) -> str:
    """What a browser promises to come back with, as it says it."""
    return "resume." + urlsafe_b64encode(digest(text)).decode().rstrip("=")


# -- the hypervisor ----------------------------------------------------------------------------


class Screen:
    """A VNC server: a thread for each connection, which keeps what it is told."""

    def __init__(
        self,
        talk: "Callable[[Screen, socket.socket], None] | None" = None,
        *,
        around: "Callable[[socket.socket], socket.socket] | None" = None,
    ) -> None:
        self._talk = talk or plain
        self._around = around
        self.heard = b""
        self.open = 0
        self.connections = 0
        self.sockets: list[socket.socket] = []
        self._listener = socket.create_server(("0.0.0.0", 0))  # noqa: S104 - a test's, for a moment
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        self.open += 1
        self.connections += 1
        try:
            if self._around is not None:
                sock = self._around(sock)
            self._talk(self, sock)
        except (OSError, EOFError):
            pass
        finally:
            self.open -= 1
            sock.close()

    def listen(self, sock: socket.socket) -> None:
        """Keep what the browser says, until it ends."""
        self.sockets.append(sock)
        while data := sock.recv(65536):
            self.heard += data

    @property
    def keys(self) -> list[tuple[int, bool]]:
        """The symbols of the keys that were pressed (True) and let go, in what was heard."""
        found, data = [], self.heard
        while data:
            if data[0] == 4 and len(data) >= 8:
                found.append((int.from_bytes(data[4:8]), bool(data[1])))
            length = {0: 20, 3: 10, 4: 8, 5: 6}.get(data[0])
            if data[0] == 2:
                length = 4 + 4 * int.from_bytes(data[2:4])
            elif data[0] == 6:
                length = 8 + int.from_bytes(data[4:8])
            assert length is not None, data[:20]
            data = data[length:]
        return found

    def say(self, data: bytes) -> None:
        """Tell the last browser."""
        self.sockets[-1].sendall(data)

    def close(self) -> None:
        # Closed alone, it would go on accepting in its thread, soon what is another's.
        with contextlib.suppress(OSError):  # a test has closed it already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def take(sock: socket.socket, count: int) -> bytes:
    """So many bytes. Raises EOFError."""
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def version(sock: socket.socket) -> None:
    sock.sendall(b"RFB 003.008\n")
    assert take(sock, 12) == b"RFB 003.008\n"


def begin(screen: Screen, sock: socket.socket) -> None:
    """After the security: a screen of 8x6, and then listen."""
    assert take(sock, 1) == b"\x01"
    sock.sendall(struct.pack(">HH16sI", 8, 6, PIXELS, 4) + b"QEMU")
    screen.listen(sock)


def plain(screen: Screen, sock: socket.socket) -> None:
    """No authentication."""
    version(sock)
    sock.sendall(b"\x01\x01")
    assert take(sock, 1) == b"\x01"
    sock.sendall(struct.pack(">I", 0))
    begin(screen, sock)


def with_password(password: str) -> Callable[[Screen, socket.socket], None]:
    """VNC authentication."""

    def talk(screen: Screen, sock: socket.socket) -> None:
        version(sock)
        sock.sendall(b"\x01\x02")
        assert take(sock, 1) == b"\x02"
        authenticate(screen, sock, password)

    return talk


def authenticate(screen: Screen, sock: socket.socket, password: str) -> None:
    sock.sendall(CHALLENGE)
    if take(sock, 16) == vnc_response(password, CHALLENGE):
        sock.sendall(struct.pack(">I", 0))
        begin(screen, sock)
    else:
        reason = b"Authentication failure"
        sock.sendall(struct.pack(">II", 1, len(reason)) + reason)


def with_vencrypt(
    kind: int, context: ssl.SSLContext, password: str = PASSWORD
) -> Callable[[Screen, socket.socket], None]:
    """VeNCrypt with X.509 certificates."""

    def talk(screen: Screen, sock: socket.socket) -> None:
        version(sock)
        sock.sendall(b"\x01\x13")
        assert take(sock, 1) == b"\x13"
        sock.sendall(b"\x00\x02")
        assert take(sock, 2) == b"\x00\x02"
        sock.sendall(b"\x00\x01" + struct.pack(">I", kind))
        assert struct.unpack(">I", take(sock, 4)) == (kind,)
        sock.sendall(b"\x01")
        inside = context.wrap_socket(sock, server_side=True)
        if kind == 261:
            authenticate(screen, inside, password)
            return
        if kind == 262:
            user, length = struct.unpack(">II", take(inside, 8))
            if take(inside, user + length) != b"alice" + password.encode():
                inside.sendall(struct.pack(">II", 1, 0))
                return
        inside.sendall(struct.pack(">I", 0))
        begin(screen, inside)

    return talk


def tls_context(identity: Identity, folder: Path, ca: str = "") -> ssl.SSLContext:
    """TLS as a server; with a CA, clients need its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate, key = identity.write(folder, "hypervisor")
    context.load_cert_chain(certificate, key)
    if ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=ca)
    return context


# -- the proxy ---------------------------------------------------------------------------------


@dataclass
class Proxy:
    """`python -m agent.console`, with a folder and a control socket of its own."""

    folder: Path
    authority: Authority
    settings: dict[str, Any]
    workers: int = 1
    process: "subprocess.Popen[bytes] | None" = None
    ports: dict[str, int] = field(default_factory=dict)
    python: str = sys.executable

    def write(self, **changed: Any) -> None:
        """The files that the document's section is rendered to."""
        self.settings.update(changed)
        listen = [
            {"address": "127.0.0.1", "port": port, "service": name, "to": ORIGIN}
            for name, port in self.ports.items()
        ]
        (self.folder / "listen.json").write_text(json.dumps({"listen": listen}))
        (self.folder / "console.json").write_text(json.dumps(self.settings))

    def certify(self, name: str = "console.example") -> Identity:
        identity = self.authority.issue(name, addresses=["127.0.0.1"])
        (self.folder / "chain.pem").write_text(identity.certificate)
        (self.folder / "key.pem").write_text(identity.key)
        return identity

    @property
    def control(self) -> Path:
        return self.folder / "control"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self) -> "Proxy":
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                (
                    *(self.python, "-I", "-m", "agent.console", "keep"),
                    *("--folder", str(self.folder), "--control", str(self.control)),
                    *("--workers", str(self.workers)),
                ),
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        running = self.process
        wait_until(lambda: self.control.exists() or running.poll() is not None, 60, "a start")
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the keeper, as the agent does."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.control))
            sock.sendall(json.dumps(message).encode() + b"\n")
            answer: dict[str, Any] = json.loads(sock.makefile().readline())
            return answer

    def offer(self, name: str, port: int, **more: Any) -> str:
        """Push a session; returns its secret."""
        target = {"kind": "vnc", "address": own_address(), "port": port} | more.pop("target", {})
        value = {"id": name, "secret_sha256": digest(secret(name)).hex(), "vm": f"i-{name}"}
        value |= {"user": "alice", "title": "web 1", "target": target, **more}
        assert self.ask({"op": "put", "session": value}) == {"result": "created"}
        return secret(name)

    def session(self, name: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.ask({"op": "get", "id": name}).get("session")
        return found


def reloaded(proxy: Proxy, witness: str, **changed: Any) -> None:
    """Have the proxy go by other files, and wait until it does."""
    proxy.write(witness=witness, **changed)
    assert proxy.process is not None
    proxy.process.send_signal(signal.SIGHUP)
    wait_until(lambda: proxy.ask({"op": "state"})["witnesses"] == [witness], 20, "a reload")


def free_ports(count: int) -> list[int]:
    return [ports.free() for _ in range(count)]


def make(folder: Path, *services: str, **settings: Any) -> Proxy:
    """A proxy that is configured, and not started."""
    novnc = folder / "novnc"
    (novnc / "core").mkdir(parents=True)
    (novnc / "core" / "rfb.js").write_text("export default class RFB {}\n")
    (novnc / "vendor").mkdir()
    chosen = dict(zip(services, free_ports(len(services)), strict=True))
    usual: dict[str, Any] = {
        "hosts": ["console.example"],
        "origins": [ORIGIN],
        "native": False,
        "framed_by": [],
        "networks": ["0.0.0.0/0"],
        "ports": [[1024, 65535]],
        "forbidden": [],
        "cap": 50,
        "half_open": 100,
        "half_open_each": 50,
        "handshakes_per_second": 1000,
        "handshakes_burst": 1000,
        "balancers": [],
        "report_every": 0.2,
        "novnc": str(novnc),
        "witness": "first",
    }
    proxy = Proxy(folder, Authority.create("browsers"), usual | settings, ports=chosen)
    proxy.write()
    proxy.certify()
    return proxy


@contextlib.contextmanager
def running(proxy: Proxy) -> Iterator[Proxy]:
    try:
        yield proxy.start()
    finally:
        proxy.stop()


# -- the browser -------------------------------------------------------------------------------


class TurnedAway(Exception):
    """What the page would show."""


class Browser:
    """noVNC in small: websockify's WebSocket as a client, and RFB over it."""

    def __init__(
        self,
        proxy: Proxy,
        service: str = "tls",
        *,
        offer: str = "",
        back: str = "",
        origin: str | None = ORIGIN,
        host: str = "console.example",
        path: str = "/socket",
        preamble: bytes = b"",
        source: str = "127.0.0.1",
        address: str = "127.0.0.1",
        name: str = "console.example",
    ) -> None:
        port = proxy.ports[service]
        sock = socket.create_connection((address, port), 20, (source, 0))
        if preamble:
            sock.sendall(preamble)
        if service == "tls":
            context = ssl.create_default_context(cadata=proxy.authority.identity.certificate)
            sock = context.wrap_socket(sock, server_hostname=name)
        self.sock = sock
        self.web = WebSocket()
        self.web.client = True
        self.web.socket = sock
        self.web._state = "headers"  # noqa: SLF001 - connect() would resolve names and choose TLS
        protocols = ["binary", f"secret.{offer}"] if offer else ["binary"]
        if back:
            protocols.append(resume(back))
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):  # a part of the answer
                self.web.connect(f"ws://{host}{path}", origin, protocols)
                break
        self.data = b""
        # What came together with the answer would wait until more comes.
        while frame := self.web._decode_hybi(self.web._recv_buffer):  # noqa: SLF001
            self.web._recv_buffer = self.web._recv_buffer[frame["length"] :]  # noqa: SLF001
            self.data += frame["payload"]
        self.ended = False

    def take(self, count: int) -> bytes:
        """So many bytes of RFB. Raises EOFError."""
        while len(self.data) < count:
            try:
                message = self.web.recvmsg()
            except ssl.SSLWantReadError:  # which is websockify's own too: half a frame
                continue
            if message is None:
                self.ended = True
                raise EOFError(f"{self.web.close_code} {self.web.close_reason}")
            self.data += message
        data, self.data = self.data[:count], self.data[count:]
        return data

    def say(self, data: bytes) -> None:
        self.web.send(data)

    def open(self) -> str:
        """Shake hands; returns the screen's name. Raises TurnedAway."""
        assert self.take(12) == b"RFB 003.008\n"
        self.say(b"RFB 003.008\n")
        if self.take(1) == b"\0":
            raise TurnedAway(self.take(struct.unpack(">I", self.take(4))[0]).decode())
        assert self.take(1) == b"\x01"
        self.say(b"\x01")
        assert self.take(4) == bytes(4)
        self.say(b"\x01")
        width, height, pixels, length = struct.unpack(">HH16sI", self.take(24))
        assert width > 0
        assert height > 0
        assert len(pixels) == 16
        return self.take(length).decode()

    def end(self) -> tuple[int, str]:
        """Read until it is over; the code and the reason."""
        with contextlib.suppress(EOFError):
            while True:
                self.take(1)
        return self.web.close_code, self.web.close_reason

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.web.close()


def get(path: str, more: str = "", host: str = "console.example") -> bytes:
    """A request for a page."""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n".encode()


def exchange(proxy: Proxy, service: str, data: bytes) -> bytes:
    """Send bytes, and read what comes until the proxy closes."""
    sock: socket.socket = socket.create_connection(("127.0.0.1", proxy.ports[service]), 20)
    if service == "tls":
        context = ssl.create_default_context(cadata=proxy.authority.identity.certificate)
        sock = context.wrap_socket(sock, server_hostname="console.example")
    with sock:
        sock.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := sock.recv(65536):
                answer += piece
        return answer
