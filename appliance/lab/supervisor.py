"""Keeps one system VM's container: boots it, boots it again when it asks, and notes what runs.

A guest's reboot ends systemd-nspawn with exit code 133 (--keep-unit); anything else that ends it
is a power-off or a pulled plug, and ends the supervisor. Each boot gets new NICs in a new
network name space: nothing that the kernel knew survives, as on real hardware.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from appliance.lab import cgroup, network
from appliance.lab.process import Identity, spawn
from appliance.lab.state import Container, Status
from appliance.lab.topologies import TOPOLOGIES
from appliance.lab.wait import TookTooLong, wait_until

_REBOOT = 133
_LEADER_TIMEOUT = 30.0  # seconds until nspawn has made the container's first process


def supervise(container: Container) -> None:
    """Boot the container and stay until it is off."""
    settings = container.settings()
    nics = TOPOLOGIES[settings.topology].nodes[settings.node].nics
    while True:
        # The ports of the boot before may still be there.
        network.unplug(settings.lab, settings.node, nics)
        network.plug(settings.lab, settings.node, nics, up=False)
        ended = _boot(container)
        cgroup.remove(network.namespace(settings.lab, settings.node))
        if ended != _REBOOT:
            break
    network.unplug(settings.lab, settings.node, nics)
    container.report(Status(container.status().boots))


def _boot(container: Container) -> int:
    """Boot it once, and stay until that boot is over; nspawn's exit code."""
    boots = container.status().boots
    me = Identity.of(os.getpid())
    source = Path(__file__).resolve().parents[2]
    private = ("unshare", "--mount", "--propagation", "slave")
    nspawn = spawn(
        [*private, sys.executable, "-m", "appliance.lab.boot", str(container.path)],
        output=container.console,
        env={"PYTHONPATH": str(source)},
    )
    identity = Identity.of(nspawn.pid)
    container.report(Status(boots, me, identity))
    found: list[Identity] = []

    def started() -> bool:
        found.extend(_leaders(nspawn.pid))
        return bool(found) or nspawn.poll() is not None

    try:
        wait_until(started, _LEADER_TIMEOUT, "the container's systemd")
    except TookTooLong:
        nspawn.kill()
    if found:
        container.report(Status(boots + 1, me, identity, found[0]))
    return nspawn.wait()


def _leaders(nspawn: int) -> Iterator[Identity]:
    """The container's PID 1, once it is systemd."""
    try:
        pids = Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        leader = Identity.of(int(pid))
        if fields["Name"] == "systemd" and fields["NSpid"].split()[-1] == "1" and leader:
            yield leader


if __name__ == "__main__":
    supervise(Container(Path(sys.argv[1])))
