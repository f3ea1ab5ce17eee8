"""What rules cost a packet: established flows, and new connections, by the number of rules."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from appliance.errors import ApplianceError
from appliance.lab.node import Node
from tests.bench import documents
from tests.bench.documents import PUBLIC_ADDRESS
from tests.bench.losses import GUESTS, PROGRAM, document, program
from tests.bench.router import Json, Router, router
from tests.bench.samples import p50

SINK, ECHO, CLOSE = 9000, 9001, 9002  # on the guest
BURSTS = 5


def measure(
    sizes: Sequence[int], rounds: int, seconds: float, say: Callable[[str], None]
) -> Iterator[tuple[int, Json]]:
    """For each number of rules: bytes a second, seconds of a round trip and of a connect.

    Each number is visited `rounds` times, in turn, so that a slow moment of the machine does not
    become a property of one of them.
    """
    seen: dict[int, dict[str, list[float]]] = {
        size: {"bytes_a_second": [], "trip": [], "connect": [], "push": []} for size in sizes
    }
    with router("packet") as vm, program(vm.lab.guests["vm1"], "sink", str(SINK)):
        for turn in range(rounds):
            for size in sizes:
                say(f"packets through {size} rules, round {turn + 1} of {rounds}")
                for name, value in _visit(vm, size, seconds, first=not turn).items():
                    seen[size][name].append(value)
    for size in sizes:
        yield size, {"samples": seen[size], **_best(seen[size])}


def _best(seen: Mapping[str, Sequence[float]]) -> Mapping[str, float]:
    """What the machine can do when nobody else wants it."""
    return {
        name: max(values) if name == "bytes_a_second" else min(values)
        for name, values in seen.items()
    }


def _visit(vm: Router, size: int, seconds: float, *, first: bool) -> Mapping[str, float]:
    push = vm.put(_document(size))
    if first:
        vm.lab.guests["vm1"].dhcp()
    internet = vm.lab.internet
    stream = _ask(internet, "stream", PUBLIC_ADDRESS, SINK, seconds)
    # Whoever else wants the machine comes and goes: the best of short looks is the router's own.
    trips = [_ask(internet, "trips", PUBLIC_ADDRESS, ECHO, seconds / 4) for _ in range(BURSTS)]
    connect = [_ask(internet, "connect", PUBLIC_ADDRESS, CLOSE, seconds / 4) for _ in range(BURSTS)]
    return {
        "bytes_a_second": stream["bytes_a_second"],
        "trip": min(p50(one["seconds"]) for one in trips),
        "connect": min(p50(one["seconds"]) for one in connect),
        "push": push,
    }


def _document(size: int) -> Json:
    """One guest with three forwards, and rules of which theirs are the last."""
    made = document(0)
    rules = {f"a{n:05}": documents.rule(n) for n in range(size)}
    rules["z"] = {"protocol": "tcp", "ports": f"{SINK}-{CLOSE}"}
    made["firewall"]["ingress"][PUBLIC_ADDRESS] = rules
    made["nat"]["forwards"]["sink"] = {
        "address": PUBLIC_ADDRESS, "protocol": "tcp", "ports": f"{SINK}-{CLOSE}",
        "to": GUESTS["vm1"], "to_ports": f"{SINK}-{CLOSE}",
    }  # fmt: skip
    return made


def _ask(node: Node, what: str, address: str, port: int, seconds: float) -> Json:
    argv = [sys.executable, "-I", "-S", str(PROGRAM), what, address, str(port), str(seconds)]
    done = node.run(argv, timeout=seconds + 30)
    try:
        answer: Json = json.loads(done.text)
    except ValueError as error:
        raise ApplianceError(f"{what}: {done.stderr.decode()}") from error
    return answer
