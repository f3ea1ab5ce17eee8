"""IPsec in the kernel between a system VM and a peer that is not ours."""

import json
import re
from collections.abc import Callable

from agent.system.run import CommandFailed
from appliance.errors import ApplianceError
from appliance.lab.libreswan import CONNECTION, Ends, Libreswan, libreswan
from appliance.lab.node import Guest
from appliance.lab.topologies import SITES
from appliance.lab.wait import wait_until
from appliance.qemu.bench import READY, Bench
from appliance.qemu.cases.check import Checks, check
from appliance.qemu.cases.tunnel import settle, site, spis
from appliance.qemu.cloud import GUEST, Cloud, cloud
from appliance.qemu.disk import overlay
from appliance.qemu.image import image_format
from appliance.qemu.machine import Machine

_NEAR, _FAR = "10.1.1.10", "10.2.1.10"
_ENDS = Ends(
    own="203.0.113.20",
    peer="203.0.113.10",
    here="10.2.1.0/24",
    there="10.1.1.0/24",
    behind=_FAR,
    gateway="203.0.113.1",
)
_LOST = 3  # of 100, five a second; a machine that is emulated takes a while to take in an answer
_SECRET = "correct-horse-battery-staple"  # noqa: S105 - of a machine that lives for minutes


def interoperate(bench: Bench) -> Checks:
    """IKEv2 and a pre-shared key with libreswan as Debian ships it, which knows its own defaults.

    Either end renews the keys under traffic, and another secret is refused.
    """
    bench.discard()
    bench.cloud.scrap(GUEST)
    with cloud(bench.image, f"{bench.cloud.name}-swan", SITES) as sites:
        disk = overlay(bench.image, image_format(bench.image), sites.folder / "vm.qcow2")
        vm = sites.machine(sites.system_vm(disk))
        vm.start()
        nic = sites.topology.nodes["vmb"].nics[2]
        with libreswan(sites.name, nic, _ENDS, sites.folder / "peer") as peer:
            try:
                yield from _story(sites, vm, peer)
            except (ApplianceError, AssertionError, CommandFailed) as error:
                # Only the peer's own log says what it did not like.
                raise ApplianceError(str(error), peer.log()[-3000:]) from error


def _story(sites: Cloud, vm: Machine, peer: Libreswan) -> Checks:
    peer.begin(_ENDS, _SECRET)
    version = peer.run("ipsec", "--version").strip()
    yield check(f"the peer is {version}", "Libreswan" in version)
    vm.wait_shell(READY)
    vm.wait_success(["sysvmctl", "status"], READY, "the agent")
    yield from _applied(vm, json.dumps(site(sites, "vm")).encode(), "the document")
    near = sites.guests["vm1"]
    settle(near, _NEAR, "10.1.1.1")
    wait_until(lambda: near.pings(_FAR), 120, "a packet through the tunnel", every=1)
    shown = vm.run(["sysvmctl", "show", "vpn"]).text
    yield check("the tunnel carries packets", "installed" in shown, shown)
    back = peer.run(*_ping(_NEAR, 3), check=False)
    yield check("from the peer's side, too", " 0% packet loss" in back, back)
    traffic = peer.run("ipsec", "trafficstatus")
    yield check("libreswan counts them", re.search(r"inBytes=[1-9]", traffic) is not None, traffic)
    yield from _renewed(
        vm,
        near,
        "the system VM",
        lambda: vm.run(["swanctl", "--rekey", "--child", "branch"], 120),
    )
    yield from _renewed(
        vm,
        near,
        "libreswan",
        lambda: peer.run("ipsec", "whack", "--name", CONNECTION, "--rekey-child"),
    )
    yield from _renewed(
        vm,
        near,
        "the system VM, after those of IKE,",
        lambda: vm.run(
            ["sh", "-c", "swanctl --rekey --ike branch && swanctl --rekey --child branch"], 120
        ),
    )
    yield from _applied(vm, _changed(sites, 2, force_encapsulation=True), "another encapsulation")
    wait_until(lambda: near.pings(_FAR), 120, "a packet through the other tunnel", every=1)
    held = vm.run(["ip", "xfrm", "state"]).text
    yield check("ESP within UDP, where it is asked for", held.count("espinudp") >= 2, held)
    yield from _applied(vm, _changed(sites, 3, psk="another-horse-entirely"), "another secret")
    reason = wait_until(lambda: _reason(vm), 120, "the reason why there is no tunnel", every=1)
    yield check(
        "with another secret there is no tunnel, and it says why",
        str(reason).startswith("authentication failed") and not near.pings(_FAR),
        reason,
    )


def _changed(sites: Cloud, generation: int, **fields: object) -> bytes:
    document = site(sites, "vm")
    document["generation"] = generation
    document["ipsec"]["connections"]["branch"] |= fields
    return json.dumps(document).encode()


def _applied(vm: Machine, document: bytes, what: str) -> Checks:
    vm.run(["sh", "-c", "cat >/run/site.json"], stdin=document)
    pushed = vm.run(["sysvmctl", "apply", "/run/site.json"], 180, check=False)
    yield check(f"it takes {what}", pushed.returncode == 0, pushed.text)


def _ping(to: str, count: int) -> tuple[str, ...]:
    return "ping", "-n", "-q", "-i", "0.2", "-c", str(count), "-W", "2", "-I", _FAR, to


def _renewed(vm: Machine, near: Guest, who: str, renew: Callable[[], object]) -> Checks:
    """Keys are renewed while a guest pings."""
    before = spis(vm)
    with near.popen(["ping", "-n", "-q", "-i", "0.2", "-c", "100", "-W", "2", _FAR]) as ping:
        renew()
        said = ping.communicate(timeout=120)[0].decode()
    received = int((re.findall(r"(\d+) received", said) or ["0"])[0])
    wait_until(lambda: not spis(vm) & before, 60, "the old keys being gone", every=1)
    # libreswan, asked for new keys, sends by them before its answer can have arrived.
    yield check(
        f"{who} renews the keys, and at most {_LOST} packets of 100 are lost",
        received >= 100 - _LOST,
        said,
    )


def _reason(vm: Machine) -> str:
    rows = json.loads(vm.run(["sysvmctl", "--json", "show", "vpn"]).text)
    return next((str(row["reason"]) for row in rows if row["child"] == "branch"), "")
