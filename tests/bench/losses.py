"""What traffic notices of pushes: requests lost, how long the others took, flows that stay."""

import copy
import http.client
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from appliance.errors import ApplianceError
from appliance.lab.node import Node
from appliance.lab.process import Popen
from appliance.lab.wait import wait_until
from tests.bench import documents
from tests.bench.changes import MIX, change
from tests.bench.documents import PUBLIC_ADDRESS
from tests.bench.router import Json, Router
from tests.bench.samples import p50, percentile

PROGRAM = Path(__file__).with_name("traffic.py")
BALANCED = documents.LISTENER_ADDRESS
WEB, ECHO = 8080, 8081  # on every node that answers
LISTENER, LISTENER_ECHO = 80, 81
OUTSIDE = "198.51.100.10"
GUESTS = {"vm1": "10.1.200.10", "vm2": "10.1.200.11"}
HTTP = ("load balancer", "forward", "out")
SLOW = 0.9  # seconds: the first packet was lost and sent again


def document(size: int) -> Json:
    """A router of this size that lets the traffic through, to guests that answer it."""
    made = documents.router(size)
    macs = {"vm1": "02:00:0a:01:01:0a", "vm2": "02:00:0a:01:01:0b"}
    made["dhcp_dns"]["hosts"] |= {
        macs[name]: {"address": address, "name": name.replace("vm", "web")}
        for name, address in GUESTS.items()
    }
    for name, port in (("web", WEB), ("echo", ECHO)):
        made["nat"]["forwards"][name] = {
            "address": PUBLIC_ADDRESS, "protocol": "tcp", "ports": port,
            "to": GUESTS["vm1"], "to_ports": port,
        }  # fmt: skip
        made["firewall"]["ingress"][PUBLIC_ADDRESS][name] = {"protocol": "tcp", "ports": port}
    made["firewall"]["ingress"][BALANCED]["web"] = {
        "protocol": "tcp",
        "ports": f"{LISTENER}-{LISTENER_ECHO}",
    }
    for name, port, to in (("web", LISTENER, WEB), ("echo", LISTENER_ECHO, ECHO)):
        made["load_balancer"]["listeners"][name] = {
            "address": BALANCED, "port": port, "mode": "tcp",
            "servers": {one: {"address": at, "port": to} for one, at in GUESTS.items()},
        }  # fmt: skip
    return made


def prepare(vm: Router, size: int) -> None:
    """Push the document, and give the guests their addresses."""
    vm.put(document(size))
    for guest in vm.lab.guests.values():
        guest.dhcp()


def asked(rate: float) -> Mapping[str, Sequence[str]]:
    """What each node asks; see traffic.py."""
    return {
        "internet": (
            f"load balancer=http,{BALANCED},{LISTENER},{rate}",
            f"forward=http,{PUBLIC_ADDRESS},{WEB},{rate}",
            f"flow, forward=flow,{PUBLIC_ADDRESS},{ECHO},0",
            f"flow, load balancer=flow,{BALANCED},{LISTENER_ECHO},0",
        ),
        "vm1": (
            f"out=http,{OUTSIDE},{WEB},{rate}",
            f"flow, out=flow,{OUTSIDE},{ECHO},0",
        ),
        "vm2": (
            f"dns, own name=dns,10.1.0.1,web1.net1.example.internal,{rate / 2}",
            f"dns, other name=dns,10.1.0.1,www.example.test,{rate / 2}",
        ),
    }  # fmt: skip


@contextmanager
def program(node: Node, *words: str) -> "Iterator[Popen[bytes]]":
    """traffic.py on a node; it has said `ready`, and ends with the context."""
    process = node.popen([sys.executable, "-I", "-S", str(PROGRAM), *words], stdin=True)
    try:
        if process.stdout is None or process.stderr is None:
            raise RuntimeError("no pipe was asked for")
        if process.stdout.readline() != b"ready\n":
            raise ApplianceError(f"traffic on {node.name}: {process.stderr.read().decode()}")
        yield process
    finally:
        process.kill()
        process.wait()


def measure(
    vm: Router,
    *,
    size: int,
    pushes: int,
    requests: int,
    rate: float,
    before: float,
    say: Callable[[str], None],
) -> Json:
    """Traffic alone for `before` seconds, then with one push after another.

    There are at least `pushes`, and as many as it takes for `requests` HTTP requests.
    """
    base = vm.document
    nodes = vm.lab.nodes
    with ExitStack() as stack:
        for name in ("internet", *GUESTS):
            stack.enter_context(program(nodes[name], "serve", str(WEB)))
        wait_until(lambda: _balanced(vm), 15, "the listeners' servers")
        askers = [
            stack.enter_context(program(nodes[name], "ask", *words))
            for name, words in asked(rate).items()
        ]
        say(f"traffic alone for {before:g} s")
        begun = time.monotonic()
        time.sleep(before)
        say(f"traffic and at least {pushes} pushes among {size}")
        pushing = time.monotonic()
        lasting = requests / rate / len(HTTP) + 0.5
        took = _push(vm, base, size, lambda n: n >= pushes and time.monotonic() > pushing + lasting)
        ended = time.monotonic()
        seen: dict[str, list[tuple[float, float, str]]] = {}
        for asker in askers:
            seen |= json.loads(asker.communicate(timeout=30)[0])
    phases = {"alone": (begun, pushing), "pushing": (pushing, ended)}
    return {
        "size": size,
        "pushes": len(took),
        "push": took,
        "seconds": {name: end - start for name, (start, end) in phases.items()},
        "seen": {
            name: {phase: _summary(samples, *span) for phase, span in phases.items()}
            for name, samples in seen.items()
        },
        "flows": {
            name: {
                "stayed": bool(samples) and not samples[-1][2] and samples[-1][0] > ended - 1,
                "worst": max(seconds for _, seconds, _ in samples),
            }
            for name, samples in seen.items()
            if name.startswith("flow, ")
        },
        "timeline": _timeline(seen, begun, ended),
        "pushed_at": pushing - begun,
    }


def _balanced(vm: Router) -> bool:
    """Does the load balancer know by now that its servers are there?"""
    internet = vm.lab.internet
    try:
        with internet.connect(BALANCED, LISTENER_ECHO, timeout=1) as sock:
            sock.sendall(b".")
            return bool(sock.recv(1)) and internet.get(f"http://{BALANCED}/").status == 200
    except (OSError, http.client.HTTPException):
        return False


def _push(vm: Router, base: Json, size: int, enough: Callable[[int], bool]) -> list[float]:
    """One entry of each kind more, by PUT, then each less, by PATCH; and again with others."""
    took: list[float] = []
    while True:
        number = size + len(took)
        now = copy.deepcopy(base)
        for kind in MIX:
            now = change(kind, now, number).now
            took.append(vm.put(now))
            if enough(len(took)):
                return took
        for kind in MIX:
            took.append(vm.patch(change(kind, base, number).remove))
            if enough(len(took)):
                return took


def _summary(samples: Sequence[tuple[float, float, str]], start: float, end: float) -> Json:
    inside = [sample for sample in samples if start <= sample[0] < end]
    good = [seconds for _, seconds, wrong in inside if not wrong]
    wrong = [f"{at - start:.2f} s: {what}" for at, _, what in inside if what]
    return {
        "asked": len(inside),
        "lost": len(wrong),
        "late": sum(seconds >= SLOW for seconds in good),
        "p50": p50(good) if good else None,
        "p99": percentile(good, 99) if good else None,
        "worst": max(good, default=None),
        "errors": wrong[:5],
    }


def _timeline(
    seen: Mapping[str, Sequence[tuple[float, float, str]]], begun: float, ended: float
) -> dict[str, list[list[float]]]:
    """For the plot: the worst of each half second of each path."""
    step = 0.5
    lines: dict[str, list[list[float]]] = {}
    for name, samples in seen.items():
        worst: dict[int, float] = {}
        for at, seconds, _ in samples:
            if begun <= at < ended:
                slot = int((at - begun) / step)
                worst[slot] = max(worst.get(slot, 0.0), seconds)
        lines[name] = [[slot * step, seconds] for slot, seconds in sorted(worst.items())]
    return lines


def http_total(result: Mapping[str, Any]) -> tuple[int, int]:
    """HTTP requests asked and lost while pushing."""
    rows = [result["seen"][name]["pushing"] for name in HTTP]
    return sum(row["asked"] for row in rows), sum(row["lost"] for row in rows)
