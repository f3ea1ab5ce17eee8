"""The disk is full, the clock wrong, memory short, no process can be started."""

import re
import time
from collections.abc import Sequence
from typing import Any

from appliance.lab.faults import FORBIDDEN, example
from appliance.lab.wait import wait_until
from appliance.lab.whole import UNITS, Whole
from appliance.qemu import guest
from appliance.qemu.bench import READY, Bench, difference
from appliance.qemu.cases.check import Checks, check, no_failed_units, same, unit_property
from appliance.qemu.machine import Machine

_CONFIRM = 90.0  # seconds
_GREEDY, _TAKE_ALL = "sysvm-greedy.service", ("tail", "/dev/zero")
_STEADY = 10.0  # seconds without a restart
_FULL = "/var/lib/sysvm/.filled"


def disk_full(bench: Bench) -> Checks:
    """The disk for state is full: a push is refused, the guest is served, and it heals.

    A reset brings everything back, all the same.
    """
    vm = bench.serving()
    before = bench.look()
    fill = f"head -c 100G /dev/zero >{_FULL} 2>/dev/null; sync; df -P /var/lib/sysvm | tail -n 1"
    shown = vm.run(["sh", "-c", fill], 300, check=False).text
    yield check("the disk can be filled", "100%" in shown, shown)
    try:
        answer = bench.cloud.push(_changed())
        yield check("a push is refused: 507", answer.status == 507, (answer.status, answer.text))
        after = bench.wait_whole(before, 20)
        yield check("nothing has changed", after == before, difference(before, after))
        verdict = guest.wait_served(
            bench.cloud.guest(), after=guest.last(bench.cloud.guest()).round
        )
        yield check("the guest is served", verdict.served, verdict)
        vm.run(["systemctl", "restart", "sysvm-agent.service"], 120, check=False)
        bench.cloud.wait_ready(120)
        yield check("the agent can be restarted", True)  # noqa: FBT003
        yield from _full_again(bench, vm, before)
    finally:
        vm.run(["rm", "-f", _FULL], check=False)
    answer = bench.cloud.push(_changed())
    yield check("with room again, the push is taken", answer.status in (200, 201), answer.text)
    bench.push_example()


def _full_again(bench: Bench, vm: Machine, before: Whole) -> Checks:
    """A boot that finds no room."""
    tenant = bench.cloud.guest()
    vm.reset()
    wait_until(lambda: not bench.cloud.ready(), 60, "the agent being away", every=0.2)
    verdict = guest.wait_served(tenant, READY, after=guest.last(tenant).round + 1)
    yield check("after a reset, with no room still, the guest is served", verdict.served, verdict)
    bench.cloud.wait_ready(READY)
    after = bench.wait_whole(before)
    yield check("what ran before runs again", after == before, difference(before, after))
    answer = bench.cloud.push(_changed())
    yield check("a push is refused still: 507", answer.status == 507, (answer.status, answer.text))


def _changed() -> dict[str, Any]:
    document = example(0)
    document["nat"]["forwards"]["more"] = {**FORBIDDEN, "ports": 9191}
    return document


def clock(bench: Bench) -> Checks:
    """The hypervisor's clock an hour slow, then ten years ahead, then right again."""
    disk = bench.new_disk()
    bench.boot(bench.spec(disk))
    bench.cloud.wait_ready(READY)
    bench.push_example()
    guest.wait_served(bench.cloud.guest(), after=guest.last(bench.cloud.guest()).round)
    now = time.time()
    for words, offset, let_in in (
        ("an hour slow", -3600, True),
        ("ten years ahead", 10 * 365.25 * 86400, False),
        ("right again", 0, True),
    ):
        vm = bench.vm
        if vm is not None:
            vm.power_button()
            vm.wait_off(180)
        base = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now + offset))
        vm = bench.boot(bench.spec(disk, clock=base if offset else "utc"))
        after = guest.last(bench.cloud.guest()).round
        verdict = guest.wait_served(bench.cloud.guest(), READY, after=after)
        yield check(f"{words}: the guest is served", verdict.served, verdict)
        vm.wait_success(["sysvmctl", "status"], 120, "an answer to sysvmctl")
        if let_in:
            bench.cloud.wait_ready(120)
            answer = bench.cloud.push(example(0))
            yield check(f"{words}: takes a push", answer.status in (200, 201), answer.text)
        else:
            year = vm.run(["date", "+%Y"]).text.strip()
            yield check(f"{words}: it believes so", int(year) > time.gmtime(now).tm_year + 5, year)
            refused = not bench.cloud.ready()
            yield check(f"{words}: certificates that are over by then are refused", refused)
        yield from no_failed_units(words, vm)
    for words, seconds in (("back", -3600), ("forward", 3600)):
        yield from _set_while_a_change_waits(bench, words, seconds)


def _set_while_a_change_waits(bench: Bench, words: str, seconds: int) -> Checks:
    """The clock is set, and the agent begins anew, while a change waits to be confirmed."""
    vm = bench.started()
    confirmed = bench.cloud.running()
    answer = bench.cloud.push(_changed(), confirm_within=_CONFIRM)
    begun = time.monotonic()
    when = f"an hour {words} while a change waits"
    yield check(f"{when}: the change is provisional", answer.status == 202, answer.text)
    vm.run(["sh", "-c", f'date -s "@$(($(date +%s) + {seconds}))"; systemctl restart sysvm-agent'])
    bench.cloud.wait_ready(120)
    left = bench.cloud.request("GET", "/v1/status").json()["seconds_left"]
    yield check(f"{when}: status counts on", left is not None and left < _CONFIRM, left)
    wait_until(lambda: bench.cloud.running() == confirmed, 180, "the change being undone")
    took = time.monotonic() - begun
    yield check(f"{when}: it is undone in its time", took >= _CONFIRM - 5, took)
    verdict = guest.wait_served(bench.cloud.guest(), after=guest.last(bench.cloud.guest()).round)
    yield check(f"{when}: the guest is served", verdict.served, verdict)
    vm.run(["sh", "-c", f'date -s "@$(($(date +%s) - {seconds}))"'])


def memory(bench: Bench) -> Checks:
    """Daemons out of memory, one by one, and then the whole VM: each is back, by itself."""
    vm = bench.serving()
    units = (*UNITS, "sysvm-agent.service")
    for unit in units:
        before = unit_property(vm, unit, "NRestarts")
        squeeze = "memory=$(cat /sys/fs/cgroup/system.slice/$1/memory.current)"
        limit = f"{squeeze}; echo $((memory / 4)) >/sys/fs/cgroup/system.slice/$1/memory.max"
        vm.run(["sh", "-c", limit, "sh", unit], check=False)
        restarted = f"test $(systemctl show --value -p NRestarts {unit}) -gt {before}"
        vm.wait_success(["sh", "-c", restarted], 60, f"{unit} being killed for its memory")
        free = "echo max >/sys/fs/cgroup/system.slice/$1/memory.max"
        vm.run(["sh", "-c", free, "sh", unit], check=False)
        vm.wait_success(["systemctl", "-q", "is-active", unit], 90, f"{unit} being back")
        killed = vm.run(["journalctl", "-b", "-u", unit, "--no-pager", "-n", "200"]).text
        yield check(
            f"{unit} was killed for its memory and is back",
            re.search(r"oom-kill|OOM|out of memory", killed),
            killed[-800:],
        )
    # One that is killed while it starts is started again: what counts is how it settles.
    wait_until(lambda: _active_for(vm, units) >= _STEADY, 120, "all of them staying up", every=1)
    so_far = _restarts(vm, units)
    # In a unit of its own: systemd stops all of the one in which a process was killed.
    vm.run(["systemd-run", "-q", f"--unit={_GREEDY}", "-p", "OOMScoreAdjust=1000", *_TAKE_ALL])
    killed = f"systemctl show --value -p Result {_GREEDY} | grep -qx oom-kill"
    vm.wait_success(["sh", "-c", killed], 180, "the process that takes all memory being killed")
    yield check("a process that takes all memory is killed", True)  # noqa: FBT003
    vm.run(["systemctl", "reset-failed", _GREEDY])
    bench.cloud.wait_ready(120)
    log = vm.run(["journalctl", "-b", "-k", "-o", "cat", "--no-pager"]).text
    ended = set(re.findall(r"^Out of memory: Killed process \d+ \((\S+)\)", log, re.MULTILINE))
    yield same("nothing is killed in its place", {"tail"}, ended)
    # haproxy ends itself where it is starved for seconds; what it is promised (MemoryMin) keeps it.
    yield same("no daemon of ours has ended meanwhile", so_far, _restarts(vm, units))
    wait_until(lambda: _active_for(vm, units) >= _STEADY, 120, "all of them staying up", every=1)
    yield check("every daemon of ours is up", True)  # noqa: FBT003
    verdict = guest.wait_served(bench.cloud.guest(), after=guest.last(bench.cloud.guest()).round)
    yield check("the guest is served", verdict.served, verdict)


def _restarts(vm: Machine, units: Sequence[str]) -> dict[str, str]:
    return {unit: unit_property(vm, unit, "NRestarts") for unit in units}


def _active_for(vm: Machine, units: Sequence[str]) -> float:
    """For how many seconds all of these units have been active; 0 where one is not."""
    if any(unit_property(vm, unit, "ActiveState") != "active" for unit in units):
        return 0.0
    since = max(int(unit_property(vm, unit, "ActiveEnterTimestampMonotonic")) for unit in units)
    return float(vm.read("/proc/uptime").split()[0]) - since / 1e6


def forks(bench: Bench) -> Checks:
    """The agent can start no process: a push fails, nothing has changed, and it heals."""
    vm = bench.serving()
    before = bench.look()
    limit = "/sys/fs/cgroup/system.slice/sysvm-agent.service/pids.max"
    vm.run(["sh", "-c", f"echo 1 >{limit}"])
    try:
        try:
            answer = bench.cloud.push(_changed(), timeout=120)
            status, said = answer.status, answer.text
        except OSError as error:
            status, said = 0, str(error)
        yield check("the push fails, and says so", status == 0 or status >= 400, (status, said))
    finally:
        vm.run(["sh", "-c", f"echo max >{limit}"])
    bench.cloud.wait_ready(120)
    after = bench.wait_whole(before)
    yield check("nothing has changed", after == before, difference(before, after))
    answer = bench.cloud.push(_changed())
    yield check("afterwards, a push is taken", answer.status in (200, 201), answer.text)
    bench.push_example()
