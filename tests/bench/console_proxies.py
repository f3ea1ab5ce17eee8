"""Who is measured at the console: our proxy, stock websockify, and haproxy as the floor.

Each is started anew for each visit, bound to the first core with all that it starts; screens and
browsers (`console_browsers.c`) have the others. CPU is what the kernel counts for the proxy's own
processes, memory their PSS.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from appliance.errors import ApplianceError
from appliance.image import base as debian
from appliance.image import cache, rootfs
from appliance.lab.pki import Authority
from appliance.lab.wait import wait_until
from tests.unit.console import rig

SOURCES = Path(__file__).parent
BUILD = Path("build/bench")
WEBSOCKIFY = "websockify==0.13.0"
NAMES = ("ours", "websockify", "haproxy")
Json = dict[str, Any]


# -- what is needed ----------------------------------------------------------------------------


def program(name: str) -> Path:
    """One of the two programs in C, compiled. Raises ApplianceError."""
    made, source = BUILD / name, SOURCES / f"{name}.c"
    newest = max(path.stat().st_mtime for path in (source, SOURCES / "console_load.h"))
    if not made.exists() or made.stat().st_mtime < newest:
        BUILD.mkdir(parents=True, exist_ok=True)
        _tool("gcc", "-O2", "-Wall", "-Wextra", "-o", made, source, "-l:libssl.so.3", "-lpthread")
    return made


def websockify() -> Path:
    """The stock command with all that it asks for, in an environment of its own."""
    folder = BUILD / "websockify"
    command = folder / "bin" / "websockify"
    if not command.exists():
        venv.create(folder, with_pip=True, clear=True)
        _tool(folder / "bin" / "python", "-m", "pip", "install", "--quiet", WEBSOCKIFY)
    return command


def haproxy() -> tuple[str, ...]:
    """The VM's own haproxy, out of its root file system, by that one's loader and libraries."""
    base = cache.existing("base", debian.key()) or rootfs.layers().base
    loader = next((base / "usr").glob("lib*/ld-linux-*.so.*"), None) or next(
        (base / "usr/lib").glob("*/ld-linux-*.so.*")
    )
    libraries = sorted({path.parent for path in (base / "usr/lib").glob("*/libc.so.6")})
    return (
        *(str(loader), "--library-path", ":".join(map(str, libraries))),
        str(base / "usr/sbin/haproxy"),
    )


def _tool(*argv: str | Path) -> None:
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ApplianceError(f"{Path(argv[0]).name}: {done.stderr.strip()[-500:]}")


@contextlib.contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    """What is started here runs on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _cores() -> tuple[set[int], set[int]]:
    """The proxy's core, and those of everybody else."""
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, set(others) or {first}


# -- screens and browsers ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Screens:
    """The hypervisor."""

    address: str
    port: int


@contextlib.contextmanager
def screens() -> Iterator[Screens]:
    """A hypervisor whose screens answer as quickly as it goes. Raises ApplianceError."""
    address = rig.own_address()
    if not address:
        raise ApplianceError("the machine has no address but loopback's, which is never a target")
    (port,) = rig.free_ports(1)
    with _on(_cores()[1]):
        process = subprocess.Popen([program("console_screen"), address, str(port)])
    try:
        wait_until(lambda: _listens(address, port), 20, "the screens")
        yield Screens(address, port)
    finally:
        process.kill()
        process.wait()


def _listens(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
        return True
    return False


class Browsers:
    """So many browsers, which have all opened their screens."""

    def __init__(self, proxy: "Proxy", count: int, *, threads: int = 4, frame: bool = False):
        secrets = proxy.secrets(count)
        words = [*proxy.words, *(["frame"] if frame else []), *(["secret"] if secrets else [])]
        argv = [str(program("console_browsers")), proxy.address, str(proxy.port)]
        with _on(_cores()[1]):
            self._process = subprocess.Popen(
                [*argv, str(count), str(min(threads, count)), *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self._write("".join(f"{secret}\n" for secret in secrets))
        self.opened: Json = self._answer()
        if self.opened["opened"] < count:
            raise ApplianceError(f"{self.opened['opened']} of {count} sessions open")
        self.count = count

    def __enter__(self) -> "Browsers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait(60)

    def ask(self, line: str) -> Json:
        """Have them do something (console_browsers.c). Raises ApplianceError."""
        self._write(f"{line}\n")
        return self._answer()

    def _write(self, text: str) -> None:
        if self._process.stdin is None:
            raise RuntimeError("no pipe was asked for")
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def _answer(self) -> Json:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise ApplianceError("the browsers died")
        answer: Json = json.loads(line)
        return answer


# -- proxies -----------------------------------------------------------------------------------


class Proxy:
    """One that runs: where browsers come in, and what it uses."""

    def __init__(self, address: str, port: int, words: Sequence[str], pid: int, to: Screens):
        self.address = address
        self.port = port
        self.words = words
        self.pid = pid
        self.screen_port = to.port
        self._alone = len(self.processes())

    def rest(self) -> None:
        """Wait until the processes of sessions that are over have ended, where each has one."""
        wait_until(lambda: len(self.processes()) <= self._alone, 60, "the end of sessions")

    def secrets(self, count: int) -> list[str]:
        """What so many browsers need to come in; nothing where anybody may."""
        return []

    def processes(self) -> list[int]:
        """It, and all that it has started."""
        return list(_tree(self.pid))

    def cpu(self) -> float:
        """Seconds of CPU that its processes have used, those that are there still."""
        total = 0
        for pid in self.processes():
            for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):
                    total += int(path.read_text().split()[0])
        return total / 1e9

    def memory(self) -> int:
        """Bytes of PSS."""
        return sum(_pss(pid) for pid in self.processes())


class Ours(Proxy):
    """Our proxy with its keeper."""

    def __init__(self, made: rig.Proxy, tls: bool, screen: Screens) -> None:
        if made.process is None:
            raise RuntimeError("it was not started")
        service = "tls" if tls else "plain"
        words = ["ws", "tls"] if tls else ["ws"]
        super().__init__("127.0.0.1", made.ports[service], words, made.process.pid, screen)
        self.made = made
        self._screen = screen
        self._sessions = 0

    def secrets(self, count: int) -> list[str]:
        """Sessions that are pushed to the keeper, as the agent does it."""
        found = []
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.made.control))
            answers = sock.makefile()
            for _ in range(count):
                self._sessions += 1
                name = f"s{self._sessions}"
                secret = rig.secret(name)
                target = {"kind": "vnc", "address": self._screen.address, "port": self._screen.port}
                session = {
                    "id": name, "secret_sha256": rig.digest(secret).hex(), "vm": f"i-{name}",
                    "user": "bench", "title": "bench", "target": target, "valid": 600.0,
                    "policy": {"resume": 0.0},
                }  # fmt: skip
                sock.sendall(json.dumps({"op": "put", "session": session}).encode() + b"\n")
                answer = json.loads(answers.readline())
                if answer != {"result": "created"}:
                    raise ApplianceError(f"a session is refused: {answer}")
                found.append(secret)
        return found


@contextlib.contextmanager
def ours(
    screen: Screens, *, tls: bool, workers: int = 1, python: str = sys.executable
) -> Iterator[Ours]:
    """Our proxy, as a VM of so many cores runs it; of another tree by that one's `python`."""
    with tempfile.TemporaryDirectory(prefix="sysvm-bench-") as folder:
        made = rig.make(
            Path(folder), "tls" if tls else "plain", cap=20_000, half_open=4096,
            half_open_each=4096, handshakes_per_second=1e6, handshakes_burst=1e6, report_every=5.0,
        )  # fmt: skip
        made.workers, made.python = workers, python
        with _on(_cores()[0] if workers == 1 else os.sched_getaffinity(0)):
            made.start()
        try:
            yield Ours(made, tls, screen)
        finally:
            made.stop()


@contextlib.contextmanager
def stock(screen: Screens, *, tls: bool) -> Iterator[Proxy]:
    """websockify's own command, in its normal form."""
    with tempfile.TemporaryDirectory(prefix="sysvm-bench-") as folder:
        (port,) = rig.free_ports(1)
        argv = [str(websockify()), f"127.0.0.1:{port}", f"{screen.address}:{screen.port}"]
        if tls:
            certificate, key = _identity(Path(folder))
            argv[1:1] = ["--cert", str(certificate), "--key", str(key), "--ssl-only"]
        words = ["ws", "tls"] if tls else ["ws"]
        with _started(argv, port) as pid:
            yield Proxy("127.0.0.1", port, words, pid, screen)


@contextlib.contextmanager
def floor(screen: Screens, *, tls: bool) -> Iterator[Proxy]:
    """haproxy with one thread, which passes TCP on and knows nothing of WebSockets."""
    with tempfile.TemporaryDirectory(prefix="sysvm-bench-") as folder:
        (port,) = rig.free_ports(1)
        bind = f"bind 127.0.0.1:{port}"
        if tls:
            certificate, key = _identity(Path(folder))
            both = Path(folder) / "both.pem"
            both.write_text(certificate.read_text() + key.read_text())
            bind += f" ssl crt {both} prefer-client-ciphers"
        configuration = Path(folder) / "haproxy.cfg"
        configuration.write_text(
            "global\n  nbthread 1\n  maxconn 6000\n"
            "defaults\n  mode tcp\n  maxconn 6000\n  timeout connect 5s\n"
            "  timeout client 1h\n  timeout server 1h\n"
            f"frontend browsers\n  {bind}\n  default_backend screen\n"
            f"backend screen\n  server one {screen.address}:{screen.port}\n"
        )
        with _started([*haproxy(), "-db", "-f", str(configuration)], port) as pid:
            yield Proxy("127.0.0.1", port, ["tls"] if tls else [], pid, screen)


@contextlib.contextmanager
def nobody(screen: Screens) -> Iterator[Proxy]:
    """No proxy at all: what the machine itself takes."""
    yield Proxy(screen.address, screen.port, [], os.getpid(), screen)


def _identity(folder: Path) -> tuple[Path, Path]:
    made = Authority.create("browsers").issue("console.example", addresses=["127.0.0.1"])
    return made.write(folder, "console")


@contextlib.contextmanager
def _started(argv: list[str], port: int) -> Iterator[int]:
    with _on(_cores()[0]), tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
        try:
            wait_until(
                lambda: process.poll() is not None or _listens("127.0.0.1", port), 30, argv[0]
            )
            if process.poll() is not None:
                said.seek(0)
                raise ApplianceError(f"{argv[0]}: {said.read().decode(errors='replace')[-500:]}")
            yield process.pid
        finally:
            for pid in _tree(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            process.wait()


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                yield from _tree(int(child))


def _pss(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def interpreter() -> str:
    """What ours runs on, for the page."""
    with contextlib.suppress(PackageNotFoundError):
        return f"Python {sys.version.split()[0]}, uvloop {version('uvloop')}"
    return f"Python {sys.version.split()[0]}, asyncio's own loop"


def available() -> None:
    """Raise ApplianceError where something that is needed cannot be had."""
    if shutil.which("gcc") is None:
        raise ApplianceError("gcc is missing, which compiles the load")
    for name in ("console_screen", "console_browsers"):
        program(name)
    websockify()
    haproxy()
