"""A lab: one topology, up and running, found again by its name."""

import contextlib
import fcntl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from appliance import tools
from appliance.errors import ApplianceError
from appliance.image import rootfs
from appliance.lab import network, remains, state
from appliance.lab.hypervisor import Hypervisor
from appliance.lab.node import Guest, Internet, Manager, Node
from appliance.lab.pki import Keys
from appliance.lab.state import Container
from appliance.lab.topologies import (
    TOPOLOGIES,
    Box,
    GuestVm,
    Kvm,
    Management,
    SystemVm,
    Topology,
    World,
)
from appliance.lab.vm import SystemVM

DEFAULT = "lab"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lab:
    """A small cloud. As a context, it goes down at the end."""

    name: str
    topology: Topology
    vms: Mapping[str, SystemVM]
    guests: Mapping[str, Guest]
    internets: Mapping[str, Internet]
    managers: Mapping[str, Manager]
    hypervisors: Mapping[str, Hypervisor]
    boxes: Mapping[str, Node]

    @classmethod
    def up(
        cls,
        topology: str = "router",
        *,
        name: str = DEFAULT,
        fault: str | None = None,
        console: Console | None = None,
    ) -> "Lab":
        """Boot a lab, building the root file system first if the cache has none.

        Returns when the system VMs have completed their boot (see SystemVM.wait_ready for the
        agent). `fault` is what the agent is to fail at. Raises ApplianceError; nothing is left
        behind then.
        """
        tools.need_root()
        tools.need("systemd-nspawn", "ip", "nsenter", "unshare", "busybox", "dnsmasq", "curl")
        if not state.NAME.fullmatch(name):
            raise ApplianceError(
                f"{name} cannot be a lab's name", "lower-case letters and digits, 21 at most"
            )
        if topology not in TOPOLOGIES:
            raise ApplianceError(f"no topology {topology}", f"one of {', '.join(TOPOLOGIES)}")
        layers = rootfs.layers(console=console)
        with _locked(name):
            if name in state.names():
                raise ApplianceError(f"a lab {name} is up already", f"sysvm lab down --name {name}")
            lab = cls._of(name, TOPOLOGIES[topology])
            try:
                lab.create(layers.lowers, fault)
            except BaseException:
                remains.remove(name)
                raise
        for vm in lab.vms.values():
            vm.wait_running()
        return lab

    @classmethod
    def find(cls, name: str = DEFAULT) -> "Lab":
        """The lab of this name. Raises ApplianceError if there is none."""
        if name not in state.names():
            raise ApplianceError(f"no lab {name}", f"sysvm lab up --name {name}")
        try:
            described = state.read(state.folder() / name / "lab.json")
            topology = TOPOLOGIES[str(described["topology"])]
        except (OSError, ValueError, KeyError) as error:
            raise ApplianceError(
                f"lab {name} is half made, or another version's", f"sysvm lab down --name {name}"
            ) from error
        return cls._of(name, topology)

    @classmethod
    def all(cls) -> tuple["Lab", ...]:
        """Every lab on this machine that this version knows the topology of."""
        found = []
        for name in state.names():
            with contextlib.suppress(ApplianceError):
                found.append(cls.find(name))
        return tuple(found)

    @property
    def vm(self) -> SystemVM:
        """The system VM, or the first of them."""
        return next(iter(self.vms.values()))

    @property
    def internet(self) -> Internet:
        """The world outside."""
        return next(iter(self.internets.values()))

    @property
    def hypervisor(self) -> Hypervisor:
        """Where guests' screens are, in a topology that has such a one."""
        return next(iter(self.hypervisors.values()))

    @property
    def manager(self) -> Manager:
        """Where pushes come from."""
        return next(iter(self.managers.values()))

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Everything but the system VMs, by name."""
        named = (self.guests, self.internets, self.managers, self.hypervisors, self.boxes)
        return {name: node for nodes in named for name, node in nodes.items()}

    @property
    def keys(self) -> Keys:
        """The keys of its management, good and bad ones."""
        return Keys.load(self.folder / "keys")

    @property
    def folder(self) -> Path:
        """Where its state is."""
        return state.folder() / self.name

    def down(self) -> None:
        """End it and remove every trace of it, however little of it there is."""
        down(self.name)

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    @classmethod
    def _of(cls, name: str, topology: Topology) -> "Lab":
        home = state.folder() / name
        vms: dict[str, SystemVM] = {}
        guests: dict[str, Guest] = {}
        internets: dict[str, Internet] = {}
        managers: dict[str, Manager] = {}
        hypervisors: dict[str, Hypervisor] = {}
        boxes: dict[str, Node] = {}
        address = port = None
        for node, spec in topology.nodes.items():
            folder = home / node
            match spec:
                case SystemVm():
                    vms[node] = SystemVM(name, node, spec, Container(folder))
                    if address is None:
                        address = spec.control_address.partition("/")[0]
                        port = spec.control_port
                case GuestVm():
                    guests[node] = Guest(name, node, folder, spec)
                case Kvm():
                    hypervisors[node] = Hypervisor(name, node, folder, spec, home / "keys")
                case Box():
                    boxes[node] = Node(name, node, folder)
                case World():
                    internets[node] = Internet(name, node, folder, spec)
                case Management():
                    managers[node] = Manager(
                        name, node, folder, spec, address or "", port or 0, home / "keys"
                    )
        return cls(name, topology, vms, guests, internets, managers, hypervisors, boxes)

    def create(self, lowers: tuple[Path, ...], fault: str | None) -> None:
        """Make and start all of it; the part of `up` that a failure undoes."""
        self.folder.mkdir(parents=True, mode=0o700)
        # First of all: whatever exists from here on can be found and taken down.
        state.write(self.folder / "lab.json", {"topology": self.topology.name})
        addresses = (vm.spec.control_address.partition("/")[0] for vm in self.vms.values())
        keys = Keys.create(*addresses)
        keys.write(self.folder / "keys")
        network.create_switch(self.name, self.topology.networks)
        for vm in self.vms.values():
            vm.create(lowers, self.topology.name, keys)
            vm.set_fault(fault)
            vm.start(wait=False)
        for name, node in self.nodes.items():
            node.folder.mkdir()
            network.plug(self.name, name, self.topology.nodes[name].nics, up=True)
            network.resolver(node.namespace)
        for internet in self.internets.values():
            internet.start()


def down(name: str) -> None:
    """Take down the lab of this name, whatever is left of it and whatever it was."""
    with _locked(name):
        remains.remove(name)


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    """One at a time brings this lab up or down."""
    folder = Path("/run/lock") / "sysvm-lab"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ApplianceError(
                f"lab {name} is being brought up or down by another process", "wait for it"
            ) from error
        yield
        Path(lock.name).unlink()
