"""A lab's networks: bridges in a network name space of their own, cables into every other one.

Nothing of it is seen in the host's own network. A cable is a veth pair that is created directly
under its final names in the two name spaces that it joins.
"""

import ctypes
import os
import shutil
import socket
import threading
from collections.abc import Iterable
from pathlib import Path

from agent.system.run import run
from appliance.lab.topologies import Nic

SWITCH = "switch"  # the name space that holds the bridges
NETNS = Path("/run/netns")
PER_NAMESPACE = Path("/etc/netns")  # what `ip netns exec` mounts over /etc

_TIMEOUT = 20.0


def namespace(lab: str, node: str) -> str:
    """The name of a node's network name space."""
    return f"{lab}-{node}"


def namespaces(lab: str) -> tuple[str, ...]:
    """The name spaces of this lab that exist, the switch's included, and what is left of them."""
    found = {path.name for at in (NETNS, PER_NAMESPACE) for path in at.glob(f"{lab}-*")}
    return tuple(sorted(found))


def create_switch(lab: str, networks: Iterable[str]) -> None:
    """Make the name space of the bridges, with one bridge per network."""
    name = namespace(lab, SWITCH)
    run(["ip", "netns", "add", name], timeout=_TIMEOUT)
    # A switch has no addresses; without this, each port sends router solicitations.
    settings = [f"net.ipv6.conf.{scope}.disable_ipv6=1" for scope in ("all", "default")]
    run(["ip", "netns", "exec", name, "sysctl", "-qw", *settings], timeout=_TIMEOUT)
    lines = []
    for network in networks:
        # No learning delay: a port forwards from its first packet on.
        lines.append(
            f"link add br-{network} type bridge forward_delay 0 stp_state 0 mcast_snooping 0"
        )
        lines.append(f"link set br-{network} up")
    _batch(name, lines)


def plug(lab: str, node: str, nics: Iterable[Nic], *, up: bool) -> None:
    """Make a node's name space and its NICs; with `up`, bring them up with their addresses."""
    name, switch = namespace(lab, node), namespace(lab, SWITCH)
    run(["ip", "netns", "add", name], timeout=_TIMEOUT)
    cables, settings = [], []
    for nic in nics:
        port = f"{node}-{nic.name}"
        peer = f"peer name {nic.name} address {nic.mac} netns {name}"
        cables.append(f"link add {port} type veth {peer}")
        cables.append(f"link set {port} master br-{nic.network} up")
        if up:
            settings += [f"address add {entry} dev {nic.name}" for entry in nic.addresses]
            settings.append(f"link set {nic.name} up")
    if up:
        settings.append("link set lo up")
    _batch(switch, cables)
    _batch(name, settings)


def unplug(lab: str, node: str, nics: Iterable[Nic]) -> None:
    """Remove a node's name space and its cables, whatever of them exists."""
    name, switch = namespace(lab, node), namespace(lab, SWITCH)
    if (NETNS / switch).exists():
        # The kernel removes a dead name space's devices some time later; the ports are removed
        # here and now, so that the same names can be used again at once.
        for nic in nics:
            run(
                ["ip", "-n", switch, "link", "delete", f"{node}-{nic.name}"],
                timeout=_TIMEOUT,
                check=False,
            )
    remove(name)


def tap(lab: str, port: str, network: str) -> None:
    """Make a port of the switch that a program plugs into, such as a virtual machine's NIC."""
    unplug_tap(lab, port)
    lines = [f"tuntap add dev {port} mode tap", f"link set {port} master br-{network} up"]
    for line in lines:
        run(["ip", "-n", namespace(lab, SWITCH), *line.split()], timeout=_TIMEOUT)


def unplug_tap(lab: str, port: str) -> None:
    """Remove such a port, if it is there."""
    switch = namespace(lab, SWITCH)
    if (NETNS / switch).exists():
        run(["ip", "-n", switch, "link", "delete", port], timeout=_TIMEOUT, check=False)


def remove(name: str) -> None:
    """Remove this name space and what `ip netns exec` shows in it, if they exist."""
    if (NETNS / name).exists():
        run(["ip", "netns", "delete", name], timeout=_TIMEOUT)
    shutil.rmtree(PER_NAMESPACE / name, ignore_errors=True)


def members(name: str) -> tuple[int, ...]:
    """The processes that live in this name space."""
    if not (NETNS / name).exists():
        return ()
    listed = run(["ip", "netns", "pids", name], timeout=_TIMEOUT, check=False)
    return tuple(map(int, listed.text.split()))


def resolver(name: str, servers: Iterable[str] = (), domain: str = "") -> None:
    """Say which DNS servers the programs in this name space ask.

    Written in place: a program that runs already sees the same file, mounted.
    """
    folder = PER_NAMESPACE / name
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"nameserver {server}" for server in servers]
    if domain:
        lines.insert(0, f"search {domain}")
    (folder / "resolv.conf").write_text("".join(f"{line}\n" for line in lines))
    # The host's own name services (systemd-resolved …) would answer beside the lab's.
    (folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    (folder / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")


def open_socket(name: str, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    """A socket that lives in this network name space, used from our own."""
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def enter_and_open() -> None:
        try:
            handle = os.open(NETNS / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _LIBC.setns(handle, _CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number), name)
            finally:
                os.close(handle)
            made.append(socket.socket(family, kind))
        except OSError as error:
            failed.append(error)

    # A name space is a thread's own: this one enters it and ends; the socket stays.
    thread = threading.Thread(target=enter_and_open)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def _batch(name: str, lines: Iterable[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    if text:
        run(["ip", "-n", name, "-batch", "-"], timeout=_TIMEOUT, stdin=text.encode())
