"""The monitor and the health checks where the kernel counts tasks and memory, and time is set."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from appliance.lab.wait import wait_until
from appliance.lab.whole import UNITS
from appliance.qemu.bench import Bench
from appliance.qemu.cases.check import Checks, check, no_failed_units
from appliance.qemu.machine import Machine

_MINE = "/var/lib/sysvm/checks/mine"
_SOURCES = "/run/sysvm/time/ntp.sources"
_YEARS = 10 * 365 * 86400  # seconds
_NOBODY = "203.0.113.99"  # whom nobody answers for
_ILL = frozenset({"failed", "warning", "unknown"})
_RECOVERY = 90.0  # seconds, in a machine that is emulated
_LEFT = "grep -al 'sleep.30[3]\\|/dev/[z]ero\\|checks/[m]ine' /proc/[0-9]*/cmdline"

Result = Mapping[str, Any]


def health(bench: Bench) -> Checks:
    """A VM that serves is well; what is done to it is told as what it is, and nothing else is."""
    vm = bench.serving()
    wait_until(lambda: not _ill(vm), 120, "health checks of which all pass", every=5)
    yield check("every health check passes or does not apply", True)  # noqa: FBT003
    before = _last(vm)
    yield from _deaths(vm)
    yield from _greedy(vm)
    yield from _chrony(vm)
    yield from _clock(vm)
    told = {event["kind"] for event in _events(vm, before)}
    alarms = told & {"resource.short", "service.hung", "service.not-recovered", "drift.found"}
    yield check("nothing else raised an alarm", not alarms, alarms)
    yield from no_failed_units("after all of it", vm)


# -- the monitor ------------------------------------------------------------------------------


def _deaths(vm: Machine) -> Checks:
    """Each daemon killed by a signal, and one by the kernel for its memory."""
    for unit in UNITS:
        kill = f"systemctl kill -s KILL --kill-whom=main {unit}"
        yield from _death(vm, unit, "by a signal", kill, "killed")
    group = "/sys/fs/cgroup/system.slice/dnsmasq.service/memory"
    # The kernel kills before the first of these returns.
    squeeze = f"echo $(($(cat {group}.current) / 4)) >{group}.max; echo max >{group}.max"
    yield from _death(vm, "dnsmasq.service", "for its memory", squeeze, "out-of-memory")
    rows = json.loads(vm.run(["sysvmctl", "service", "list", "--json"]).text)
    states = {row["unit"]: row["state"] for row in rows if row["unit"] in UNITS}
    yield check("each is said to run", set(states.values()) == {"running"}, states)


def _death(vm: Machine, unit: str, how: str, act: str, reason: str) -> Checks:
    subject = unit.removesuffix(".service")
    before = _last(vm)
    vm.run(["sh", "-c", act], check=False)

    def over() -> Sequence[Result]:
        found = [event for event in _events(vm, before) if event["subject"] == subject]
        return found if found and found[-1]["kind"] == "service.recovered" else ()

    events = wait_until(over, _RECOVERY, f"{subject}, killed {how}, being told as back", every=1)
    reasons = {e["data"].get("reason") for e in events or () if e["kind"] == "service.died"}
    yield check(
        f"{subject}, killed {how}, is told as that, and is back", reasons == {reason}, events
    )


# -- checks of an operator's own ----------------------------------------------------------------


def _greedy(vm: Machine) -> Checks:
    """Checks that take all there is: processes, memory, room and time without end."""
    for words, script, said in (
        ("forks without end", "f() { f | f & }; f; sleep 303", ""),
        ("takes memory without end", "exec tail /dev/zero", "MiB of memory"),
        ("writes without end", "exec yes", "it wrote more than 64 KiB"),
        ("hangs", "setsid sleep 303 & sleep 303", "did not end within 10 s"),
    ):
        text = f"#!/bin/sh\\n{script}\\n"
        put = f"mkdir -p {_MINE.rpartition('/')[0]}; printf '{text}' >{_MINE}; chmod 755 {_MINE}"
        vm.run(["sh", "-c", put])
        ran = vm.run(["sysvmctl", "check", "basic", "--name", "mine", "--json"], check=False)
        found = json.loads(ran.text)[0] if ran.text.strip() else {}
        held = found.get("verdict") in {"warning", "unknown"} and said in found.get("message", "")
        yield check(f"a check that {words} is held to its limits", held, ran)
        left = vm.run(["sh", "-c", _LEFT], check=False).text.strip()
        yield check(f"a check that {words} leaves nothing behind", not left, left)
    vm.run(["rm", "-f", _MINE])


# -- the clock --------------------------------------------------------------------------------


def _chrony(vm: Machine) -> Checks:
    """chrony stopped; and with a source that does not answer."""
    vm.run(["systemctl", "stop", "chrony"])
    one = _check(vm, "clock")
    named = one["verdict"] == "failed" and one["missing"] == ["chrony.service"]
    yield check("without chrony, the clock's check names it", named, one)
    vm.run(["systemctl", "start", "chrony"])
    vm.wait_success(["sysvmctl", "check", "--name", "clock"], 60, "a clock that is well again")
    before = vm.read(_SOURCES)
    _put(vm, before + f"server {_NOBODY} iburst\n".encode())
    one = _check(vm, "clock")
    said = one["verdict"] == "failed" and "none of its 1 sources" in one["message"]
    yield check("a source of time that does not answer is told", said, one)
    _put(vm, before)
    one = _check(vm, "clock")
    yield check("and that it is gone", one["verdict"] not in _ILL, one)


def _put(vm: Machine, sources: bytes) -> None:
    vm.run(["sh", "-c", f"cat >{_SOURCES}; chronyc -n reload sources"], stdin=sources)


def _clock(vm: Machine) -> Checks:
    for words, seconds in (("ten years ahead", _YEARS), ("an hour slow", -3600)):
        _check(vm, "clock")
        _set(vm, seconds)
        one = _check(vm, "clock")
        way = "forward" if seconds > 0 else "back"
        yield check(f"a clock set {words} is told", f"{way} since" in one["message"], one)
        _set(vm, -seconds)
        _check(vm, "clock")
    ill = _ill(vm)
    yield check("and is over when it is set right", not ill, ill)


def _set(vm: Machine, seconds: int) -> None:
    vm.run(["sh", "-c", f'date -s "@$(($(date +%s) + {seconds}))"'])


# -- what it says -------------------------------------------------------------------------------


def _ill(vm: Machine) -> Sequence[Result]:
    """The health checks that do not pass."""
    ran = vm.run(["sysvmctl", "check", "--json"], check=False)
    return [one for one in json.loads(ran.text) if one["verdict"] in _ILL]


def _check(vm: Machine, name: str) -> Result:
    ran = vm.run(["sysvmctl", "check", "--name", name, "--json"], check=False)
    return dict(json.loads(ran.text)[0])


def _events(vm: Machine, after: int = 0) -> Sequence[Result]:
    ran = vm.run(["sysvmctl", "events", "--after", str(after), "--json"])
    return list(json.loads(ran.text)["events"])


def _last(vm: Machine) -> int:
    return max((int(event["seq"]) for event in _events(vm)), default=0)
