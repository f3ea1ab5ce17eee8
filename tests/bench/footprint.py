"""What the agent costs while nothing happens: memory, CPU; and how long it takes to be there."""

import time
from collections.abc import Callable

from agent.monitor.health import Level
from agent.services import monitoring
from appliance.errors import ApplianceError
from appliance.lab.wait import wait_until
from tests.bench import documents
from tests.bench.changes import MIX, change
from tests.bench.router import AGENT, Json, Router, router

SETTLED = 50.0  # seconds in which the agent looks for drift, and gives back what pushes took
ROUNDS = 5  # of health checks, for one is too short to be measured
INTERVALS = {
    Level.BASIC: monitoring.ABSENT.interval,
    Level.ADVANCED: monitoring.ABSENT.advanced_interval,
}


def measure(*, size: int, pushes: int, idle: float, boots: int, say: Callable[[str], None]) -> Json:
    """The agent in a VM of its own, from its first second on."""
    result: Json = {"size": size, "pushes": pushes}
    with router("self") as vm:
        say("the agent's memory")
        memory = {"started": vm.ask("memory", unit=AGENT)}
        base = documents.router(size)
        vm.put(base)
        memory[f"first push of {size}"] = vm.ask("memory", unit=AGENT)
        _push(vm, base, size, pushes)
        memory[f"{pushes} pushes more"] = vm.ask("memory", unit=AGENT)
        result["idle"] = _idle(vm, idle, say) if idle else None
        if idle:
            memory[f"{idle:g} s of nothing"] = vm.ask("memory", unit=AGENT)
        result["memory"] = memory
        say("restarts of the agent, boots of the VM")
        result["restart"] = [vm.ask("restart", unit=AGENT)["seconds"] for _ in range(boots)]
        memory["restart"] = vm.ask("memory", unit=AGENT)
        result["boot"], result["serving"] = [], []
        for _ in range(boots):
            serving, answering = _boot(vm)
            result["serving"].append(serving)
            result["boot"].append(answering)
        vm.metered()
        memory["boot"] = vm.ask("memory", unit=AGENT)
    return result


def _idle(vm: Router, seconds: float, say: Callable[[str], None]) -> Json:
    """What the agent uses while nobody asks for anything, in seconds of CPU each second.

    A stretch between two rounds of health checks, and a round of each level spread over its
    interval: one that fell into the stretch would count for too much, one beside it for nothing.
    """
    say(f"the agent's CPU over {seconds:g} s of nothing")
    time.sleep(SETTLED)
    rounds = {level: _cpu_of_round(vm, level) for level in INTERVALS}
    begun = time.monotonic()
    before = _cpu(vm)
    time.sleep(seconds)
    between = (_cpu(vm) - before) / (time.monotonic() - begun)
    share = between + sum(rounds[level] / INTERVALS[level] for level in rounds)
    return {"seconds": seconds, "between": between, "rounds": rounds, "share": share}


def _cpu_of_round(vm: Router, level: Level) -> float:
    """Seconds of CPU; the first round, which imports what it needs, is not among them."""
    _check(vm, level)
    before = _cpu(vm)
    for _ in range(ROUNDS):
        _check(vm, level)
    return (_cpu(vm) - before) / ROUNDS


def _check(vm: Router, level: Level) -> None:
    answer = vm.ask("request", method="POST", path=f"/v1/health/run?level={level}")
    if answer["status"] != 200:
        raise ApplianceError(f"health checks: {answer['status']}: {answer['body']}")


def _cpu(vm: Router) -> float:
    seconds: float = vm.ask("cpu", unit=AGENT)["seconds"]
    return seconds


def _push(vm: Router, base: Json, size: int, pushes: int) -> None:
    for number in range(pushes // 2):
        step = change(MIX[number % len(MIX)], base, size + number)
        vm.put(step.now)
        vm.patch(step.remove)


def _boot(vm: Router) -> tuple[float, float]:
    """Pull the plug, switch on: seconds until a listener accepts outside, and the agent answers."""
    vm.lab.vm.pull_plug()
    begun = time.monotonic()
    vm.lab.vm.start(wait=False)
    internet = vm.lab.internet
    wait_until(
        lambda: internet.reaches(documents.LISTENER_ADDRESS, documents.FIRST_LISTENER),
        60,
        "a listener",
    )
    serving = time.monotonic() - begun
    vm.lab.vm.wait_ready()
    return serving, time.monotonic() - begun
