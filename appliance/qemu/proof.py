"""What an image promises, tried on the booted image: cases that yield named checks.

`sysvm image test` runs them and prints what came of each check; the tests in tests/image assert
each one. A case leaves its bench so that any other can come next.
"""

import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from agent.system.run import CommandFailed
from appliance.errors import ApplianceError
from appliance.lab.faults import AFTER_COMMIT, FORBIDDEN, POINTS, bare, example
from appliance.lab.node import Guest, Node
from appliance.lab.topologies import SITES, SystemVm
from appliance.lab.wait import wait_until
from appliance.lab.whole import UNITS, Whole, knocking
from appliance.qemu import channels as channel
from appliance.qemu import guest
from appliance.qemu.bench import READY, Bench, difference
from appliance.qemu.channels import FIRMWARE, GUEST_AGENT, PORT
from appliance.qemu.cloud import GUEST, VM, Cloud, cloud
from appliance.qemu.disk import VolatileDisk, overlay
from appliance.qemu.image import image_format
from appliance.qemu.machine import Machine

PUBLIC, SHOP, STATIC = "203.0.113.10", "203.0.113.11", "203.0.113.12"
GATEWAY = "10.1.1.1"
CONTROL = VM.control_address.partition("/")[0]
ADDRESSES = {"guest": "10.1.1.10", "name": "198.51.100.10"}

_BOOT_UNITS = ("sysvm-restore.service", "sysvm-agent.service", "sysvm-front.service")
_SSH = 3922
_WEB, _FORWARDED = 80, 8080
_FULL = "/var/lib/sysvm/.filled"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is to hold: in words, whether it does, and what was seen if it does not."""

    what: str
    holds: bool
    seen: str = ""


Checks = Iterator[Check]


@dataclass(frozen=True, slots=True)
class Case:
    """A story that ends in checks. Short ones are for each run, the others for `--all`."""

    name: str
    words: str
    tell: Callable[[Bench], Checks]
    short: bool = False
    every_variant: bool = False


def run(case: Case, bench: Bench) -> Checks:
    """A case's checks; that it could not be told to its end is one more, which fails."""
    try:
        yield from case.tell(bench)
    except (ApplianceError, AssertionError, CommandFailed, OSError, LookupError) as error:
        hint = getattr(error, "hint", "")
        tail = bench.vm.console[-1500:] if bench.vm is not None else ""
        yield Check(f"{case.words}: to its end", False, f"{error}\n{hint}\n{tail}".strip())  # noqa: FBT003


def check(what: str, holds: object, seen: object = "") -> Check:
    """A check; what was seen is kept only where it does not hold."""
    return Check(what, bool(holds), "" if holds else str(seen))


def same(what: str, before: object, after: object) -> Check:
    """A check that two things are equal."""
    return check(what, before == after, f"{before!r} before, {after!r} now")


# -- power-on, push, served ------------------------------------------------------------------------


def power_on(bench: Bench) -> Checks:
    """From power-on to an agent that answers management, with nothing amiss in between."""
    vm = bench.boot(bench.spec())
    bench.cloud.wait_ready(READY)
    yield check(f"answers management, {time.monotonic() - vm.started:.0f} s after power-on", True)  # noqa: FBT003
    state = vm.run(["systemctl", "is-system-running", "--wait"], 180, check=False).text.strip()
    failed = vm.run(["systemctl", "--failed", "--no-legend", "--plain"]).text.strip()
    yield check("every unit started", state == "running", f"{state}: {failed}")
    again = {unit: _property(vm, unit, "NRestarts") for unit in _BOOT_UNITS}
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
    yield same("DHCP gives the guest its address", ADDRESSES["guest"], verdict.lease)
    yield same("DNS resolves a name for it", ADDRESSES["name"], verdict.name)
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
    web = internet.get(f"http://{PUBLIC}:{_FORWARDED}/").text.strip()
    yield check("the forward leads to the guest", web == GUEST, web)
    open_ = [port for port in (22, 80, 9090, 8443, _SSH) if internet.reaches(PUBLIC, port)]
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


# -- power cuts ------------------------------------------------------------------------------------


def power_cut(bench: Bench) -> Checks:
    """The power is cut at one point of an apply, and what the disk had not flushed is lost."""
    yield from _power_cuts(bench, ("flip",))


def power_cuts(bench: Bench) -> Checks:
    """The power is cut at every point of an apply, and what the disk had not flushed is lost."""
    yield from _power_cuts(bench, (*POINTS, AFTER_COMMIT))


def _power_cuts(bench: Bench, points: Sequence[str]) -> Checks:
    """Each point costs one boot: the next point's boot shows what came of the one before."""
    raw = bench.cloud.folder / "volatile.raw"
    disk = VolatileDisk.copied(bench.cloud.contents.raw, raw, bench.variant.bus)
    try:
        vm = _boot_volatile(bench, disk)
        # The first push passes the points, too: it is made without a fault.
        bench.upload()
        answer = bench.cloud.push(bare(0))
        yield check("takes a bare document", answer.status == 201, answer.text)
        generation = bench.cloud.running() or 0
        before = _settled_as(bench, frozenset({"sysvm-front.service"}))
        vm.power_button()
        vm.wait_off(180)
        disk.keep()
        vm = _boot_volatile(bench, disk, points[0])
        now = bench.wait_whole(before)
        yield check("a reboot changes nothing", now == before, difference(before, now))
        for point, next_point in zip(points, (*points[1:], None), strict=True):
            bench.push_into_the_dark(example(0))
            reached = ["test", "-s", "/run/sysvm/faults-reached"]
            vm.wait_success(reached, 120, f"the agent to stop at {point}")
            vm.kill()
            lost = disk.cut()
            bench.say(f"power cut at {point}: {lost} writes were lost with the disk's cache")
            vm = _boot_volatile(bench, disk, next_point)
            yield from _after_cut(bench, vm, point, before, generation)
    finally:
        if bench.vm is not None:
            bench.vm.kill()
        disk.remove()


def _boot_volatile(bench: Bench, disk: VolatileDisk, point: str | None = None) -> Machine:
    variant = bench.variant
    fault = f"power:push:{point}" if point else None
    spec = bench.cloud.system_vm(
        disk.attach(), firmware=variant.firmware, nic=variant.nic, fault=fault
    )
    vm = bench.boot(spec)
    bench.cloud.wait_ready(READY)
    return vm


def _settled_as(bench: Bench, units: frozenset[str]) -> Whole:
    wait_until(lambda: bench.look().units == units, 60, "the daemons", every=0.5)
    return bench.look()


def _after_cut(bench: Bench, vm: Machine, point: str, before: Whole, generation: int) -> Checks:
    ran = bench.cloud.running()
    if point == AFTER_COMMIT:
        yield check(f"power cut at {point}: the new generation runs", (ran or 0) > generation, ran)
        now = _settled_as(bench, frozenset(UNITS))
        yield check(f"power cut at {point}: wholly", "10.1.1.10:80" in now.firewall, now.firewall)
    else:
        yield same(f"power cut at {point}: the old generation runs", generation, ran)
        now = bench.wait_whole(before)
        yield check(f"power cut at {point}: wholly", now == before, difference(before, now))
    yield from no_failed_units(f"power cut at {point}", vm)


def no_failed_units(when: str, vm: Machine) -> Checks:
    """No unit of the machine has failed."""
    failed = vm.run(["systemctl", "--failed", "--no-legend", "--plain"]).text.strip()
    yield check(f"{when}: no unit failed", not failed, failed)


# -- disk, clock, memory, processes ----------------------------------------------------------------


def disk_full(bench: Bench) -> Checks:
    """The disk for state is full: a push is refused, the guest is served, and it heals."""
    vm = bench.serving()
    before = bench.look()
    fill = f"head -c 100G /dev/zero >{_FULL} 2>/dev/null; df -P /var/lib/sysvm | tail -n 1"
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
    finally:
        vm.run(["rm", "-f", _FULL], check=False)
    answer = bench.cloud.push(_changed())
    yield check("with room again, the push is taken", answer.status in (200, 201), answer.text)
    bench.push_example()


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


def memory(bench: Bench) -> Checks:
    """Daemons out of memory, one by one, and then the whole VM: each is back, by itself."""
    vm = bench.serving()
    for unit in ("dnsmasq.service", "haproxy.service", "sysvm-agent.service"):
        before = _property(vm, unit, "NRestarts")
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
    restarts = {unit: _property(vm, unit, "NRestarts") for unit in UNITS}
    greedy = "choom -n 1000 -- tail /dev/zero; echo $?"
    ended = vm.run(["sh", "-c", greedy], 180, check=False).text.strip()
    yield check("a process that takes all memory is killed", ended in ("137", "9"), ended)
    bench.cloud.wait_ready(120)
    now = {unit: _property(vm, unit, "NRestarts") for unit in UNITS}
    yield same("no daemon of ours is killed in its place", restarts, now)
    verdict = guest.wait_served(bench.cloud.guest(), after=guest.last(bench.cloud.guest()).round)
    yield check("the guest is served", verdict.served, verdict)


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


def _property(vm: Machine, unit: str, name: str) -> str:
    return vm.run(["systemctl", "show", "--value", "-p", name, unit]).text.strip()


# -- boot configuration ----------------------------------------------------------------------------

_BROKEN = b'{"schema": 1, "role": "emperor", "hostname": "r-1-vm", "nics": {'


def without_configuration(bench: Bench) -> Checks:
    """No boot configuration, then a broken one: closed, and the console says why."""
    for words, credentials, reason in (
        ("without a boot configuration", {}, r"(?i)no boot configuration"),
        (
            "with a broken one",
            {"sysvm.boot": _BROKEN},
            r"boot configuration \(credential\) cannot be used",
        ),
    ):
        spec = bench.spec(told=False)
        spec = dataclasses.replace(spec, credentials={**spec.credentials, **credentials})
        vm = bench.boot(spec)
        said = vm.wait_console(reason, READY)
        bench.say(f"{words}, the console says: {said[0].strip()}")
        yield check(f"{words}, the console says why", True)  # noqa: FBT003
        rules = vm.run(["iptables", "-S"]).text + vm.run(["ip6tables", "-S"]).text
        closed = all(f"-P {chain} DROP" in rules for chain in ("INPUT", "FORWARD"))
        yield check(f"{words}, the firewall lets nothing in", closed, rules)
        links: list[dict[str, Any]] = json.loads(vm.run(["ip", "-j", "link"]).text)
        up = [link["ifname"] for link in links if "UP" in link["flags"] and link["ifname"] != "lo"]
        yield check(f"{words}, no network card is up", not up, up)
        reached = [p for p in (22, 8443, _SSH) if bench.cloud.manager.reaches(CONTROL, p)]
        yield check(f"{words}, nothing answers management", not reached, reached)
    bench.discard()


def channels(bench: Bench) -> Checks:
    """The boot configuration by each channel that QEMU has: management is answered each time."""
    configuration = bench.cloud.boot_configuration()
    firmware, labelled = bench.cloud.folder / "firmware", bench.cloud.folder / "drive.img"
    firmware.write_bytes(configuration)
    bench.boot(bench.spec(told=False, firmware_files={FIRMWARE: firmware}))
    bench.cloud.wait_ready(READY)
    yield _source(bench, "QEMU's firmware files")
    drive = channel.drive(labelled, configuration)
    bench.boot(bench.spec(told=False, drives=(drive,)))
    bench.cloud.wait_ready(READY)
    yield _source(bench, "a labelled drive")
    vm = bench.boot(bench.spec(told=False, channels=(PORT,)))
    broken = channel.send(vm.channel(PORT), b'{"schema": 1}', READY)
    yield check("a virtio-serial port: a broken one is refused", broken["problems"], broken)
    answer = channel.send(vm.channel(PORT), configuration, READY)
    yield check("a virtio-serial port: accepted", answer["result"] == "accepted", answer)
    bench.cloud.wait_ready(READY)
    yield _source(bench, "a virtio-serial port")
    vm = bench.boot(bench.spec(told=False, channels=(GUEST_AGENT,)))
    channel.write_by_agent(vm.channel(GUEST_AGENT), configuration, READY)
    bench.cloud.wait_ready(READY)
    yield _source(bench, "qemu-guest-agent")
    bench.discard()


def _source(bench: Bench, words: str) -> Check:
    status = bench.cloud.request("GET", "/v1/status")
    return check(f"{words}: management is answered", status.status == 200, status.text)


# -- what listens ----------------------------------------------------------------------------------

# Sockets that are not bound to loopback, as `ss` shows them: protocol, address, port.
_MAY_LISTEN = {
    ("udp", "10.1.1.1", 53), ("tcp", "10.1.1.1", 53), ("tcp", "10.1.1.1", 80),
    ("udp", "0.0.0.0", 67),  # noqa: S104  # dnsmasq: bound to the guests' NIC
    ("tcp", SHOP, 80), ("tcp", CONTROL, 8443), ("tcp", CONTROL, _SSH),
}  # fmt: skip


_ALL, _LOW = "1-65535", "1-10000"


def listeners(bench: Bench) -> Checks:
    """What listens, and what of it answers from each side: what may, and no more."""
    vm = bench.serving()
    found = set()
    for line in vm.run(["ss", "-Hlntu"]).text.splitlines():
        words = line.split()
        address, _, port = words[4].rpartition(":")
        address = address.partition("%")[0].strip("[]")
        if not address.startswith(("127.", "::1", "fe80")):
            found.add((words[0], address, int(port)))
    yield check("listens on nothing else", found <= _MAY_LISTEN, found - _MAY_LISTEN)
    cloud = bench.cloud
    cloud.neighbour.dhcp()
    for node, address, ports, may in (
        (cloud.internet, PUBLIC, _ALL, {_FORWARDED}),
        (cloud.internet, SHOP, _LOW, {80}),
        (cloud.internet, STATIC, _LOW, set()),
        (cloud.manager, CONTROL, _ALL, {8443, _SSH}),
        (cloud.neighbour, GATEWAY, _LOW, {53, 80}),
        (cloud.neighbour, CONTROL, _LOW, set()),
        (cloud.neighbour, PUBLIC, _LOW, {_FORWARDED}),
    ):
        answered = scan(node, address, ports)
        what = f"from {node.name}, {address} answers on {sorted(may) or 'nothing'} at most"
        yield check(what, answered <= may, sorted(answered))
    six = _link_local(vm)
    for node, network in ((cloud.internet, "public"), (cloud.neighbour, "guest")):
        address = six.get(network, "")
        answered = scan(node, address, _LOW) if address else set()
        may = {53} if network == "guest" else set()
        yield check(
            f"from {node.name}, over IPv6, {sorted(may) or 'nothing'} at most answers",
            answered <= may,
            sorted(answered),
        )


def scan(node: Node, address: str, ports: str) -> set[int]:
    """The TCP ports of an address, of these, that answer a node."""
    # A closed VM answers nothing, so the rate is all that bounds the time.
    quick = ("-n", "-Pn", "-sS", "--min-rate", "4000", "--max-retries", "0")
    six, target = (("-6",), f"{address}%eth0") if ":" in address else ((), address)
    said = node.run(["nmap", *quick, *six, "-p", ports, "-oG", "-", target], 180).text
    return {int(port) for port in re.findall(r"(\d+)/open/", said)}


def _link_local(vm: Machine) -> dict[str, str]:
    """The link-local address of each NIC, by its network."""
    macs = {nic.mac: nic.network for nic in VM.nics}
    found = {}
    for link in json.loads(vm.run(["ip", "-j", "-6", "address"]).text):
        mac = link.get("address", "")
        shown = json.loads(vm.run(["ip", "-j", "link", "show", link["ifname"]]).text)
        mac = shown[0].get("address", mac)
        for address in link["addr_info"]:
            if address["scope"] == "link" and mac in macs:
                found[macs[mac]] = address["local"]
    return found


# -- IPsec -----------------------------------------------------------------------------------------

_SITES = {"vm": ("10.1", "203.0.113.10", "branch"), "vmb": ("10.2", "203.0.113.20", "head")}
_NEAR, _FAR = "10.1.1.10", "10.2.1.10"


def tunnel(bench: Bench) -> Checks:
    """IPsec in the kernel between two system VMs: traffic, untranslated, through a rekey."""
    bench.discard()
    bench.cloud.scrap(GUEST)
    with cloud(bench.image, f"{bench.cloud.name}-two", SITES) as sites:
        for node in _SITES:
            disk = overlay(bench.image, image_format(bench.image), sites.folder / f"{node}.qcow2")
            vm = sites.machine(sites.system_vm(disk, node=node))
            vm.start()
            vm.wait_shell(READY)
            vm.wait_success(["sysvmctl", "status"], READY, f"the agent of {node}")
        for node in reversed(_SITES):
            document = json.dumps(_site(sites, node)).encode()
            sites.machines[node].run(["sh", "-c", "cat >/run/site.json"], stdin=document)
            pushed = sites.machines[node].run(["sysvmctl", "apply", "/run/site.json"], 180)
            yield check(f"{node} takes its document", pushed.returncode == 0, pushed.text)
        near, far = sites.guests["vm1"], sites.guests["vm3"]
        _settle(near, _NEAR, "10.1.1.1")
        _settle(far, _FAR, "10.2.1.1")
        wait_until(lambda: near.pings(_FAR), 120, "a packet through the tunnel", every=1)
        yield check("the tunnel carries packets", True)  # noqa: FBT003
        with far.serve(80):
            seen = near.get(f"http://{_FAR}/").text.strip()
        yield same("and does not translate them", f"vm3 sees {_NEAR}", seen)
        first = sites.machines["vm"]
        before = _spis(first)
        yield check("ESP is the kernel's", len(before) >= 2, before)
        with near.popen(["ping", "-n", "-q", "-i", "0.2", "-c", "100", "-W", "2", _FAR]) as ping:
            first.run(["swanctl", "--rekey", "--child", "branch"], 120)
            said = ping.communicate(timeout=120)[0].decode()
        received = int((re.findall(r"(\d+) received", said) or ["0"])[0])
        yield check(
            "no more than one packet of 100 is lost while keys change", received >= 99, said
        )
        wait_until(lambda: not _spis(first) & before, 60, "the old keys being gone", every=1)
        yield check("the keys have changed", True)  # noqa: FBT003
        yield check("the tunnel carries packets with the new ones", near.pings(_FAR, count=3))


def _site(sites: Cloud, node: str) -> dict[str, Any]:
    net, own, name = _SITES[node]
    far_net, far, _ = next(value for key, value in _SITES.items() if key != node)
    described = sites.topology.nodes[node]
    if not isinstance(described, SystemVm):
        raise TypeError(f"{node} is no system VM")
    inner, control, outer = (nic.mac for nic in described.nics)
    public = {"role": "public", "addresses": {f"{own}/24": {}}, "gateway": "203.0.113.1"}
    return {
        "schema": 1,
        "generation": 1,
        "role": "router",
        "site": {
            "hostname": described.hostname,
            "nics": {
                inner: {"role": "guest", "addresses": {f"{net}.1.1/24": {}}},
                control: {"role": "control", "addresses": {described.control_address: {}}},
                outer: public,
            },
        },
        "nat": {"source_address": own},
        "ipsec": {
            "connections": {
                name: {
                    "local_address": own,
                    "peer_address": far,
                    "psk": "correct-horse-battery-staple",
                    "local_subnets": [f"{net}.1.0/24"],
                    "remote_subnets": [f"{far_net}.1.0/24"],
                    **({"start": "passive"} if name == "head" else {}),
                }
            }
        },
    }


def _settle(node: Guest, address: str, gateway: str) -> None:
    """Give a guest what DHCP would give it."""
    node.run(["ip", "address", "replace", f"{address}/24", "dev", node.nic.name])
    node.run(["ip", "route", "replace", "default", "via", gateway])


def _spis(vm: Machine) -> set[str]:
    """The numbers (SPI) of the kernel's security associations."""
    return set(re.findall(r"spi (0x[0-9a-f]+)", vm.run(["ip", "xfrm", "state"]).text))


CASES = (
    Case("power-on", "from power-on to ready", power_on, short=True, every_variant=True),
    Case("serve", "a document pushed, a guest served", serve, short=True, every_variant=True),
    Case("reset", "reset, without management", reset, short=True, every_variant=True),
    Case("power-button", "the hypervisor's power button", power_cycle, every_variant=True),
    Case("listeners", "nothing listens that should not", listeners),
    Case("disk-full", "the disk is full", disk_full),
    Case("memory", "out of memory", memory),
    Case("forks", "no process can be started", forks),
    Case("clock", "the clock is years off", clock),
    Case("power-cut", "power cut in the middle of an apply", power_cut, short=True),
    Case("power-cuts", "power cut at every point of an apply", power_cuts),
    Case("ipsec", "IPsec between two of them, through a rekey", tunnel),
    Case("channels", "the boot configuration by every channel of QEMU's", channels),
    Case("no-configuration", "no boot configuration, or a broken one", without_configuration),
)


def chosen(*, short: bool, first: bool = True) -> tuple[Case, ...]:
    """The cases for one variant of an image: the first one gets all, the others what may differ."""
    return tuple(
        case
        for case in CASES
        if (case.every_variant or first)
        and (case.short or not short)
        # All points of an apply have the one of the short form among them.
        and (short or case.name != "power-cut")
    )
