"""The image as a console proxy of 1 GiB with 5,000 consoles open over TLS, all of which answer.

Without KVM a console takes a tenth of a second to open, and there are fewer of them: then what the
kernel says is available with so many is reckoned on to 5,000.
"""

import base64
import hashlib
import json
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agent.services.console import UNIT
from appliance.errors import ApplianceError
from appliance.lab.process import Popen
from appliance.qemu.bench import Bench
from appliance.qemu.cases.check import Checks, check, no_failed_units
from appliance.qemu.cases.console import ADDRESS, NAME, document
from appliance.qemu.machine import Machine

MEMORY = 1024  # MiB
SESSIONS = 5000
EMULATED = 1000  # as many without KVM
_AT_ONCE = 500  # pushed, and opened, before the next
_SCREEN = ("203.0.113.1", 5900)
_LIMITS = {
    "max_sessions": SESSIONS,
    "max_half_open": SESSIONS,
    "max_half_open_per_source": SESSIONS,
    "connections_per_second": 10000,
    "connections_burst": 10000,
}
_SLACK = 64  # MiB that are to be left over for whatever else comes

# What management's pushes come to in the proxy, without 5,000 requests to the agent.
_PUSH = """
import base64, hashlib, json, socket, sys
seed, first, last, address, port = sys.argv[1:]
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect("/run/sysvm-console-proxy/control")
    answers = sock.makefile()
    for n in range(int(first), int(last)):
        raw = hashlib.sha256(f"{seed}-{n}".encode()).digest()
        secret = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        session = {"id": f"s{n}", "secret_sha256": hashlib.sha256(secret.encode()).hexdigest(),
            "vm": f"vm{n}", "user": f"user{n}", "title": f"vm{n}", "valid": 600.0,
            "target": {"kind": "vnc", "address": address, "port": int(port)}}
        sock.sendall(json.dumps({"op": "put", "session": session}).encode() + b"\\n")
        answer = answers.readline()
        if "created" not in answer:
            sys.exit(answer)
"""


def sessions(bench: Bench) -> Checks:
    """Memory is what the kernel says is available, with its sockets."""
    yield from held(bench, SESSIONS if "kvm" in bench.cloud.accelerator else EMULATED)


def held(bench: Bench, count: int) -> Checks:
    """So many consoles, all at once."""
    bench.discard()
    vm = bench.boot(bench.spec(memory=MEMORY))
    bench.cloud.wait_ready()
    section = {**document(bench)["console"], **_LIMITS}
    answer = bench.cloud.push({**document(bench), "console": section})
    yield check("a document makes it a console proxy", answer.status in {200, 201}, answer.text)
    # Emulated, a core is busy for minutes, and what does not answer for six seconds is killed.
    hold = ("--for", "60m", "--reason", "its memory is what is looked at")
    vm.run(["sysvmctl", "service", "hold", UNIT.removesuffix(".service"), *hold])
    seed = secrets.token_hex(16)
    before = _memory(vm)
    with _crowd(bench) as crowd:
        opened = 0
        for first in range(0, count, _AT_ONCE):
            last = min(first + _AT_ONCE, count)
            words = (seed, str(first), str(last), _SCREEN[0], str(_SCREEN[1]))
            vm.run(["/opt/sysvm/bin/python3", "-c", _PUSH, *words], timeout=300)
            told = _ask(crowd, " ".join(("open", *(_secret(seed, n) for n in range(first, last)))))
            opened += told["opened"]
            bench.say(f"{opened} consoles are open; {_available(vm)} MiB available")
            if told["failed"]:
                yield check("they open", False, told["failed"])  # noqa: FBT003
                break
        yield check(f"{count:,} consoles are open at once", opened == count, opened)
        answered = _ask(crowd, "keys")["answered"]
        yield check("a key of each is answered", answered == count, answered)
        yield from _enough(vm, before, count)
    yield from no_failed_units("with all of them", vm)
    bench.discard()


def _enough(vm: Machine, before: dict[str, int], count: int) -> Checks:
    now = _memory(vm)
    each = (before["MemAvailable"] - now["MemAvailable"]) / count
    total, left = now["MemTotal"] >> 10, now["MemAvailable"] >> 10
    sockets = _tcp(vm.run(["cat", "/proc/net/sockstat"]).text)
    then = int(before["MemAvailable"] - SESSIONS * each) >> 10
    words = f"{left} of {total} MiB are available then, {then} with {SESSIONS:,}"
    yield check(f"{words} ({each:.1f} KiB for a console, {sockets})", then >= _SLACK, now)
    killed = vm.run(["grep", "^oom_kill ", "/proc/vmstat"]).text.split()[-1]
    yield check("nothing was killed for want of memory", killed == "0", killed)
    restarts = vm.run(["systemctl", "show", "--value", "-p", "NRestarts", UNIT]).text.strip()
    said = vm.run(["journalctl", "--no-pager", "-p", "warning", "-n", "40", "-o", "cat"]).text
    yield check("the proxy was not restarted", restarts == "0", f"{restarts}\n{said}")


def _memory(vm: Machine) -> dict[str, int]:
    """/proc/meminfo, in KiB."""
    lines = vm.run(["cat", "/proc/meminfo"]).text.splitlines()
    return {line.partition(":")[0]: int(line.split()[1]) for line in lines}


def _available(vm: Machine) -> int:
    return _memory(vm)["MemAvailable"] >> 10


def _tcp(text: str) -> str:
    """What the kernel's own count says of TCP: `mem` is in pages."""
    line = next(line for line in text.splitlines() if line.startswith("TCP:"))
    words = line.split()
    found = dict(zip(words[1::2], words[2::2], strict=True))
    return f"{int(found['inuse']):,} sockets with {int(found['mem']) * 4} KiB queued"


def _secret(seed: str, number: int) -> str:
    raw = hashlib.sha256(f"{seed}-{number}".encode()).digest()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@contextmanager
def _crowd(bench: Bench) -> "Iterator[Popen[bytes]]":
    """Browsers and screens, beyond the public network."""
    node = bench.cloud.internet
    authority = bench.cloud.folder / "browsers.pem"
    authority.write_text(bench.cloud.keys.authority.identity.certificate)
    words = (ADDRESS, "443", NAME, str(authority), _SCREEN[0], str(_SCREEN[1]))
    crowd = node.popen([sys.executable, "-m", "appliance.lab.crowd", *words], stdin=True)
    try:
        yield crowd
    finally:
        crowd.kill()
        crowd.wait(20)


def _ask(crowd: "Popen[bytes]", line: str) -> dict[str, Any]:
    """Have the crowd do something. Raises ApplianceError where it has died."""
    if crowd.stdin is None or crowd.stdout is None:
        raise TypeError("the crowd has no pipes")
    crowd.stdin.write(f"{line}\n".encode())
    crowd.stdin.flush()
    answer = crowd.stdout.readline()
    if not answer:
        said = crowd.stderr.read().decode(errors="replace") if crowd.stderr else ""
        raise ApplianceError("the crowd died", said[-2000:])
    told: dict[str, Any] = json.loads(answer)
    return told
