"""Runs in the VM, takes all times there: pushes over the agent's socket, and the floor by hand.

A program of its own, standard library only. One JSON line in is one command, one JSON line out
its answer. The floor is what a person would do who knows the VM, and no more: whole firewall
text, files, a signal, and a question to the daemon until the new content answers; no checks but
haproxy's own, no journal, no second look, no way back.
"""

import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOCKET = "/run/sysvm/control.sock"
CURRENT = Path("/run/sysvm/current")
OBJECTS = Path("/run/sysvm/objects")
DNSMASQ_PID = Path("/run/dnsmasq/dnsmasq.pid")
MASTER = "/run/haproxy/master.sock"
WORKER = "/run/haproxy/admin.sock"
DAEMONS = ("dnsmasq", "haproxy", "apache2")
NICS = ("eth0", "eth2")  # the control NIC stays up
GUEST_ADDRESS = "10.1.0.1"
TABLES = ("raw", "mangle", "filter", "nat")
PATIENCE = 20.0  # seconds
LISTED = re.compile(r"objects/([0-9a-f]{64})")


@dataclass(frozen=True)
class File:
    """A file as it is on the disk."""

    content: bytes
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True)
class State:
    """All of the VM that a document decides, as the bare tools say it and take it."""

    files: Mapping[str, File]
    objects: Mapping[str, bytes]
    rules: str
    rules6: str
    sets: str
    addresses: str  # for `ip -batch`
    routes: str

    @property
    def folders(self) -> frozenset[str]:
        """The daemons' folders."""
        return frozenset(path.partition("/")[0] for path in self.files)


def tool(*argv: str, given: str = "") -> str:
    """Run a program to its end; what it printed."""
    done = subprocess.run(argv, input=given.encode(), capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.decode(errors='replace')[-500:]}")
    return done.stdout.decode()


# -- the VM as it is -----------------------------------------------------------------------------


def capture() -> State:
    files = {}
    root = CURRENT.resolve()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            status = path.stat()
            mode = status.st_mode & 0o7777
            name = str(path.relative_to(root))
            files[name] = File(path.read_bytes(), mode, status.st_uid, status.st_gid)
    named = {
        digest
        for name, file in files.items()
        if "/maps/" in name
        for digest in LISTED.findall(file.content.decode())
    }
    return State(
        files=files,
        objects={digest: (OBJECTS / digest).read_bytes() for digest in sorted(named)},
        rules=plain(tool("iptables-nft-save")),
        rules6=plain(tool("ip6tables-nft-save")),
        sets="".join(sorted(_sets(tool("ipset", "save")), key=_creation_first)),
        addresses="".join(_addresses(json.loads(tool("ip", "-json", "address", "show")))),
        routes="".join(_routes(json.loads(tool("ip", "-json", "route", "show", "proto", "77")))),
    )


def plain(saved: str) -> str:
    """What `iptables-save` printed, without comment lines and counters."""
    lines = [line for line in saved.splitlines() if not line.startswith("#")]
    return "".join(re.sub(r"\[\d+:\d+\]$", "[0:0]", line) + "\n" for line in lines)


def _sets(saved: str) -> Iterator[str]:
    for line in saved.splitlines():
        yield re.sub(r" (hashsize|bucketsize|initval) \S+", "", line) + "\n"


def _creation_first(line: str) -> tuple[bool, str]:
    return not line.startswith("create"), line


def _addresses(links: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for link in links:
        if link["ifname"] not in NICS:
            continue
        for info in link["addr_info"]:
            if info["family"] == "inet":
                address = f"{info['local']}/{info['prefixlen']}"
                yield f"address add {address} broadcast + dev {link['ifname']}\n"
        yield f"link set {link['ifname']} up mtu {link['mtu']}\n"


def _routes(routes: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for route in routes:
        if "gateway" in route:
            via = f"via {route['gateway']} dev {route['dev']}"
            yield f"route add {route['dst']} {via} proto 77\n"


# -- the floor: one change -----------------------------------------------------------------------


def change(was: State, now: State, *, ideal: bool = False) -> dict[str, float]:
    """Make the VM `now`, which is `was`, by hand; seconds of each part.

    `ideal`: only the rules that differ are edited, which takes knowing them.
    """
    parts = Parts()
    if was.sets != now.sets:
        edits = set_edits(was.sets, now.sets)
        parts.time("ipset", lambda: tool("ipset", "-exist", "restore", given=edits))
    if was.rules != now.rules:
        if ideal:
            text = rule_edits(was.rules, now.rules)
            parts.time("rules", lambda: tool("iptables-nft-restore", "--noflush", given=text))
        else:
            parts.time("rules", lambda: tool("iptables-nft-restore", given=now.rules))
    for folder in sorted(now.folders):
        changed = {
            path: file
            for path, file in now.files.items()
            if path.startswith(f"{folder}/") and was.files.get(path) != file
        }
        if changed or any(
            path.startswith(f"{folder}/") for path in was.files.keys() - now.files.keys()
        ):
            parts.time(folder, lambda: REACTIONS[folder](was, now, changed))  # noqa: B023
    return parts.seconds


class Parts:
    """Times one thing after another."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, name: str, action: Callable[[], object]) -> None:
        """Do it, and note how long it took."""
        begun = time.perf_counter()
        action()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


def set_edits(was: str, now: str) -> str:
    """What `ipset restore` takes for one to become the other."""
    before, after = was.splitlines(), now.splitlines()
    old, new = set(before), set(after)
    lines = [line for line in after if line not in old]
    lines += [f"del{line.removeprefix('add')}" for line in before if line not in new]
    return "".join(f"{line}\n" for line in lines)


def rule_edits(was: str, now: str) -> str:
    """What `iptables-restore --noflush` takes where single rules come or go."""
    before, after = _by_table(was), _by_table(now)
    text: list[str] = []
    for table, lines in after.items():
        edits = list(_edits(before[table], lines))
        text += [f"*{table}", *edits, "COMMIT"] if edits else []
    return "".join(f"{line}\n" for line in text)


def _edits(was: list[str], now: list[str]) -> Iterator[str]:
    old, new = set(was), set(now)
    numbers: dict[str, int] = {}
    gone = []
    for line in was:
        chain = line.split(" ", 2)[1]
        numbers[chain] = numbers.get(chain, 0) + 1
        if line not in new:
            gone.append(f"-D {chain} {numbers[chain]}")
    yield from reversed(gone)
    numbers.clear()
    for line in now:
        chain = line.split(" ", 2)[1]
        numbers[chain] = numbers.get(chain, 0) + 1
        if line not in old:
            yield f"-I {chain} {numbers[chain]}{line.removeprefix(f'-A {chain}')}"


def _by_table(text: str) -> dict[str, list[str]]:
    tables: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("*"):
            rules = tables.setdefault(line[1:], [])
        elif line.startswith("-A "):
            rules.append(line)
    return tables


def put(root: Path, files: Mapping[str, File]) -> None:
    """Write files, each by a rename."""
    for name, file in files.items():
        path = root / name
        draft = path.with_name(f".{path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(file.content)
        draft.chmod(file.mode)
        os.chown(draft, file.uid, file.gid)
        draft.replace(path)


def remove(was: State, now: State, folder: str) -> None:
    for path in was.files.keys() - now.files.keys():
        if path.startswith(f"{folder}/"):
            (CURRENT / path).unlink()


def dnsmasq(was: State, now: State, changed: Mapping[str, File]) -> None:
    put(CURRENT, changed)
    remove(was, now, "dnsmasq")
    os.kill(int(DNSMASQ_PID.read_text()), signal.SIGHUP)
    until(lambda: dns_answers(now))


def haproxy(was: State, now: State, changed: Mapping[str, File]) -> None:
    put(CURRENT, changed)
    tool("haproxy", "-c", "-q", "-f", str(CURRENT / "haproxy/haproxy.cfg"))
    said = ask(MASTER, "reload")
    if not said.startswith("Success=1"):
        raise RuntimeError(said)
    until(lambda: haproxy_answers(now))


def apache(was: State, now: State, changed: Mapping[str, File]) -> None:
    """A map is looked up at each request: a guest more needs no reload."""
    new = {name: data for name, data in now.objects.items() if name not in was.objects}
    put(OBJECTS, {name: File(data, 0o644, 0, 0) for name, data in new.items()})
    put(CURRENT, changed)
    remove(was, now, "apache2")
    until(lambda: apache_answers(now))


def nothing(was: State, now: State, changed: Mapping[str, File]) -> None:
    put(CURRENT, changed)


REACTIONS: Mapping[str, Callable[[State, State, Mapping[str, File]], None]] = {
    "dnsmasq": dnsmasq,
    "haproxy": haproxy,
    "apache2": apache,
    "front": nothing,
}


# -- the floor: a whole rebuild ------------------------------------------------------------------


def clear(now: State) -> None:
    """Take away all that a document made; not timed."""
    tool("systemctl", "stop", *DAEMONS)
    for program in ("iptables-nft-restore", "ip6tables-nft-restore"):
        tool(program, given="".join(f"*{table}\nCOMMIT\n" for table in TABLES))
    tool("ipset", "destroy")
    for nic in NICS:
        tool("ip", "address", "flush", "dev", nic)
        tool("ip", "link", "set", nic, "down")
    for name in now.objects:
        (OBJECTS / name).unlink()
    for folder in now.folders:
        shutil.rmtree(CURRENT / folder)


def rebuild(now: State) -> dict[str, float]:
    """From nothing to all of it, by hand; seconds of each part."""
    parts = Parts()
    parts.time("ipset", lambda: tool("ipset", "-exist", "restore", given=now.sets))
    parts.time("rules", lambda: tool("iptables-nft-restore", given=now.rules))
    parts.time("rules 6", lambda: tool("ip6tables-nft-restore", given=now.rules6))
    parts.time("ip", lambda: tool("ip", "-batch", "-", given=now.addresses + now.routes))

    def files() -> None:
        put(OBJECTS, {name: File(data, 0o644, 0, 0) for name, data in now.objects.items()})
        put(CURRENT, now.files)

    parts.time("files", files)

    def daemons() -> None:
        tool("haproxy", "-c", "-q", "-f", str(CURRENT / "haproxy/haproxy.cfg"))
        tool("systemctl", "start", *DAEMONS)
        until(lambda: dns_answers(now) and haproxy_answers(now) and apache_answers(now))

    parts.time("daemons", daemons)
    return parts.seconds


# -- does it answer ------------------------------------------------------------------------------


def until(answers: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if answers():
                return
        if time.monotonic() > deadline:
            raise RuntimeError("what was made by hand does not answer")
        time.sleep(0.001)


def dns_answers(now: State) -> bool:
    """The last of the names, which changes with any of them."""
    name = now.files["dnsmasq/names"].content.decode().split()[-1]
    query = struct.pack("!HHHHHH", random.randrange(65536), 0x100, 1, 0, 0, 0)  # noqa: S311
    for label in name.split("."):
        query += bytes((len(label),)) + label.encode()
    query += struct.pack("!BHH", 0, 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.connect((GUEST_ADDRESS, 53))
        sock.send(query)
        answer = sock.recv(1500)
    return answer[:2] == query[:2] and answer[3] & 15 == 0 and answer[6:8] == b"\0\1"


def haproxy_answers(now: State) -> bool:
    wanted = re.search(rb"description (\S+)", now.files["haproxy/haproxy.cfg"].content)
    return wanted is not None and f"description: {wanted[1].decode()}\n" in ask(WORKER, "show info")


def apache_answers(now: State) -> bool:
    named = re.search(rb"/witness/([0-9a-f]+)/", now.files["apache2/apache2.conf"].content)
    seen = now.files["apache2/witness"].content.decode().split()[-1]
    connection = http.client.HTTPConnection(GUEST_ADDRESS, timeout=1)
    try:
        connection.request("GET", f"/witness/{named[1].decode() if named else ''}/{seen}")
        return connection.getresponse().status == 204
    finally:
        connection.close()


def ask(path: str, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(30)
        peer.connect(path)
        peer.sendall(f"{command}\n".encode())
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    return answer.decode()


# -- the agent -----------------------------------------------------------------------------------


def request(
    method: str, path: str, body: bytes, headers: Mapping[str, str]
) -> tuple[int, bytes, float]:
    """One request over the agent's socket: status, answer, and seconds from connect to its end."""
    begun = time.perf_counter()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(120)
        sock.connect(SOCKET)
        connection = http.client.HTTPConnection("localhost")
        connection.sock = sock
        connection.request(method, path, body, {"Connection": "close", **headers})
        answer = connection.getresponse()
        content = answer.read()
    return answer.status, content, time.perf_counter() - begun


def processes(unit: str) -> list[int]:
    """The processes of a unit: its main one and what that has started."""
    main = int(tool("systemctl", "show", "-P", "MainPID", unit))
    found, waiting = [], [main] if main else []
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").iterdir():
            waiting += [int(child) for child in (task / "children").read_text().split()]
    return found


def memory(unit: str) -> dict[str, int]:
    """Bytes of a unit's processes: `uss` is what only they have, `pss` adds their share."""
    sums = {"uss": 0, "pss": 0, "rss": 0}
    for pid in processes(unit):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        sizes = {key: int(size) * 1024 for key, size in re.findall(r"(\w+):\s+(\d+) kB", text)}
        sums["pss"] += sizes["Pss"]
        sums["rss"] += sizes["Rss"]
        sums["uss"] += sizes["Private_Clean"] + sizes["Private_Dirty"]
    return sums


def cpu(unit: str) -> float:
    """Seconds of CPU that a unit's processes have used, with those that have ended since."""
    ticks = 0
    for pid in processes(unit):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


# -- commands ------------------------------------------------------------------------------------


class Meter:
    """What is asked for, by name."""

    def __init__(self) -> None:
        self.states: dict[str, State] = {}

    def request(self, method: str, path: str, body: str = "", kind: str = "") -> dict[str, Any]:
        headers = {"Content-Type": kind} if kind else {}
        if method == "PATCH":
            headers["If-Match"] = "*"
        status, content, seconds = request(method, path, body.encode(), headers)
        return {"status": status, "body": content.decode()[:4000], "seconds": seconds}

    def capture(self, name: str) -> dict[str, Any]:
        state = self.states[name] = capture()
        text = f"{state.rules}{state.rules6}{state.sets}{state.addresses}{state.routes}"
        digest = hashlib.sha256(text.encode())
        for path, file in state.files.items():
            digest.update(path.encode() + hashlib.sha256(file.content).digest())
        return {"digest": digest.hexdigest(), "rules": text.count("-A ")}

    def change(self, was: str, now: str, ideal: bool = False) -> dict[str, Any]:
        begun = time.perf_counter()
        parts = change(self.states[was], self.states[now], ideal=ideal)
        return {"seconds": time.perf_counter() - begun, "parts": parts}

    def clear(self, name: str) -> dict[str, Any]:
        clear(self.states[name])
        return {}

    def rebuild(self, name: str) -> dict[str, Any]:
        begun = time.perf_counter()
        parts = rebuild(self.states[name])
        return {"seconds": time.perf_counter() - begun, "parts": parts}

    def memory(self, unit: str) -> dict[str, int]:
        return memory(unit)

    def cpu(self, unit: str) -> dict[str, float]:
        return {"seconds": cpu(unit)}

    def restart(self, unit: str) -> dict[str, float]:
        """Restart the agent; seconds until it has answered."""
        begun = time.perf_counter()
        tool("systemctl", "restart", unit)
        until(lambda: request("GET", "/v1/status", b"", {})[0] == 200)
        return {"seconds": time.perf_counter() - begun}


def main() -> None:
    meter = Meter()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(meter, command.pop("do"))(**command)
        except (RuntimeError, OSError, KeyError, ValueError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
