"""The service monitor: from a daemon's death to the event, the restart and the next answer."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from appliance.errors import ApplianceError
from appliance.lab import Lab
from appliance.lab.http import Response
from appliance.lab.wait import wait_until
from tests.bench import documents
from tests.bench.router import Json, router

PROGRAM = "/run/sysvm-bench/victims.py"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDmYwjQ5hG9S2h6WpuEwcH0YB1oWnI0wcZ9Qm0vPzZqf bench"
UNITS = ("dnsmasq.service", "haproxy.service", "apache2.service", "sysvm-ssh.service")
MANY = 5000  # hosts that dnsmasq reads, in the last part
Say = Callable[[str], None]


class Listener:
    """Waits for events by long polls, and notes when each one came."""

    def __init__(self, ask: Callable[[str], Response]) -> None:
        self._ask = ask
        self._stop = threading.Event()
        self._after, self._stream = self._end()
        self.came: list[tuple[float, Json]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def of(self, kind: str, subject: str, since: float) -> list[float]:
        """When events of a kind came that happened since then."""
        return [
            at
            for at, event in list(self.came)
            if event["kind"] == kind and event["subject"] == subject and at >= since
        ]

    def _page(self, query: str) -> Json:
        answer = self._ask(f"/v1/events?limit=1000{query}")
        if answer.status != 200:
            raise ApplianceError(f"events: {answer.status} {answer.text}")
        page: Json = answer.json()
        return page

    def _end(self) -> tuple[int, str]:
        page = self._page("")
        while page["events"]:
            page = self._page(f"&after={page['next']}&stream={page['stream']}")
        return int(page["next"]), str(page["stream"])

    def _run(self) -> None:
        while not self._stop.is_set():
            page = self._page(f"&after={self._after}&stream={self._stream}&wait=5")
            at = time.monotonic()
            self.came += [(at, event) for event in page["events"]]
            self._after, self._stream = int(page["next"]), str(page["stream"])


def document(hosts: int) -> Json:
    """A router with all four daemons, and so many guests."""
    made = documents.router(max(hosts, 10), listeners=10)
    if hosts > 10:
        few = documents.router(10, listeners=10)
        few["dhcp_dns"] = made["dhcp_dns"]
        made = few
    return {**made, "ssh": {"authorized_keys": [KEY]}}


def measure(*, kills: int, hangs: int, idle: float, say: Say) -> Json:
    """Kill each daemon so often; hang each; idle for so many seconds."""
    with router("watch") as vm:
        vm.put(document(10))
        victims = _victims(vm.lab)
        try:
            for unit in UNITS:
                victims("well", unit=unit)
            result: Json = {"kills": kills, "hosts": MANY}
            with _listening(vm.lab) as heard:
                say(f"{kills} kills of each daemon")
                result["deaths"] = {unit: _kill(victims, heard, unit, kills) for unit in UNITS}
                say(f"{hangs} hangs of each daemon")
                result["hangs"] = {
                    unit: [_hang(victims, heard[0], unit) for _ in range(hangs)] for unit in UNITS
                }
                say(f"the monitor's CPU over {idle:g} s of nothing")
                result["idle"] = _idle(victims, idle)
                say(f"{kills} kills of dnsmasq with {MANY:,} hosts")
                vm.put(document(MANY))
                victims("well", unit=UNITS[0])
                result["deaths"][f"dnsmasq, {MANY:,} hosts"] = _kill(
                    victims, heard, UNITS[0], kills
                )
            return result
        finally:
            victims.close()


class Victims:
    """The program in the VM."""

    def __init__(self, lab: Lab) -> None:
        lab.vm.put(PROGRAM, Path(__file__).with_name("victims.py").read_bytes())
        argv = ["/opt/sysvm/bin/python3", "-I", "-S", PROGRAM]
        self._process: Any = lab.vm.popen(argv, stdin=True)

    def __call__(self, do: str, **arguments: object) -> Json:
        self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self._process.stdin.flush()
        answer: Json = json.loads(self._process.stdout.readline() or b'{"error": "it died"}')
        if "error" in answer:
            raise ApplianceError(f"{do}: {answer['error']}")
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def _victims(lab: Lab) -> Victims:
    return Victims(lab)


class _listening:  # noqa: N801 - a context manager
    """One who listens in the VM, and one at the manager's, over mutual TLS."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def __enter__(self) -> tuple[Listener, Listener]:
        self._heard = (
            Listener(lambda path: self._lab.vm.request("GET", path, timeout=60)),
            Listener(lambda path: self._lab.manager.request("GET", path, timeout=60)),
        )
        return self._heard

    def __exit__(self, *_: object) -> None:
        for listener in self._heard:
            listener.close()


def _kill(victims: Victims, heard: tuple[Listener, Listener], unit: str, times: int) -> Json:
    """Samples of seconds after each death, and how many events there were of all."""
    subject = unit.removesuffix(".service")
    begun, at, answers = time.monotonic(), [], []
    stored, told, recovered = [], [], []
    for _ in range(times):
        killed = victims("kill", unit=unit)
        at.append(killed["at"])
        answers.append(killed["answers"])
        stored.append(_first(heard[0], "service.died", subject, killed["at"]))
        told.append(_first(heard[1], "service.died", subject, killed["at"]))
        recovered.append(_first(heard[0], "service.recovered", subject, killed["at"]))
        victims("well", unit=unit)
    scheduled = victims("requested", unit=unit, since=begun)["at"]
    died = len(heard[1].of("service.died", subject, begun))
    return {
        "stored": stored,
        "requested": list(_after(at, scheduled)),
        "answers": answers,
        "recovered": recovered,
        "told": told,
        "lost": max(0, times - died),
        "false": max(0, died - times),
    }


def _first(listener: Listener, kind: str, subject: str, since: float) -> float:
    wait_until(lambda: listener.of(kind, subject, since), 30, f"{kind} of {subject}")
    return listener.of(kind, subject, since)[0] - since


def _after(deaths: Sequence[float], scheduled: Sequence[float]) -> Iterator[float]:
    for death in deaths:
        later = [at - death for at in scheduled if at >= death]
        if later:
            yield min(later)


def _hang(victims: Victims, listener: Listener, unit: str) -> float:
    stopped = victims("stop", unit=unit)["at"]
    found = _first(listener, "service.hung", unit.removesuffix(".service"), stopped)
    victims("well", unit=unit)
    return found


def _idle(victims: Victims, seconds: float) -> float:
    """The share of a core that the monitor's two threads use while nothing happens."""
    before, begun = victims("threads")["seconds"], time.monotonic()
    time.sleep(seconds)
    after = victims("threads")["seconds"]
    used = sum(after.get(name, 0.0) - before.get(name, 0.0) for name in ("monitor", "ask"))
    return float(used / (time.monotonic() - begun))
