"""Power-on, a push, a guest served; and all of it again after a reset or the power button."""

import json
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from appliance.lab.node import Node
from appliance.lab.wait import wait_until
from appliance.lab.whole import knocking
from appliance.qemu import guest
from appliance.qemu.bench import READY, Bench, difference
from appliance.qemu.cases.check import Checks, check, same, unit_property
from appliance.qemu.cases.sides import FORWARDED, GATEWAY, PUBLIC, SHOP, SSH, STATIC
from appliance.qemu.cloud import GUEST
from appliance.qemu.machine import Machine

_ADDRESSES = {"guest": "10.1.1.10", "name": "198.51.100.10"}
_BOOT_UNITS = ("sysvm-restore.service", "sysvm-agent.service", "sysvm-front.service")
_WEB = 80


def power_on(bench: Bench) -> Checks:
    """From power-on to an agent that answers management, with nothing amiss in between."""
    vm = bench.boot(bench.spec())
    bench.cloud.wait_ready(READY)
    yield check(f"answers management, {time.monotonic() - vm.started:.0f} s after power-on", True)  # noqa: FBT003
    state = vm.run(["systemctl", "is-system-running", "--wait"], 180, check=False).text.strip()
    failed = vm.run(["systemctl", "--failed", "--no-legend", "--plain"]).text.strip()
    yield check("every unit started", state == "running", f"{state}: {failed}")
    again = {unit: unit_property(vm, unit, "NRestarts") for unit in _BOOT_UNITS}
    yield check("none of ours needed a second attempt", set(again.values()) == {"0"}, again)
    status = bench.cloud.request("GET", "/v1/status").json()
    yield check("says that nothing has been pushed", status["running"]["generation"] == 0, status)


def serve(bench: Bench) -> Checks:
    """A document pushed over mutual TLS, and a guest VM behind it that is served."""
    bench.started()
    tenant = bench.cloud.guest()
    before = guest.last(tenant)
    yield check("before the push, nobody serves the guest", not before.served, before)
    bench.push_example()
    yield check("takes the document", True)  # noqa: FBT003
    verdict = guest.wait_served(tenant)
    yield same("DHCP gives the guest its address", _ADDRESSES["guest"], verdict.lease)
    yield same("DNS resolves a name for it", _ADDRESSES["name"], verdict.name)
    yield same("its connections come from the public address", PUBLIC, verdict.seen)
    yield from outside(bench)
    bench.cloud.neighbour.dhcp()
    yield same("a second guest gets its own", "10.1.1.11", _address(bench))


def outside(bench: Bench) -> Checks:
    """What the internet reaches of the guest: what it may, and no more."""
    internet = bench.cloud.internet
    wait_until(lambda: _answers(internet, SHOP, _WEB), 30, "a server behind the listener")
    shop = internet.get(f"http://{SHOP}/").text.strip()
    yield check("the load balancer leads to the guest", shop == GUEST, shop)
    web = internet.get(f"http://{PUBLIC}:{FORWARDED}/").text.strip()
    yield check("the forward leads to the guest", web == GUEST, web)
    open_ = [port for port in (22, 80, 9090, 8443, SSH) if internet.reaches(PUBLIC, port)]
    yield check("nothing else of the public address answers", not open_, open_)


def _address(bench: Bench) -> str:
    shown = bench.cloud.neighbour.run(["ip", "-j", "-4", "address", "show", "dev", "eth0"]).text
    found: list[dict[str, Any]] = json.loads(shown)
    return str(found[0]["addr_info"][0]["local"]) if found and found[0]["addr_info"] else ""


def _answers(node: Node, address: str, port: int) -> bool:
    try:
        return node.get(f"http://{address}:{port}/", timeout=3).status == 200
    except OSError:
        return False


# -- reset, and the power button -------------------------------------------------------------------


def reset(bench: Bench) -> Checks:
    """A reset, without management: everything is back, and nobody got in meanwhile."""
    yield from _away(bench, "the reset", _press_reset)


def power_cycle(bench: Bench) -> Checks:
    """The hypervisor's power button, and on again: an orderly end, and everything is back."""
    yield from _away(bench, "the power button", _press_power)


def _press_reset(bench: Bench, vm: Machine) -> Checks:
    vm.reset()
    yield from ()


def _press_power(bench: Bench, vm: Machine) -> Checks:
    said = len(vm.console)
    vm.power_button()
    vm.wait_off(180)
    yield check(
        "switches itself off in an orderly way",
        re.search(r"[Pp]ower.?[Oo]ff|Powering off|reboot: Power down", vm.console[said:]),
        vm.console[-1000:],
    )
    failed = re.findall(r"FAILED.*", vm.console[said:])
    yield check("nothing fails on the way", not failed, failed)
    vm.start()


def _away(bench: Bench, how: str, act: Callable[[Bench, Machine], Checks]) -> Checks:
    """Something that ends in a boot, with knocking at doors that are never to open."""
    vm = bench.serving()
    bench.cloud.neighbour.dhcp()
    before, leases = bench.look(), _leases(vm)
    yield check(f"before {how}, the guests have leases", len(leases) > 1, leases)
    tenant = bench.cloud.guest()
    internet, neighbour = bench.cloud.internet, bench.cloud.neighbour
    doors = ((internet, PUBLIC, 9090), (internet, PUBLIC, 8443), (internet, STATIC, 8080),
             (neighbour, GATEWAY, 8443))  # fmt: skip
    with ExitStack() as stack:
        # What the knocking goes for is there: a door that opened would be noticed.
        servers = [
            stack.enter_context(neighbour.serve(8080, protocol=kind)) for kind in ("tcp", "udp")
        ]
        entered = {
            f"{node.name} to {address}:{port}": stack.enter_context(knocking(node, address, port))
            for node, address, port in doors
        }
        yield from act(bench, vm)
        wait_until(lambda: not bench.cloud.ready(), 60, "the agent being away", every=0.2)
        verdict = guest.wait_served(tenant, READY, after=guest.last(tenant).round + 1)
        took = time.monotonic() - vm.started
        yield check(f"serves the guest again, {took:.0f} s after {how}", verdict.served, verdict)
        bench.cloud.wait_ready(READY)
        got_in = [door for door, ways in entered.items() if ways]
        yield check("nothing forbidden got in meanwhile, from any side", not got_in, got_in)
        heard = [exchange for server in servers for exchange in server.exchanges()]
        yield check("no guest heard a stranger, by TCP or UDP", not heard, heard)
    vm.wait_shell(READY)
    after = bench.wait_whole(before)
    yield check(
        "firewall, sets, addresses, routes, daemons and files are as before",
        after == before,
        difference(before, after),
    )
    yield same("leases are as before", leases, _leases(vm))
    yield from outside(bench)
    drift = bench.cloud.request("GET", "/v1/drift").json()["plan"]
    yield check("nothing differs from what was asked for", not drift, drift)


def _leases(vm: Machine) -> set[str]:
    rows = vm.run(["cat", "/var/lib/sysvm/leases/dnsmasq.leases"], check=False).text.splitlines()
    return {" ".join(row.split()[1:4]) for row in rows if row}
