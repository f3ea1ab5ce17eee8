"""The machine: `agent.engine.host.Host`, put together from the modules beside this one."""

import logging
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self, assert_never

from agent.engine.host import CheckFailed, Scope, StepFailed
from agent.engine.model import (
    AddAddress,
    AddPolicyRule,
    AddressSet,
    AddRoute,
    Announce,
    Bind,
    Command,
    Count,
    CounterKey,
    Desired,
    Family,
    Flip,
    ForgetFlows,
    ForgetLeases,
    Link,
    LoadConnection,
    Observed,
    Probe,
    ProbeResult,
    PutSet,
    PutTable,
    Reload,
    ReloadUnit,
    RemoveAddress,
    RemovePolicyRule,
    RemoveRoute,
    RemoveSet,
    RestartUnit,
    SetLink,
    SetSysctl,
    StartUnit,
    Step,
    StopUnit,
    Sysctl,
    Table,
    Unit,
    UnitState,
    UnloadConnection,
)
from agent.system import addresssets, announce, conntrack, dnsmasq, files, haproxy, sysctl, xtables
from agent.system.blobs import Blobs
from agent.system.early import Early
from agent.system.faults import Faults
from agent.system.namespaces import Scratch, seen_at
from agent.system.netlink import Netlink
from agent.system.paths import Paths
from agent.system.probes import Prober
from agent.system.rehearsal import Rehearsal
from agent.system.revisions import Revisions
from agent.system.run import CommandFailed, run
from agent.system.units import Units
from agent.system.vici import Charon, Listener

log = logging.getLogger(__name__)


# Seconds for which what was looked at ahead may stand for what is there: a refused push leaves it.
_AHEAD = 2.0


class LinuxHost:
    """This machine. Its threads and sockets are few, long-lived, and made when first needed."""

    def __init__(self, paths: Paths | None = None, *, wait_for_units: bool = True) -> None:
        self.paths = paths or Paths()
        self.units = Units(wait=wait_for_units)
        self.netlink = Netlink()
        self.revisions = Revisions(self.paths)
        self.blobs = Blobs(self.paths)
        self.charon = Charon(paths=self.paths)
        self.listener = Listener()  # its thread is the caller's
        self.prober = Prober(self.netlink, self.units)
        self._rehearsal = Rehearsal()
        self._checkers: Scratch | None = None
        self._ahead: tuple[float, list[Future[dict[tuple[Family, Table], str]]]] | None = None
        self._readers = ThreadPoolExecutor(3, "observe")
        self._early = Early()
        self._faults = Faults.of_this_machine(self.paths.run)
        self.revisions.prepare()
        if wait_for_units:
            self.revisions.begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up threads, namespaces and sockets."""
        self._readers.shutdown()
        self._rehearsal.close()
        if self._checkers is not None:
            self._checkers.close()
            self._checkers = None
        self.netlink.close()

    def links(self) -> tuple[Link, ...]:
        return self.netlink.links()

    def observe(self, scope: Scope) -> Observed:
        try:
            return self._observe(scope)
        except CommandFailed as failure:
            raise StepFailed("observe", str(failure)) from failure

    def _observe(self, scope: Scope) -> Observed:
        firewalls = self._look_at_firewalls()
        sets = self._readers.submit(addresssets.observe)
        links = {link.name: link for link in self.netlink.links()}
        return Observed(
            links=links,
            addresses=self.netlink.addresses(links.keys()),
            routes=self.netlink.routes(),
            policy_rules=self.netlink.policy_rules(),
            sysctls=sysctl.observe(scope.sysctls),
            units=self.units.states(scope.units, pids=False),
            files=self.revisions.digests(),
            connections=self.charon.connections(),
            revision=self.revisions.current(),
            firewall={key: text for one in firewalls for key, text in one.result().items()},
            sets=sets.result(),
        )

    def unit_states(self, names: Collection[str]) -> Mapping[str, UnitState]:
        if not self.units.wait:
            self._early.wait_for_bus()
        return self.units.states(names, pids=False)

    def wait_until_closed(self) -> None:
        self._early.wait_for_firewall()
        self.revisions.begin()

    def look_ahead(self) -> None:
        self._ahead = None
        self._ahead = (time.monotonic() + _AHEAD, self._look_at_firewalls())

    def _look_at_firewalls(self) -> "list[Future[dict[tuple[Family, Table], str]]]":
        """Reading the firewall is the long part, and other processes do it."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and time.monotonic() < ahead[0]:
            return ahead[1]
        return [self._readers.submit(xtables.observe, family) for family in Family]

    def require_room(self) -> None:
        state = self.revisions.paths.state
        with files.told_as("look for room"):
            if state.is_dir():
                files.require_room(state, 0, 0)

    def stage(self, revision: int, desired: Desired) -> None:
        self.revisions.stage(revision, desired.files, desired.objects)

    def check(self, revision: int, commands: Sequence[Command]) -> None:
        if not commands:
            return
        if self._checkers is None:
            # Not that of the rehearsal, whose rules would close the checkers' loopback. With no
            # network but loopback, a name in a configuration cannot keep a checker waiting.
            self._checkers = Scratch("checkers")
        self._checkers.do(lambda: self._check(revision, commands))

    def _check(self, revision: int, commands: Sequence[Command]) -> None:
        staged, running = self.paths.revisions / str(revision), self.paths.current.resolve()
        try:
            with seen_at(staged, running):
                for command in commands:
                    _run_checker(command)
        except OSError as error:
            raise CheckFailed("the checkers' namespace", str(error)) from error

    def rehearse(
        self, sets: Mapping[str, AddressSet], tables: Mapping[tuple[Family, Table], str]
    ) -> Mapping[tuple[Family, Table], str]:
        try:
            return self._rehearsal.rehearse(sets, tables)
        except (CommandFailed, OSError) as failure:
            raise CheckFailed("rehearsal", str(failure)) from failure

    def perform(self, step: Step, revision: int) -> None:
        try:
            self._perform(step, revision)
        except CommandFailed as failure:
            raise StepFailed(type(step).__name__, str(failure)) from failure
        except OSError as error:
            raise StepFailed(type(step).__name__, str(error)) from error

    def _perform(self, step: Step, revision: int) -> None:  # noqa: C901 - a flat list of kinds
        match step:
            case SetSysctl():
                sysctl.put(step.sysctl)
            case PutSet():
                addresssets.put([step.set])
            case RemoveSet():
                addresssets.remove(step.set.name)
            case PutTable():
                self._put_table(step)
            case SetLink():
                self.netlink.set_link(step.link)
            case AddAddress():
                self.netlink.add_address(step.address)
            case RemoveAddress():
                self._remove_address(step)
            case AddRoute():
                self.netlink.add_route(step.route)
            case RemoveRoute():
                self.netlink.remove_route(step.route)
            case AddPolicyRule():
                self.netlink.add_policy_rule(step.rule)
            case RemovePolicyRule():
                self.netlink.remove_policy_rule(step.rule)
            case Flip():
                self.revisions.flip(revision)
            case StartUnit():
                _try_binds(step.unit.binds)
                self.listener.wake()  # it may be charon, which has much to say at once
                self.units.start(step.unit.name)
            case StopUnit():
                self.units.stop(step.name)
            case ReloadUnit():
                _try_binds(step.new)
                self._reload(step.unit)
            case RestartUnit():
                self.units.restart(step.unit.name)
            case LoadConnection():
                if self.units.wait:  # else charon is only starting, and loads them itself
                    self.charon.load(step.connection)
            case UnloadConnection():
                self.charon.unload(step.name)
            case ForgetFlows():
                conntrack.forget(step.matches)
            case ForgetLeases():
                dnsmasq.forget(step.leases)
            case Announce():
                announce.announce(step.addresses)
            case _:
                assert_never(step)

    def _put_table(self, step: PutTable) -> None:
        """Edit a table in place where that goes, else replace it.

        It does not go where another hand was quicker; and a table that loses its last rule goes
        as a whole, with the hooks that it has in every packet's way.
        """
        if step.edits is not None and step.text != xtables.empty(step.table):
            try:
                xtables.edit(step.family, step.edits)
            except CommandFailed as failure:
                log.warning(
                    "%s table: replaced, for it could not be edited: %s", step.table, failure
                )
            else:
                return
        xtables.load(step.family, step.text)

    def _remove_address(self, step: RemoveAddress) -> None:
        """Remove an address and no other: else the kernel takes along the subnet's later ones."""
        address = step.address
        if address.interface.version == 4:
            nic = address.nic.replace(".", "/")
            sysctl.put_if_there(Sysctl(f"net.ipv4.conf.{nic}.promote_secondaries", "1"))
        self.netlink.remove_address(address)

    def _reload(self, unit: Unit) -> None:
        match unit.reload:
            case Reload.SYSTEMD:
                self.units.reload(unit.name)
            case Reload.HAPROXY_MASTER:
                haproxy.keep(unit.keeps)
                haproxy.reload(unit.socket)
            case _:
                assert_never(unit.reload)

    def probe(self, probes: Sequence[Probe], timeout: float) -> tuple[ProbeResult, ...]:
        return self.prober.run(probes, timeout)

    def counters(self) -> Mapping[CounterKey, Count]:
        try:
            return xtables.counters()
        except CommandFailed as failure:
            raise StepFailed("read counters", str(failure)) from failure

    def missing_blobs(self, wanted: Collection[str]) -> frozenset[str]:
        return frozenset(wanted) - self.blobs.sizes().keys() if wanted else frozenset()

    def discard(self, keep: Sequence[int], blobs: Collection[str]) -> None:
        self.revisions.discard(keep)
        self.blobs.discard(blobs)

    def arm(self, revision: int, seconds: float) -> None:
        self.units.arm(revision, seconds)

    def disarm(self) -> None:
        self.units.disarm()

    def fault(self, point: str) -> None:
        self._faults.at(point)


def _try_binds(binds: Sequence[Bind]) -> None:
    """Bind each for a moment. Raises StepFailed with the path of the first that somebody has."""
    for one in binds:
        family = socket.AF_INET if one.address.version == 4 else socket.AF_INET6
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((str(one.address), one.port))
            except OSError as error:
                where = f"{one.address} port {one.port}"
                raise StepFailed("listen", f"{where}: {error.strerror}", one.path) from error


def _run_checker(command: Command) -> None:
    try:
        run(command.argv, timeout=command.timeout)
    except CommandFailed as failure:
        said = (failure.stderr or failure.stdout).decode(errors="replace").strip()
        reason = f"{failure.reason}: {said[-2000:]}" if said else failure.reason
        raise CheckFailed(command.argv[0], reason, command.path) from failure
