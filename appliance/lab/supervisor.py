"""Keeps one system VM's container: boots it, boots it again when it asks, and notes what runs.

A guest's reboot ends systemd-nspawn with exit code 133 (--keep-unit); anything else that ends it
is a power-off or a pulled plug, and ends the supervisor. Each boot gets new NICs in a new
network name space: nothing that the kernel knew survives, as on real hardware.
"""

import os
import sys
from pathlib import Path

from appliance.lab import cgroup, network
from appliance.lab.process import Identity, Popen, spawn
from appliance.lab.state import Container, Status
from appliance.lab.topologies import TOPOLOGIES
from appliance.lab.wait import TookTooLong, wait_until

_REBOOT = 133
_LEADER_TIMEOUT = 30.0  # seconds until nspawn has made the container's first process


def supervise(container: Container) -> None:
    """Boot the container and stay until it is off."""
    settings = container.settings()
    name = network.namespace(settings.lab, settings.node)
    nics = TOPOLOGIES[settings.topology].nodes[settings.node].nics
    me = Identity.of(os.getpid())
    boots = container.status().boots
    again = True
    while again:
        network.unplug(settings.lab, settings.node, nics)
        network.plug(settings.lab, settings.node, nics, up=False)
        source = Path(__file__).resolve().parents[2]
        nspawn = spawn(
            ["unshare", "--mount", "--propagation", "slave"]
            + [sys.executable, "-m", "appliance.lab.boot", str(container.path)],
            output=container.console,
            env={"PYTHONPATH": str(source)},
        )
        identity = Identity.of(nspawn.pid)
        boots += 1
        container.report(Status(boots - 1, me, identity, None))
        try:
            leader = wait_until(lambda: _leader(nspawn), _LEADER_TIMEOUT, "the container's systemd")
        except TookTooLong:
            nspawn.kill()
        else:
            if leader.pid:
                container.report(Status(boots, me, identity, leader))
        again = nspawn.wait() == _REBOOT
        container.report(Status(boots, me, None, None))
        cgroup.remove(name)
    network.unplug(settings.lab, settings.node, nics)
    container.report(Status(boots, None, None, None))


def _leader(nspawn: "Popen[bytes]") -> Identity | None:
    """The container's PID 1, once it is systemd; an identity without a number if nspawn ended."""
    if nspawn.poll() is not None:
        return Identity(0, 0)
    children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children")
    try:
        pids = children.read_text().split()
    except FileNotFoundError:
        return None
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if fields["Name"] == "systemd" and fields["NSpid"].split()[-1] == "1":
            return Identity.of(int(pid))
    return None


if __name__ == "__main__":
    supervise(Container(Path(sys.argv[1])))
