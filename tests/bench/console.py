"""The console proxy against stock websockify, with haproxy in TCP mode as the floor.

`measure` runs this module as a program in a network of its own, where TCP is as in the VM: whatever
else the machine does with its network has no part in it. All three take turns in each round, so
that a slow moment of the machine does not become a property of one of them; what is compared are
ratios within a round, and of those the median.
"""

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from appliance.errors import ApplianceError
from appliance.lab.wait import TookTooLong, wait_until
from tests.bench import console_proxies as proxies
from tests.bench.console_proxies import Browsers, Json, Ours, Proxy, Screens
from tests.unit.console import rig

ADDRESS = "10.2.0.7"  # the hypervisor's
FRAME = 16 + 4 * 1024 * 768  # bytes of a whole screen
PASTED = 10 * 1024  # bytes of a frame of what is pasted, as noVNC sends it
MANY = 200  # sessions at once, of which keys come
RATE = 10  # keys a second of each
OFFERED = 2500  # sessions that are pushed at once
STALLED = 3.0  # seconds for which a browser does not read what a screen sends
GIB, MIB = 1 << 30, 1 << 20
RETRY = (
    0.5,
    1.0,
    2.0,
    4.0,
    8.0,
)  # seconds between the page's tries (agent/console/page/console.js)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured: rounds, seconds, and counts."""

    rounds: int
    frames: int  # to the browser
    texts: int  # of 1 MiB from each of 32 browsers
    seconds: float  # of keys, as quickly as they come, and the same at a rate
    idle: int  # sessions whose memory is taken of all
    opened: int  # for the rate
    clicks: int
    sessions: tuple[int, ...]  # whose memory is taken of ours alone
    kept: int  # while the certificate changes
    killed: int  # pages of workers that are killed


FULL = Sizes(5, 160, 4, 3.0, 100, 200, 20, (100, 1000, 5000), 1000, 20)
QUICK = Sizes(1, 40, 1, 1.0, 30, 50, 5, (100, 1000), 200, 6)


def measure(sizes: Sizes, say: Say) -> Json:
    """All of it. Raises ApplianceError."""
    proxies.available()
    argv = ["unshare", "--net", sys.executable, "-m", "tests.bench.console"]
    with subprocess.Popen(
        [*argv, json.dumps(asdict(sizes))], stdout=subprocess.PIPE, text=True
    ) as process:
        result: Json = {}
        for line in process.stdout or ():
            given = json.loads(line)
            if "say" in given:
                say(given["say"])
            else:
                result = given
    if process.returncode or not result:
        raise ApplianceError("the console's measurements failed; the lines above say how")
    return result


def main() -> int:
    """Measure, in this network: what is told on the way and the result are lines of JSON."""
    sizes = Sizes(**json.loads(sys.argv[1]))

    def tell(value: Json) -> None:
        sys.stdout.write(f"{json.dumps(value)}\n")
        sys.stdout.flush()

    try:
        network()
        tell(_all(sizes, lambda words: tell({"say": words})))
    except (ApplianceError, TookTooLong, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"console: {error}\n")
        return 1
    return 0


def network() -> None:
    """Loopback with the hypervisor's address, and the congestion control that Debian has."""
    commands = ["link set lo up", f"address add {ADDRESS}/32 dev lo"]
    for place, source in (
        ("127.0.0.0/8", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), (ADDRESS, ADDRESS),
    ):  # fmt: skip
        commands.append(
            f"route replace local {place} dev lo table local proto kernel scope host "
            f"src {source} congctl lock cubic"
        )
    for command in commands:
        subprocess.run(("ip", *command.split()), check=True)


def _all(sizes: Sizes, say: Say) -> Json:
    visits: dict[str, dict[str, list[Json]]] = {
        kind: {name: [] for name in proxies.NAMES} for kind in ("plain", "tls")
    }
    direct: list[Json] = []
    with proxies.screens() as screen:
        for turn in range(sizes.rounds):
            with proxies.nobody(screen) as nobody:
                direct.append(_latency(nobody, sizes.seconds))
            for kind, by_name in visits.items():
                names = proxies.NAMES[turn % 3 :] + proxies.NAMES[: turn % 3]
                for name in names:
                    say(f"console: {name}, {kind}, round {turn + 1} of {sizes.rounds}")
                    with _STARTS[name](screen, tls=kind == "tls") as proxy:
                        by_name[name].append(_visit(proxy, sizes))
        result: Json = {"runs_on": proxies.interpreter(), "visits": visits, "direct": direct}
        result["sizes"] = asdict(sizes)
        say("console: memory by the number of sessions")
        result["memory"] = {
            kind: _memory(screen, sizes.sessions, tls=kind == "tls") for kind in visits
        }
        say(f"console: a certificate changes under {sizes.kept} sessions")
        result["certificate"] = _certificate(screen, sizes.kept)
        say("console: all workers are killed")
        result["killed"] = _killed(screen, sizes.killed)
    return result


_STARTS: Mapping[str, Callable[..., contextlib.AbstractContextManager[Proxy]]] = {
    "ours": proxies.ours,
    "websockify": proxies.stock,
    "haproxy": proxies.floor,
}


# -- one of the three ----------------------------------------------------------------------------


def _visit(proxy: Proxy, sizes: Sizes) -> Json:
    """Everything that is compared, of a proxy that has just started."""
    found: Json = {}
    with Browsers(proxy, 1) as one:
        one.ask("down 8")
    proxy.rest()
    base = proxy.memory()
    with Browsers(proxy, sizes.idle):
        found["session"] = (proxy.memory() - base) / sizes.idle
    with Browsers(proxy, 1) as one:
        one.ask("down 8")
        took, answer = _timed(proxy, one, f"down {sizes.frames}")
        found["down"] = took / answer["bytes"] * GIB
        found["down_rate"] = answer["bytes"] / answer["seconds"]
        before = proxy.memory()
        one.ask("stall")
        time.sleep(STALLED)
        found["stalled"] = max(0, proxy.memory() - before)
        found["stalled_kernel"] = queued(proxy.port, proxy.screen_port)
    with Browsers(proxy, 32) as some:
        took, answer = _timed(proxy, some, f"up {sizes.texts} {PASTED}")
        found["up"] = took / answer["bytes"] * GIB
    proxy.rest()
    before_cpu = proxy.cpu()
    with Browsers(proxy, sizes.opened, threads=8) as opened:
        found["open_cpu"] = (proxy.cpu() - before_cpu) / sizes.opened
        found["open_rate"] = sizes.opened / opened.opened["seconds"]
    with Browsers(proxy, sizes.clicks, threads=1, frame=True) as clicks:
        found["click"] = clicks.opened["p50"]
    with Browsers(proxy, MANY) as many:
        many.ask("keys 0.3 0")
        took, answer = _timed(proxy, many, f"keys {sizes.seconds} 0")
        found["trip"] = took / answer["trips"]
        found["trip_rate"] = answer["trips"] / answer["seconds"]
        found |= _paced(proxy, many, sizes.seconds)
    return found


def _latency(proxy: Proxy, seconds: float) -> Json:
    with Browsers(proxy, MANY) as many:
        many.ask("keys 0.3 0")
        return _paced(proxy, many, seconds)


def _paced(proxy: Proxy, browsers: Browsers, seconds: float) -> Json:
    """Keys as people might type them, all at once."""
    took, answer = _timed(proxy, browsers, f"keys {seconds} {RATE}")
    if answer["dead"]:
        raise ApplianceError(f"browsers were lost: {answer}")
    return {"key": took / answer["trips"], "p50": answer["p50"], "p99": answer["p99"]}


def _timed(proxy: Proxy, browsers: Browsers, line: str) -> tuple[float, Json]:
    before = proxy.cpu()
    answer = browsers.ask(line)
    return proxy.cpu() - before, answer


def queued(port: int, screen: int) -> int:
    """Bytes that the kernel keeps for the proxy's connections, to and from either side."""
    lines = subprocess.run(
        ("ss", "-Htmn"), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    total = 0
    for head, memory in zip(lines[::2], lines[1::2], strict=True):
        own, peer = head.split()[3:5]
        if own.endswith(f":{port}") or (peer.endswith(f":{screen}") and own != peer):
            total += sum(int(found) for found in re.findall(r"\b[rw](\d+)", memory))
    return total


# -- ours alone ----------------------------------------------------------------------------------


def _memory(screen: Screens, counts: tuple[int, ...], *, tls: bool) -> Json:
    """Memory by the number of idle sessions, and whether all of them are there and answer."""
    with proxies.ours(screen, tls=tls, workers=len(os.sched_getaffinity(0))) as proxy:
        with Browsers(proxy, 4) as few:
            few.ask("down 4")
        base = proxy.memory()
        rows = []
        for count in counts:
            with contextlib.ExitStack() as stack:
                # The keeper holds no more secrets than that which nobody has used yet.
                groups = [
                    stack.enter_context(Browsers(proxy, min(OFFERED, count - first), threads=8))
                    for first in range(0, count, OFFERED)
                ]
                memory = proxy.memory()
                answers = [group.ask("keys 2 1") for group in groups]
                rows.append(
                    {
                        "sessions": count,
                        "memory": memory,
                        "each": (memory - base) / count,
                        "lost": sum(max(one["lost"], one["dead"]) for one in answers),
                    }
                )
            wait_until(lambda: _sessions(proxy) == 0, 60, "the end of all sessions")
        return {"base": base, "rows": rows}


def _sessions(proxy: Ours) -> int:
    return len(proxy.made.ask({"op": "state"})["sessions"])


def _certificate(screen: Screens, count: int) -> Json:
    """How many sessions are lost when the certificate changes."""
    with (
        proxies.ours(screen, tls=True) as proxy,
        Browsers(proxy, count, threads=8) as browsers,
    ):
        made, before = proxy.made, _serial(proxy)
        made.certify()
        made.write(witness="second")
        if made.process is not None:
            made.process.send_signal(signal.SIGHUP)
        wait_until(lambda: made.ask({"op": "state"})["witnesses"] == ["second"], 30, "a reload")
        answer = browsers.ask("keys 2 1")
        lost = max(answer["dead"], answer["lost"])
        return {"sessions": count, "lost": lost, "changed": _serial(proxy) != before}


def _serial(proxy: Ours) -> object:
    context = ssl.create_default_context(cadata=proxy.made.authority.identity.certificate)
    with (
        socket.create_connection((proxy.address, proxy.port), 10) as sock,
        context.wrap_socket(sock, server_hostname="console.example") as tls,
    ):
        return (tls.getpeercert() or {})["serialNumber"]


def _killed(screen: Screens, count: int) -> list[float]:
    """Seconds from the death of every worker until each page has its screen again."""
    with proxies.ours(screen, tls=True, workers=len(os.sched_getaffinity(0))) as proxy:
        pages = []
        for number in range(count):
            offered = proxy.made.offer(f"k{number}", screen.port, policy={"resume": 60.0})
            back = rig.secret(f"back{number}")
            page = rig.Browser(proxy.made, offer=offered, back=back)
            page.open()
            pages.append((page, back))
        _, *workers = proxy.processes()
        at = time.monotonic()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        took: list[float] = []

        def come_back(page: rig.Browser, secret: str) -> None:
            page.end()
            for pause in RETRY:
                time.sleep(pause)
                with contextlib.suppress(OSError, EOFError, rig.TurnedAway):
                    rig.Browser(proxy.made, offer=secret).open()
                    took.append(time.monotonic() - at)
                    return

        threads = [threading.Thread(target=come_back, args=one) for one in pages]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return took if len(took) == count else [*took, float("inf")]


if __name__ == "__main__":
    sys.exit(main())
