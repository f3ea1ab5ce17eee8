"""The lab's router topology with virtual machines in it: a system VM booted from a built image.

Internet, management and one guest are the lab's, in network name spaces; they share bridges with
the machines. Nothing of it is seen in the host's own network.
"""

import fcntl
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from appliance import tools
from appliance.errors import ApplianceError
from appliance.lab import network
from appliance.lab.http import Response
from appliance.lab.node import Guest, Internet, Manager
from appliance.lab.pki import Keys
from appliance.lab.process import Identity
from appliance.lab.topologies import (
    ROUTER,
    TOPOLOGIES,
    GuestVm,
    Management,
    SystemVm,
    Topology,
    World,
)
from appliance.lab.vm import BOOT_CREDENTIAL, FAULT_CREDENTIAL, boot_configuration
from appliance.lab.wait import wait_until
from appliance.qemu import guest, shell
from appliance.qemu.accelerator import accelerator
from appliance.qemu.image import Contents
from appliance.qemu.machine import Disk, Machine, Port, Spec

FOLDER = Path("/var/tmp/sysvm-proof")  # noqa: S108  # disks are too large for /run; root's alone
GUEST, NEIGHBOUR = "vm1", "vm2"  # of the router topology: a virtual machine, and a name space
WEB = "www.example.test"

VM = next(spec for spec in ROUTER.nodes.values() if isinstance(spec, SystemVm))


@dataclass(slots=True)
class Cloud:
    """Networks, and what is plugged into them. See `cloud` below for making one."""

    name: str
    topology: Topology
    folder: Path
    contents: Contents
    kernel: Path
    accelerator: tuple[str, ...]
    keys: Keys
    internet: Internet
    manager: Manager
    guests: Mapping[str, Guest]
    machines: dict[str, Machine] = field(default_factory=dict)
    generations: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _told: dict[str, bytes] = field(default_factory=dict)

    @property
    def neighbour(self) -> Guest:
        """The router topology's second guest."""
        return self.guests[NEIGHBOUR]

    # -- machines ------------------------------------------------------------------------------

    def machine(self, spec: Spec) -> Machine:
        """Such a machine, switched off; one of that name and its disks are gone."""
        self.scrap(spec.name)
        folder = self.folder / spec.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        made = Machine(spec, folder, self.name, self.accelerator)
        self.machines[spec.name] = made
        return made

    def scrap(self, name: str) -> None:
        """Switch a machine off, if there is one of this name; its folder stays to be read."""
        machine = self.machines.pop(name, None)
        if machine is not None:
            machine.kill()

    def system_vm(self, disk: Disk | None = None, *, node: str = "vm", **changes: Any) -> Spec:
        """A system VM's machine: its NICs, and the boot configuration as a credential."""
        described = self.topology.nodes[node]
        if not isinstance(described, SystemVm):
            raise TypeError(f"{node} is no system VM")
        model = changes.pop("nic", "virtio-net-pci")
        fault = changes.pop("fault", None)
        told = self.boot_configuration(node)
        boot = {BOOT_CREDENTIAL: told} if changes.pop("told", True) else {}
        faults = {FAULT_CREDENTIAL: fault.encode()} if fault else {}
        return replace(
            Spec(
                name=node,
                ports=tuple(Port(nic.network, nic.mac, model) for nic in described.nics),
                disk=disk,
                credentials={**shell.CREDENTIALS, **boot, **faults},
            ),
            **changes,
        )

    def boot_configuration(self, node: str = "vm") -> bytes:
        """What a system VM is told at each of its boots."""
        if node not in self._told:
            described = self.topology.nodes[node]
            if not isinstance(described, SystemVm):
                raise TypeError(f"{node} is no system VM")
            # Kept: a revocation list that is signed anew is another one.
            self._told[node] = json.dumps(boot_configuration(described, self.keys)).encode()
        return self._told[node]

    def guest(self) -> Machine:
        """The tenant's virtual machine, switched on, or as it runs already."""
        if (running := self.machines.get(GUEST)) is not None and running.running:
            return running
        root = self.folder / "guest.initrd"
        root.write_bytes(guest.initrd(self.contents, GUEST, WEB))
        node = self.topology.nodes[GUEST]
        port = Port(node.nics[0].network, node.nics[0].mac)
        machine = self.machine(guest.spec(GUEST, port, self.kernel, root))
        machine.start()
        return machine

    # -- management ----------------------------------------------------------------------------

    def request(self, method: str, path: str, **options: Any) -> Response:
        """One request of management's, over mutual TLS. Raises OSError where none is answered."""
        return self.manager.request(method, path, **options)

    def ready(self) -> bool:
        """Whether the agent answers management."""
        try:
            return self.request("GET", "/v1/status", timeout=10).status < 500
        except OSError:
            return False

    def wait_ready(self, timeout: float = 240) -> None:
        """Wait until the agent answers management."""
        wait_until(self.ready, timeout, "an answer of the agent to management", every=0.2)

    def running(self) -> int | None:
        """The generation that runs; None where nobody answers."""
        try:
            status = self.request("GET", "/v1/status", timeout=10)
        except OSError:
            return None
        if status.status != 200:
            return None
        generation: int = status.json()["running"]["generation"]
        return generation

    def push(self, document: Mapping[str, Any], **options: Any) -> Response:
        """Push this document with the next generation."""
        body = json.dumps({**document, "generation": next(self.generations)}).encode()
        return self.manager.push(body, **options)


@contextmanager
def cloud(image: Path, name: str = "proof", topology: Topology = ROUTER) -> Iterator[Cloud]:
    """A cloud for machines that boot from this image; all of it is gone afterwards.

    The router topology's first guest is a virtual machine, every other guest a name space.
    What an earlier cloud of that name left behind, because it was killed, is removed first.
    Raises ApplianceError if one of that name is up.
    """
    tools.need_root()
    tools.need("qemu-img", "qemu-system-x86_64", "ip", "nsenter", "busybox", "dnsmasq")
    FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (FOLDER / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ApplianceError(
                f"a proof {name} runs already", "wait for it, or choose another name"
            ) from error
        folder = FOLDER / name
        _remove(name, folder)
        folder.mkdir()
        try:
            made = _make(image, name, folder, topology)
            try:
                yield made
            finally:
                for machine in tuple(made.machines):
                    made.scrap(machine)
        finally:
            _remove(name, folder)


def _make(image: Path, name: str, folder: Path, topology: Topology) -> Cloud:
    contents = Contents.of(image, folder / "image")
    kernel = contents.kernel(folder)
    network.create_switch(name, topology.networks)
    address = VM.control_address.partition("/")[0]
    keys = Keys.create(address)
    keys.write(folder / "keys")
    internets: list[Internet] = []
    managers: list[Manager] = []
    guests: dict[str, Guest] = {}
    for node, spec in topology.nodes.items():
        home = folder / node
        match spec:
            case World():
                internets.append(Internet(name, node, home, spec))
            case Management():
                port = VM.control_port
                managers.append(Manager(name, node, home, spec, address, port, folder / "keys"))
            case GuestVm() if topology is not ROUTER or node != GUEST:
                guests[node] = Guest(name, node, home, spec)
            case _:
                continue
        home.mkdir()
        network.plug(name, node, spec.nics, up=True)
        network.resolver(network.namespace(name, node))
    internet, manager = internets[0], managers[0]
    internet.start()
    works = accelerator(kernel, FOLDER)
    return Cloud(name, topology, folder, contents, kernel, works, keys, internet, manager, guests)


def _remove(name: str, folder: Path) -> None:
    known = {node for topology in TOPOLOGIES.values() for node in topology.nodes}
    names = [network.namespace(name, node) for node in (*sorted(known), network.SWITCH)]
    # Whoever lives in these networks was started for them: servers, and the machines' QEMUs.
    inhabitants = [Identity.of(pid) for space in names for pid in network.members(space)]
    for process in inhabitants:
        if process is not None:
            process.send(9)
    for process in inhabitants:
        if process is not None:
            process.wait(10)
    for space in names:
        network.remove(space)
    shutil.rmtree(folder, ignore_errors=True)
