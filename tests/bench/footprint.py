"""What the agent costs while nothing happens: memory, CPU; and how long it takes to be there."""

import time
from collections.abc import Callable

from appliance.lab.wait import wait_until
from tests.bench import documents
from tests.bench.changes import MIX, change
from tests.bench.router import AGENT, Json, Router, router


def measure(*, size: int, pushes: int, idle: float, boots: int, say: Callable[[str], None]) -> Json:
    """The agent in a VM of its own, from its first second on."""
    result: Json = {"size": size, "pushes": pushes, "idle_seconds": idle}
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


def _idle(vm: Router, seconds: float, say: Callable[[str], None]) -> float:
    """The share of a core that the agent uses while nobody asks for anything."""
    say(f"the agent's CPU over {seconds:g} s of nothing")
    before = vm.ask("cpu", unit=AGENT)["seconds"]
    begun = time.monotonic()
    time.sleep(seconds)
    used: float = vm.ask("cpu", unit=AGENT)["seconds"] - before
    return used / (time.monotonic() - begun)


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
