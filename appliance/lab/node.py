"""What is plugged into a lab's networks besides the system VM: guests, internet, management."""

import contextlib
import hashlib
import json
import socket
import ssl
import sys
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.system.run import CommandFailed, Completed, run
from appliance import tools
from appliance.errors import ApplianceError
from appliance.lab import network
from appliance.lab.http import Response, client_context, exchange, payload
from appliance.lab.pki import Keys
from appliance.lab.process import Identity, Popen, spawn
from appliance.lab.rows import rows
from appliance.lab.topologies import GuestVm, Management, Nic, World
from appliance.lab.wait import wait_until

_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Server:
    """A small server that runs on a node; see appliance/lab/server.py for what it says."""

    process: Identity
    log: Path

    def exchanges(self) -> tuple[Mapping[str, Any], ...]:
        """What was asked so far: client, port, and for HTTP method, path, headers, body."""
        return rows(self.log)

    def stop(self) -> None:
        """End it; its port is free afterwards."""
        self.process.send(9)
        self.process.wait(5)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@dataclass(frozen=True, slots=True)
class Node:
    """A host in a network name space of its own: the host's programs, the lab's network."""

    lab: str
    name: str
    folder: Path

    @property
    def namespace(self) -> str:
        """The name of its network name space."""
        return network.namespace(self.lab, self.name)

    def argv(self, argv: Sequence[str]) -> list[str]:
        """What runs this command here."""
        return ["ip", "netns", "exec", self.namespace, *argv]

    def run(
        self,
        argv: Sequence[str],
        timeout: float = _TIMEOUT,
        *,
        check: bool = True,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a program of the host here, to its end. With `check`, raises CommandFailed."""
        return run(self.argv(argv), timeout=timeout, check=check, stdin=stdin, env=env)

    def popen(self, argv: Sequence[str], *, stdin: bool = False) -> "Popen[bytes]":
        """Start a program of the host here; its outputs come through pipes."""
        return spawn(self.argv(argv), pipe=True, stdin=stdin)

    def open_socket(
        self,
        family: socket.AddressFamily = socket.AF_INET,
        kind: socket.SocketKind = socket.SOCK_STREAM,
    ) -> socket.socket:
        """A socket on this node, used from this process."""
        return network.open_socket(self.namespace, family, kind)

    def connect(
        self, address: str, port: int, *, timeout: float = 5, source: str | None = None
    ) -> socket.socket:
        """A TCP connection from this node to an address (not a name). Raises OSError."""
        sock = self.open_socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            sock.settimeout(timeout)
            if source is not None:
                sock.bind((source, 0))
            sock.connect((address, port))
        except OSError:
            sock.close()
            raise
        return sock

    def reaches(self, address: str, port: int, *, timeout: float = 1) -> bool:
        """Whether a TCP connection from here is accepted."""
        try:
            self.connect(address, port, timeout=timeout).close()
        except OSError:
            return False
        return True

    def ask(
        self, address: str, port: int, content: bytes = b"?", *, timeout: float = 1
    ) -> bytes | None:
        """Send a UDP datagram from here; the answer, or None if none came in time."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.open_socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout)
            try:
                sock.connect((address, port))
                sock.send(content)
                return sock.recv(65535)
            except OSError:
                return None

    def get(
        self, url: str, *, timeout: float = 5, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Fetch a URL with an address for its host, without a process. Raises OSError."""
        parts = urllib.parse.urlsplit(url)
        if parts.hostname is None:
            raise ValueError(f"{url} names no host")
        sock = self.connect(parts.hostname, parts.port or 80, timeout=timeout)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return exchange(sock, "GET", path, headers=headers, host=parts.netloc)

    def curl(self, url: str, *options: str, timeout: float = 10, check: bool = True) -> Completed:
        """Fetch a URL as a person would, names resolved as this node resolves them."""
        tools.need("curl")
        quiet = ("--silent", "--show-error", "--max-time", f"{timeout:g}")
        return self.run(["curl", *quiet, *options, url], timeout + 5, check=check)

    def lookup(self, name: str, *, timeout: float = 5) -> tuple[str, ...]:
        """The addresses of this name, as programs on this node find them; empty if it has none."""
        argv = ["getent", "ahosts", name]
        found = self.run(argv, timeout + 5, check=False)
        return tuple(dict.fromkeys(line.split()[0] for line in found.text.splitlines()))

    def query(self, name: str, kind: str = "A", *, server: str, timeout: float = 5) -> Any:
        """Ask this DNS server directly; dnspython's message. Raises dns.exception.Timeout."""
        import dns.message
        import dns.query

        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with self.open_socket(family, socket.SOCK_DGRAM) as sock:
            # dnspython waits for readability itself.
            sock.setblocking(False)  # noqa: FBT003  # its only parameter
            return dns.query.udp(dns.message.make_query(name, kind), server, timeout, sock=sock)

    def pings(self, address: str, *, count: int = 1, timeout: float = 1) -> bool:
        """Whether every one of `count` echo requests is answered in time."""
        argv = ["ping", "-n", "-q", "-c", str(count), "-i", "0.2", "-W", f"{timeout:g}", address]
        return self.run(argv, timeout * count + 5, check=False).returncode == 0

    def serve(
        self, port: int, body: str | None = None, *, address: str = "::", protocol: str = "http"
    ) -> Server:
        """Start a server (protocol http, tcp or udp) on this port; it accepts when this returns.

        Without `body` it answers `NODE sees CLIENT`.
        """
        log = self.folder / f"server-{protocol}-{port}-{address.replace(':', '_')}.log"
        log.unlink(missing_ok=True)
        program = Path(__file__).with_name("server.py")
        argv = [sys.executable, "-I", "-S", str(program), f"--protocol={protocol}"]
        argv += [f"--address={address}", f"--port={port}", f"--name={self.name}", f"--log={log}"]
        argv += [] if body is None else [f"--body={body}"]
        process = spawn(self.argv(argv), pipe=True)
        if process.stdout is None or process.stderr is None:
            raise RuntimeError("no pipe was asked for")
        with process.stdout, process.stderr:
            if process.stdout.readline() != b"ready\n":
                said = process.stderr.read().decode(errors="replace").strip()
                raise ApplianceError(f"{self.name} cannot serve on port {port}: {said}")
        identity = Identity.of(process.pid)
        if identity is None:
            raise ApplianceError(f"the server on {self.name}'s port {port} ended at once")
        return Server(identity, log)


@dataclass(frozen=True, slots=True)
class Lease:
    """What a DHCP server gave. `raw` has everything that udhcpc was told, by its names."""

    address: str
    prefix: int
    server: str
    seconds: int
    routers: tuple[str, ...]
    nameservers: tuple[str, ...]
    domain: str
    hostname: str
    mtu: int | None
    routes: tuple[tuple[str, str], ...]  # destination, gateway (RFC 3442)
    raw: Mapping[str, str]


class NoLease(AssertionError):
    """No DHCP server gave this guest an address in time."""


@dataclass(frozen=True, slots=True)
class Guest(Node):
    """A tenant's VM: it knows nothing but what DHCP tells it."""

    spec: GuestVm = field(default_factory=lambda: GuestVm(()))

    @property
    def nic(self) -> Nic:
        """Its one NIC."""
        return self.spec.nics[0]

    @property
    def mac(self) -> str:
        """Its NIC's MAC address."""
        return self.nic.mac

    def dhcp(
        self, *, attempts: int = 8, options: Sequence[str] = (), hostname: str | None = None
    ) -> Lease:
        """Ask for a lease and configure what it says: address, routes, DNS, MTU.

        One attempt a second. `options` are further arguments of udhcpc (`-x 0x3d:…`, `-r ADDRESS`).
        Raises NoLease.
        """
        tools.need("busybox")
        note = self.folder / "lease.json"
        note.unlink(missing_ok=True)
        hook = self.folder / "lease-note"
        if not hook.exists():
            source = Path(__file__).with_name("lease_note.py").read_text()
            hook.write_text(f"#!{sys.executable} -IS\n{source}")
            hook.chmod(0o755)
        asked = [f"-O{name}" for name in ("mtu", "staticroutes", "hostname", "search", "ntpsrv")]
        asked += [f"-xhostname:{hostname}"] if hostname else []
        argv = ["busybox", "udhcpc", "-f", "-n", "-q", "-i", self.nic.name, "-s", str(hook)]
        argv += ["-t", str(attempts), "-T", "1", *asked, *options]
        with contextlib.suppress(CommandFailed):
            self.run(argv, attempts + 10)
        given = json.loads(note.read_text()) if note.exists() else {"event": "nothing"}
        if given["event"] != "bound":
            raise NoLease(f"{self.name} got no lease in {attempts} attempts: {given['event']}")
        taken = lease(given)
        self._configure(taken)
        return taken

    def forget(self) -> None:
        """Drop the address, the routes and the DNS servers."""
        self.run(["ip", "address", "flush", "dev", self.nic.name, "scope", "global"])
        network.resolver(self.namespace)

    def _configure(self, lease: Lease) -> None:
        self.forget()
        nic = self.nic.name
        lines = [f"address add {lease.address}/{lease.prefix} dev {nic}"]
        if lease.mtu is not None:
            lines.append(f"link set {nic} mtu {lease.mtu}")
        # RFC 3442: who gives classless routes gives the default route among them.
        routes = lease.routes or tuple(("default", router) for router in lease.routers[:1])
        for destination, gateway in routes:
            via = "" if gateway == "0.0.0.0" else f"via {gateway} "  # noqa: S104  # on this link
            lines.append(f"route replace {destination} {via}dev {nic}")
        batch = "".join(f"{line}\n" for line in lines).encode()
        run(["ip", "-n", self.namespace, "-batch", "-"], timeout=_TIMEOUT, stdin=batch)
        network.resolver(self.namespace, lease.nameservers, lease.domain)


@dataclass(frozen=True, slots=True)
class Internet(Node):
    """The world outside: a web server on port 80 of each of its addresses, a DNS zone on 53.

    The web server says whom it sees, so that translation can be proven.
    """

    spec: World = field(default_factory=lambda: World((), (), {}))

    @property
    def web_log(self) -> Path:
        """One JSON line per request that the web server answered."""
        return self.folder / "server-http-80-__.log"

    @property
    def dns_log(self) -> Path:
        """What the DNS server was asked, in dnsmasq's words."""
        return self.folder / "dns.log"

    def start(self) -> None:
        """Start the web server and the DNS zone."""
        tools.need("dnsmasq")
        lines = [f"address add {address}/32 dev lo" for address in self.spec.services]
        batch = "".join(f"{line}\n" for line in lines).encode()
        run(["ip", "-n", self.namespace, "-batch", "-"], timeout=_TIMEOUT, stdin=batch)
        network.resolver(self.namespace, ["127.0.0.1"])
        domain = next(iter(self.spec.zone)).partition(".")[2]
        argv = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file="]
        argv += ["--no-resolv", "--no-hosts", "--user=root", "--group=root", "--log-queries"]
        argv += [f"--log-facility={self.dns_log}", f"--local=/{domain}/"]
        argv += [f"--host-record={name},{address}" for name, address in self.spec.zone.items()]
        spawn(self.argv(argv), output=self.folder / "dns.err")
        self.serve(80)
        wait_until(lambda: self.reaches("127.0.0.1", 53), 10, "the internet's DNS server")

    def visitors(self) -> tuple[str, ...]:
        """The addresses that the web server saw, in order."""
        return tuple(row["client"] for row in rows(self.web_log))


@dataclass(frozen=True, slots=True)
class Manager(Node):
    """Management: the host on the control network that pushes documents over mutual TLS."""

    spec: Management = field(default_factory=lambda: Management(()))
    vm_address: str = ""
    vm_port: int = 0
    keys_folder: Path = Path()

    @property
    def keys(self) -> Keys:
        """The lab's keys, the bad ones included."""
        return Keys.load(self.keys_folder)

    def request(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        identity: str | None = "manager",
        address: str | None = None,
        timeout: float = 60,
    ) -> Response:
        """One HTTP request to the VM over mutual TLS.

        `identity` names one of the lab's Keys, None shows no certificate. Raises ssl.SSLError or
        OSError where the VM refuses.
        """
        folder = self.keys_folder
        certificate = None if identity is None else str(folder / f"{identity}.pem")
        key = None if identity is None else str(folder / f"{identity}.key")
        context = client_context(str(folder / "ca.pem"), certificate, key)
        host = address or self.vm_address
        content, kind = payload(json, body)
        with self._tls(context, host, timeout) as sock:
            return exchange(
                sock, method, path, body=content, headers={**kind, **(headers or {})}, host=host
            )

    def push(
        self,
        document: bytes,
        *,
        dry_run: bool = False,
        confirm_within: float | None = None,
        timeout: float = 120,
    ) -> Response:
        """Push a whole document."""
        query = {"dry_run": "1"} if dry_run else {}
        if confirm_within is not None:
            query["confirm_within"] = f"{confirm_within:g}"
        path = "/v1/document" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        headers = {"Content-Type": "application/json"}
        return self.request("PUT", path, body=document, headers=headers, timeout=timeout)

    def upload(self, content: bytes) -> str:
        """Upload a blob; its SHA-256, by which a document names it. Raises ApplianceError."""
        name = hashlib.sha256(content).hexdigest()
        answer = self.request("PUT", f"/v1/blobs/{name}", body=content)
        if answer.status >= 400:
            raise ApplianceError(f"the blob was not taken: {answer.text}")
        return name

    @contextlib.contextmanager
    def _tls(self, context: ssl.SSLContext, host: str, timeout: float) -> Iterator[ssl.SSLSocket]:
        with (
            self.connect(host, self.vm_port, timeout=timeout) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            yield secure


def lease(given: Mapping[str, str]) -> Lease:
    """The lease that udhcpc told of, in its variables."""
    routes = given.get("staticroutes", "").split()
    return Lease(
        address=given["ip"],
        prefix=int(given.get("mask", "32")),
        server=given.get("serverid", ""),
        seconds=int(given.get("lease", "0")),
        routers=tuple(given.get("router", "").split()),
        nameservers=tuple(given.get("dns", "").split()),
        domain=given.get("domain", ""),
        hostname=given.get("hostname", ""),
        mtu=int(given["mtu"]) if "mtu" in given else None,
        routes=tuple(zip(routes[::2], routes[1::2], strict=True)),
        raw=given,
    )
