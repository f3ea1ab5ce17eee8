"""What the demo shows of a VM that watches itself: a daemon dies or hangs, a hand breaks things."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from dns.exception import DNSException

from appliance.demo.router import ROUTER
from appliance.demo.telling import Chapter, Cloud, Trial, expect
from appliance.lab.wait import wait_until

DNSMASQ = "dnsmasq.service"
LOG = "/var/log/routerServiceMonitor.log"
SETTINGS = "/run/sysvm/current/dnsmasq/dnsmasq.conf"
FORWARD = "/nat/forwards/web"
NAME = "vm2.net1.example.internal"  # which vm1 keeps asking for


def _killed(cloud: Cloud) -> str:
    return _lost(cloud, lambda pid: ["kill", "-KILL", str(pid)], "service.died")


def _stopped(cloud: Cloud) -> str:
    return _lost(cloud, lambda pid: ["kill", "-STOP", str(pid)], "service.hung")


def _lost(cloud: Cloud, blow: Callable[[int], list[str]], kind: str) -> str:
    """Strike dnsmasq, and wait until it serves again and both events are there."""
    expect(_resolves(cloud), f"{NAME} is not known before")
    after, before = _last(cloud), cloud.pids()[DNSMASQ]
    began = time.monotonic()
    cloud.lab.vm.run(blow(before))
    wait_until(lambda: _resolves(cloud), 30, "an answer again")
    seconds = time.monotonic() - began
    expect(cloud.pids()[DNSMASQ] != before, "it is the same process")
    found = _events(cloud, after, {kind, "service.recovered"})
    return f"vm1 is answered again after {seconds:.1f} s\n{found}\n{_logged(cloud)}"


def _broken(cloud: Cloud) -> str:
    """A hand writes nonsense where dnsmasq reads it, and restarts it."""
    after = _last(cloud)
    break_it = f"echo no-such-option=1 >> {SETTINGS}; systemctl restart --no-block {DNSMASQ}"
    cloud.lab.vm.run(["bash", "-c", break_it])
    found = _events(cloud, after, {"service.configuration-error"})
    wait_until(lambda: _resolves(cloud), 30, "an answer again")
    left = cloud.lab.vm.run(["grep", "-c", "no-such-option", SETTINGS], check=False).text.strip()
    expect(left == "0", "the nonsense is still there")
    return f"{found}\nthe file is put back, and vm1 is answered again"


def _rule_lost(cloud: Cloud) -> str:
    """Delete the forward's rule by hand, have the VM find it, and push the document again."""
    rows = cloud.lab.vm.run(["iptables", "-t", "nat", "-S"]).text.splitlines()
    rule = next(row for row in rows if FORWARD in row and "DNAT" in row)
    cloud.lab.vm.run(["bash", "-c", f"iptables -t nat {rule.replace('-A', '-D', 1)}"])
    result = _forwards(cloud)
    expect(result["verdict"] == "failed" and result["path"] == FORWARD, f"{result}")
    answer = cloud.push({})
    expect(answer.status == 200, answer.text)
    again = _forwards(cloud)
    expect(again["verdict"] == "passed", f"{again}")
    number = answer.json()["revision"]
    return (
        f"check forwards: {result['message']}: {FORWARD}\n"
        f"the document is pushed again: revision {number}, and the check passes"
    )


def _forwards(cloud: Cloud) -> Mapping[str, Any]:
    """What the health check of translated ports finds now."""
    (result,) = cloud.lab.vm.request("POST", "/v1/health/run?name=forwards").json()
    return dict(result)


def _resolves(cloud: Cloud) -> bool:
    try:
        return bool(cloud.vm1.query(NAME, server=ROUTER, timeout=0.5).answer)
    except (DNSException, OSError):
        return False


def _last(cloud: Cloud) -> int:
    """The number of the last event."""
    return int(cloud.get("/v1/events?limit=1")["last"])


def _events(cloud: Cloud, after: int, kinds: set[str]) -> str:
    """What was told after this event, once all these kinds have been; one line each."""
    rows: list[Mapping[str, Any]] = []

    def told() -> bool:
        rows[:] = cloud.get(f"/v1/events?after={after}")["events"]
        return kinds <= {row["kind"] for row in rows}

    wait_until(told, 30, f"the events {', '.join(sorted(kinds))}")
    return "\n".join(f"event {r['kind']}: {r['message']}" for r in rows if r["kind"] in kinds)


def _logged(cloud: Cloud) -> str:
    """The last line of the log that operators read, without what only programs want."""
    line = cloud.lab.vm.run(["tail", "-n", "1", LOG]).text.strip()
    return re.sub(r"^(\S+ \S+ \[\w+\] \[[\w-]+\] [^=]*?)(?: \w+=.*)?$", r"\1", line)


WATCHES: tuple[Chapter, ...] = (
    Chapter(
        "The VM watches itself",
        (
            Trial("dnsmasq is killed (SIGKILL)", _killed),
            Trial("dnsmasq is stopped where it stands, and hangs (SIGSTOP)", _stopped),
            Trial("dnsmasq's configuration is broken by hand, and dnsmasq restarted", _broken),
            Trial("the rule of a port forward is deleted by hand", _rule_lost),
        ),
    ),
)  # fmt: skip
