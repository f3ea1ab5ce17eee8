"""The daemons themselves, from the template's packages, on what the services render.

No systemd and no agent: each daemon runs in the template's root file system and in a network
namespace, so that what is shown here is the daemon's own behaviour that the services rely on.
"""

import hashlib
import json
import os
import signal
import socket
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import pytest

from agent.engine.model import Artifacts, DnsAnswers, HaproxyRuns, HttpReturns
from agent.system.run import Completed, run
from appliance.image import rootfs
from appliance.lab.wait import wait_until
from tests.lab.conftest import lab_name
from tests.unit.services.sites import context, rendered, service

GUEST_MAC = "02:00:4c:00:00:01"
OTHER_MAC = "02:00:4c:00:00:02"
BLOB = bytes(range(256)) * 400  # 100 kB that is no text


class House:
    """The template's root, the VM's network namespace, and that of its guests and clients."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.vm, self.outside = f"{name}-vm", f"{name}-out"
        self.revision = 0

    def within(self, namespace: str, *argv: str) -> list[str]:
        return ["ip", "netns", "exec", namespace, *argv]

    def daemon(self, *argv: str) -> list[str]:
        return self.within(self.vm, "chroot", str(self.root), *argv)

    def check(self, name: str, value: Any, artifacts: Artifacts) -> list[Completed]:
        section = service(name).Section.model_validate(value)
        commands = service(name).check(section, context(), artifacts)
        return [run(self.daemon(*c.argv), timeout=20, check=False) for c in commands]

    def stage(self, name: str, value: Any) -> Artifacts:
        """Write what the section renders as a new revision, and point `current` at it."""
        artifacts = rendered(name, value)
        self.revision += 1
        home = self.root / "run/sysvm"
        for file in artifacts.files:
            path = home / f"revisions/{self.revision}" / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.content)
            path.chmod(file.mode)
        for digest, content in artifacts.objects.items():
            (home / "objects" / digest).write_bytes(content)
        self.flip(self.revision)
        return artifacts

    def flip(self, revision: int) -> None:
        link = self.root / "run/sysvm/.next"
        link.symlink_to(f"revisions/{revision}")
        link.rename(self.root / "run/sysvm/current")

    def python(self, namespace: str, code: str, *arguments: str) -> Any:
        """What a piece of Python prints there, as JSON."""
        argv = self.within(namespace, sys.executable, "-c", textwrap.dedent(code), *arguments)
        return json.loads(run(argv, timeout=20).text)

    @contextmanager
    def running(self, *argv: str) -> Iterator[Popen[bytes]]:
        process = Popen(self.daemon(*argv), stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(10)


class Undone:
    """Does things, and undoes them in the opposite order."""

    def __init__(self) -> None:
        self._undo: list[tuple[str, ...]] = []

    def do(self, *argv: str, undo: tuple[str, ...] = ()) -> None:
        run(argv, timeout=20)
        if undo:
            self._undo.insert(0, undo)

    def mount(self, kind: str, where: Path, options: str) -> None:
        argv = ("mount", "-t", kind, "-o", options, kind, str(where))
        self.do(*argv, undo=("umount", "-l", str(where)))

    def undo(self) -> None:
        for argv in self._undo:
            run(argv, timeout=20, check=False)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    scratch = tmp_path_factory.mktemp("house")
    house = House(scratch / "root", lab_name())
    undone = Undone()
    try:
        _furnish(house, scratch, undone)
        _connect(house, undone)
        yield house
    finally:
        undone.undo()


def _furnish(house: House, scratch: Path, undone: Undone) -> None:
    """The template's packages, writable, with the folders that systemd-tmpfiles would make."""
    undone.mount("tmpfs", scratch, "mode=755")
    for part in ("upper", "work", "root"):
        (scratch / part).mkdir()
    base = rootfs.layers().base
    layers = f"lowerdir={base},upperdir={scratch}/upper,workdir={scratch}/work"
    undone.mount("overlay", house.root, layers)
    undone.mount("tmpfs", house.root / "run", "mode=755")
    undone.mount("proc", house.root / "proc", "ro")
    device = str(house.root / "dev")
    undone.do("mount", "--bind", "/dev", device, undo=("umount", "-l", device))
    for folder in ("sysvm/objects", "haproxy", "apache2", "sysvm-front"):
        (house.root / "run" / folder).mkdir(parents=True)
    (house.root / "var/lib/sysvm/blobs").mkdir(parents=True)
    for folder in ("run/dnsmasq", "var/lib/sysvm/leases"):
        (house.root / folder).mkdir()
        undone.do("chroot", str(house.root), "chown", "dnsmasq:nogroup", f"/{folder}")


def _connect(house: House, undone: Undone) -> None:
    """The VM's public and guest NICs, and who is at their other ends."""
    for name in (house.vm, house.outside):
        undone.do("ip", "netns", "add", name, undo=("ip", "netns", "del", name))
        undone.do("ip", "-n", name, "link", "set", "lo", "up")
    for nic, addresses in (
        ("eth0", ("203.0.113.10/24", "203.0.113.11/24")),
        ("eth1", ("10.1.1.1/24", "2001:db8:1::1/64")),
        ("eth2", ("192.0.2.10/24",)),
    ):
        ends = (nic, "netns", house.vm, "type", "veth", "peer", nic, "netns", house.outside)
        undone.do("ip", "link", "add", *ends)
        for name in (house.vm, house.outside):
            undone.do("ip", "-n", name, "link", "set", nic, "up")
        for address in addresses:
            undone.do("ip", "-n", house.vm, "address", "add", address, "dev", nic, "nodad")
    for address in ("10.1.1.10/24", "10.1.1.11/24"):
        undone.do("ip", "-n", house.outside, "address", "add", address, "dev", "eth1")


# -- dnsmasq -----------------------------------------------------------------------------------

ASK = """
    import json, sys
    import dns.exception, dns.message, dns.query, dns.rdatatype
    server, name, kind = sys.argv[1:]
    try:
        answer = dns.query.udp(dns.message.make_query(name, kind), server, timeout=1)
        print(json.dumps([x.to_text() for rrset in answer.answer for x in rrset]))
    except (dns.exception.Timeout, OSError):
        print(json.dumps(None))
"""
DNS: dict[str, Any] = {
    "hosts": {GUEST_MAC: {"address": "10.1.1.10", "name": "vm1"}},
    "ranges": {"pool": {"first": "10.1.1.100", "last": "10.1.1.120"}},
}


def witness_of_dns(value: Any, artifacts: Artifacts) -> str:
    probes = service("dhcp_dns").probe(
        service("dhcp_dns").Section.model_validate(value), context(), artifacts
    )
    return next(p.name for p in probes if isinstance(p, DnsAnswers))


def test_dnsmasq_reads_new_hosts_on_sighup_and_keeps_running(house: House) -> None:
    def ask(namespace: str, server: str, name: str, kind: str = "A") -> Any:
        return house.python(namespace, ASK, server, name, kind)

    first = house.stage("dhcp_dns", DNS)
    assert [c.returncode for c in house.check("dhcp_dns", DNS, first)] == [0]
    before = witness_of_dns(DNS, first)
    conf = "--conf-file=/run/sysvm/current/dnsmasq/dnsmasq.conf"
    with house.running("dnsmasq", "--keep-in-foreground", conf) as dnsmasq:
        wait_until(
            lambda: ask(house.vm, "10.1.1.1", before) == ["192.0.2.1"], 10, "dnsmasq answers"
        )
        # From the VM itself, over IPv6 too; and to nobody on another of its addresses.
        assert ask(house.vm, "2001:db8:1::1", before) == ["192.0.2.1"]
        assert ask(house.vm, "203.0.113.10", before) is None
        assert ask(house.vm, "127.0.0.1", before) is None
        assert ask(house.outside, "10.1.1.1", "vm1") == ["10.1.1.10"]
        assert ask(house.outside, "10.1.1.1", "vm1.net1.example") == ["10.1.1.10"]
        assert ask(house.outside, "10.1.1.1", "10.1.1.10.in-addr.arpa", "PTR") == [
            "vm1.net1.example."
        ]
        assert ask(house.outside, "10.1.1.1", "data-server") == ["10.1.1.1"]
        more = {**DNS, "hosts": {OTHER_MAC: {"address": "10.1.1.11", "name": "vm2"}}}
        after = witness_of_dns(more, house.stage("dhcp_dns", more))
        assert ask(house.outside, "10.1.1.1", "vm2") == []
        dnsmasq.send_signal(signal.SIGHUP)
        wait_until(lambda: ask(house.vm, "10.1.1.1", after) == ["192.0.2.1"], 10, "the new witness")
        assert ask(house.vm, "10.1.1.1", before) == []
        assert ask(house.outside, "10.1.1.1", "vm2") == ["10.1.1.11"]
        assert ask(house.outside, "10.1.1.1", "vm1") == []
        assert dnsmasq.poll() is None


# -- apache2 -----------------------------------------------------------------------------------

FETCH = """
    import hashlib, http.client, json, sys
    source, path, method, *headers = sys.argv[1:]
    c = http.client.HTTPConnection("10.1.1.1", 80, timeout=5, source_address=(source, 0))
    c.putrequest(method, path, skip_accept_encoding=True)
    for header in headers:
        c.putheader(*header.split(": "))
    c.endheaders()
    answer = c.getresponse()
    body = answer.read()
    print(json.dumps([answer.status, hashlib.sha256(body).hexdigest()]))
"""
DATA: dict[str, Any] = {
    "guests": {
        "10.1.1.10": {
            "mac": GUEST_MAC,
            "user_data": hashlib.sha256(BLOB).hexdigest(),
            "metadata": {"service-offering": "mine"},
        },
        "10.1.1.11": {"mac": OTHER_MAC, "metadata": {"service-offering": "other's"}},
    }
}


def digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


@pytest.fixture(scope="module")
def apache(house: House) -> Iterator[Callable[..., tuple[int, str]]]:
    """apache2, running; the fixture is how to fetch from it, by the client's address."""
    (house.root / "var/lib/sysvm/blobs" / digest(BLOB)).write_bytes(BLOB)

    def fetch(source: str, path: str, *headers: str, method: str = "GET") -> tuple[int, str]:
        namespace = house.vm if source == "10.1.1.1" else house.outside
        status, body = house.python(namespace, FETCH, source, path, method, *headers)
        return status, body

    artifacts = house.stage("user_data", DATA)
    assert [c.returncode for c in house.check("user_data", DATA, artifacts)] == [0]
    conf = "/run/sysvm/current/apache2/apache2.conf"
    run(house.daemon("apache2", "-f", conf, "-k", "start"), timeout=20)
    # The parent ends when the ports are bound, and the file comes a little later.
    pid_file = house.root / "run/apache2/apache2.pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip(), 10, "apache2 runs")
    pid = int(pid_file.read_text())
    yield fetch
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10, "apache2 ends")


def witness_of_data(value: Any, artifacts: Artifacts) -> str:
    probes = service("user_data").probe(
        service("user_data").Section.model_validate(value), context(), artifacts
    )
    return next(p.path for p in probes if isinstance(p, HttpReturns))


def test_guests_fetch_their_own(apache: Callable[..., tuple[int, str]]) -> None:
    assert apache("10.1.1.10", "/latest/user-data") == (200, digest(BLOB))
    for path in ("/latest/service-offering", "/latest/meta-data/service-offering"):
        assert apache("10.1.1.10", path) == (200, digest(b"mine"))
        assert apache("10.1.1.11", path) == (200, digest(b"other's"))
    for path in ("/latest/meta-data", "/latest/meta-data/"):
        assert apache("10.1.1.11", path) == (200, digest(b"local-ipv4\nservice-offering\n"))
    assert apache("10.1.1.11", "/latest/user-data")[0] == 404


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Client-IP", "Via"])
def test_no_header_makes_somebody_of_a_guest(
    apache: Callable[..., tuple[int, str]], header: str
) -> None:
    found = apache("10.1.1.11", "/latest/service-offering", f"{header}: 10.1.1.10")
    assert found == (200, digest(b"other's"))


@pytest.mark.parametrize(
    "path",
    [
        f"/objects/{digest(b'mine')}",
        f"/{digest(b'mine')}",
        f"/run/sysvm/objects/{digest(b'mine')}",
        f"/var/lib/sysvm/blobs/{digest(BLOB)}",
        "/latest/10.1.1.10/service-offering",
        "/latest/meta-data/../../etc/passwd",
        "/latest/%2e%2e/%2e%2e/etc/passwd",
        "/latest/..%2f..%2fetc/passwd",
        "/latest/user-data%00",
        "/latest/user-data%0a",
        "/server-status",
        "/server-info",
        "/.htaccess",
        "/",
    ],
)
def test_there_is_nothing_else(apache: Callable[..., tuple[int, str]], path: str) -> None:
    assert apache("10.1.1.11", path)[0] in {400, 404}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "TRACE", "OPTIONS", "PROPFIND"])
def test_there_is_only_get(apache: Callable[..., tuple[int, str]], method: str) -> None:
    assert apache("10.1.1.10", "/latest/service-offering", method=method)[0] == 405


def test_flip_alone_changes_what_is_served(
    house: House, apache: Callable[..., tuple[int, str]]
) -> None:
    old = house.stage("user_data", DATA)
    before = house.revision
    assert apache("10.1.1.11", "/latest/service-offering") == (200, digest(b"other's"))
    guests: Mapping[str, Any] = DATA["guests"]
    value = {
        "guests": {
            "10.1.1.10": guests["10.1.1.10"],
            "10.1.1.11": {"mac": OTHER_MAC, "metadata": {"service-offering": "new"}},
        }
    }
    new = house.stage("user_data", value)
    # No signal was sent, and the very next request sees it; the old one comes back as well.
    assert apache("10.1.1.1", witness_of_data(value, new))[0] == 204
    assert apache("10.1.1.1", witness_of_data(DATA, old))[0] == 404
    assert apache("10.1.1.11", "/latest/service-offering") == (200, digest(b"new"))
    since = "If-Modified-Since: Fri, 31 Dec 2100 23:59:59 GMT"
    assert apache("10.1.1.11", "/latest/service-offering", since) == (200, digest(b"new"))
    house.flip(before)
    assert apache("10.1.1.1", witness_of_data(DATA, old))[0] == 204
    assert apache("10.1.1.11", "/latest/service-offering") == (200, digest(b"other's"))


def test_witness_is_for_the_vm_alone(house: House, apache: Callable[..., tuple[int, str]]) -> None:
    path = witness_of_data(DATA, house.stage("user_data", DATA))
    assert apache("10.1.1.1", path)[0] == 204
    assert apache("10.1.1.10", path)[0] == 404


# -- haproxy -----------------------------------------------------------------------------------

SERVE = """
    import http.server, sys
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")
        def log_message(self, *arguments):
            pass
        def handle(self):
            try:
                super().handle()
            except ConnectionError:  # a health check that closes
                pass
    http.server.ThreadingHTTPServer((sys.argv[1], 8080), Handler).serve_forever()
"""
REQUESTS = """
    import json, sys, time, urllib.request
    # Whatever proxy the environment names, the address is not behind it.
    urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler({})))
    end, done, lost = time.monotonic() + float(sys.argv[1]), 0, []
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen("http://203.0.113.10/", timeout=5) as answer:
                assert answer.read() == b"ok"
            done += 1
        except Exception as error:
            lost.append(repr(error))
    print(json.dumps([done, lost]))
"""


def balanced(**more: Any) -> dict[str, Any]:
    return {
        "listeners": {
            "web": {
                "address": "203.0.113.10",
                "port": 80,
                "mode": "http",
                "servers": {"vm1": {"address": "10.1.1.10", "port": 8080}},
            }
            | more
        }
    }


def tell(house: House, name: str, command: str) -> str:
    """What haproxy answers on one of its sockets."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(house.root / "run/haproxy" / name))
        client.sendall(command.encode() + b"\n")
        return b"".join(iter(lambda: client.recv(65536), b"")).decode()


def description(value: Any, artifacts: Artifacts) -> str:
    section = service("load_balancer").Section.model_validate(value)
    probes = service("load_balancer").probe(section, context(), artifacts)
    return next(p.description for p in probes if isinstance(p, HaproxyRuns))


def describes(house: House, words: str) -> bool:
    """Does the master take commands, and does its worker run with this witness?"""
    try:
        tell(house, "master.sock", "show proc;quit")  # unlike a worker's, it stays open
        return f"escription: {words}\n" in tell(house, "admin.sock", "show info")
    except OSError:
        return False


CONNECT = """
    import json, socket
    try:
        socket.create_connection(("10.1.1.10", 8080), 1).close()
        print(json.dumps(True))
    except OSError:
        print(json.dumps(False))
"""


def reload(house: House) -> str:
    """As the agent does: what the new worker goes on from is saved first."""
    for name, command in (("stats", "dump stats-file"), ("state", "show servers state")):
        (house.root / "run/haproxy" / name).write_text(tell(house, "admin.sock", command))
    return tell(house, "master.sock", "reload")


def requests_so_far(house: House) -> int:
    for line in tell(house, "admin.sock", "show stat").splitlines():
        words = line.split(",")
        if words[:2] == ["web", "FRONTEND"]:
            return int(words[7])
    raise AssertionError("no such listener")


def next_requests(house: House, seen: int) -> int:
    """How many there are when there are more than `seen`."""
    wait_until(lambda: requests_so_far(house) > seen, 10, "requests pass")
    return requests_so_far(house)


def test_haproxy_reloads_without_loss_and_keeps_its_counters(house: House) -> None:
    value = balanced()
    artifacts = house.stage("load_balancer", value)
    assert [c.returncode for c in house.check("load_balancer", value, artifacts)] == [0]
    server = Popen(
        house.within(house.outside, sys.executable, "-c", textwrap.dedent(SERVE), "10.1.1.10")
    )
    master = ("-S", "/run/haproxy/master.sock,mode,600")
    try:
        wait_until(lambda: house.python(house.vm, CONNECT), 10, "the server behind answers")
        with house.running(
            "haproxy", "-W", "-f", "/run/sysvm/current/haproxy/haproxy.cfg", *master
        ):
            wait_until(lambda: describes(house, description(value, artifacts)), 10, "haproxy runs")
            argv = house.within(house.vm, sys.executable, "-c", textwrap.dedent(REQUESTS), "3")
            with (
                (house.root / "requests").open("wb") as written,
                Popen(argv, stdout=written) as load,
            ):
                seen = 0
                for client_ms in (40_001, 40_002, 40_003):
                    seen = next_requests(house, seen)
                    value = balanced(timeouts={"client_ms": client_ms})
                    artifacts = house.stage("load_balancer", value)
                    assert reload(house).startswith("Success=1")
                    assert describes(house, description(value, artifacts))
                    assert requests_so_far(house) >= seen
                load.wait(20)
            done, lost = json.loads((house.root / "requests").read_text())
            assert lost == []
            assert done > 10
            # What cannot be bound is told by the answer, and the witness stays the old one.
            bad = house.root / "run/sysvm/current/haproxy/haproxy.cfg"
            bad.write_bytes(bad.read_bytes().replace(b"203.0.113.10:80", b"203.0.113.99:80"))
            assert reload(house).startswith("Success=0")
            assert describes(house, description(value, artifacts))
    finally:
        server.terminate()
        server.wait(10)


def test_haproxy_uses_a_server_that_comes_back_from_maintenance(house: House) -> None:
    """A saved state would keep an unchecked server down for ever."""

    def value(state: str) -> dict[str, Any]:
        servers = {"vm1": {"address": "10.1.1.10", "port": 8080, "state": state}}
        return balanced(servers=servers, check={"type": "none"})

    def status() -> str:
        rows = (line.split(",") for line in tell(house, "admin.sock", "show stat").splitlines())
        return next(words[17] for words in rows if words[:2] == ["web", "vm1"])

    artifacts = house.stage("load_balancer", value("maintenance"))
    master = ("-S", "/run/haproxy/master.sock,mode,600")
    with house.running("haproxy", "-W", "-f", "/run/sysvm/current/haproxy/haproxy.cfg", *master):
        wait_until(
            lambda: describes(house, description(value("maintenance"), artifacts)),
            10,
            "haproxy runs",
        )
        assert status() == "MAINT"
        house.stage("load_balancer", value("ready"))
        assert reload(house).startswith("Success=1")
        assert status() == "no check"
