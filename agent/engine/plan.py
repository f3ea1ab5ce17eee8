"""The difference between what is wanted and what is there, as steps in a safe order.

The order: address sets and firewall first, so that nothing is open a moment before its guard
stands; then kernel settings, links, addresses and routes; then files and daemons; then what is
no longer wanted. A plan for a machine that is as it should be is empty.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from agent.engine.firewall import delta
from agent.engine.model import (
    ACCEPT,
    AddAddress,
    AddPolicyRule,
    AddressSet,
    AddRoute,
    Announce,
    Bind,
    Desired,
    Dnat,
    Family,
    FileChange,
    Flip,
    FlowMatch,
    ForgetFlows,
    ForgetLeases,
    Link,
    LoadConnection,
    Observed,
    Plan,
    PutSet,
    PutTable,
    Reaction,
    ReloadUnit,
    RemoveAddress,
    RemovePolicyRule,
    RemoveRoute,
    RemoveSet,
    RestartUnit,
    Rule,
    SetLink,
    SetSysctl,
    StartUnit,
    Step,
    StopUnit,
    Table,
    Unit,
    UnloadConnection,
)


def diff(
    desired: Desired,
    tables: Mapping[tuple[Family, Table], str],
    files: Mapping[str, str],
    observed: Observed,
    previous: Desired | None = None,
) -> Plan:
    """What has to be done for `observed` to become `desired`.

    `tables` is the desired firewall in canonical text, `files` the SHA-256 of each desired file.
    `previous` is what was wanted before, where that is known: flows and leases that it allowed
    and this does not are forgotten.
    """
    flip = _flip(desired, files, observed)
    steps: list[Step] = [
        *_put_sets(desired, observed),
        *_tables(tables, observed),
        *_sysctls(desired, observed),
        *_links(desired, observed),
        *_add_addresses(desired, observed),
        *_routes(desired, observed),
        *flip,
        *_unload(desired, observed),
        *_units(desired, observed, flip, previous),
        *_load(desired, observed),
        *_forget(desired, previous),
        *_remove_addresses(desired, observed),
        *_remove_sets(desired, observed),
        *_announce(desired, observed),
    ]
    return Plan(tuple(steps))


def touched_units(plan: Plan) -> frozenset[str]:
    """Units that the plan starts, reloads or restarts: the ones whose probes decide."""
    return frozenset(
        step.unit.name
        for step in plan.steps
        if isinstance(step, StartUnit | ReloadUnit | RestartUnit)
    )


def needs_systemd(step: Step) -> bool:
    """Is this a step for systemd or a daemon, rather than for the kernel and the files?"""
    return isinstance(
        step,
        StartUnit | StopUnit | ReloadUnit | RestartUnit | LoadConnection | UnloadConnection
        | ForgetLeases,
    )  # fmt: skip


def _put_sets(desired: Desired, observed: Observed) -> Iterator[Step]:
    for name, wanted in sorted(desired.sets.items()):
        was = observed.sets.get(name)
        if was != wanted:
            yield PutSet(wanted, was)


def _remove_sets(desired: Desired, observed: Observed) -> Iterator[Step]:
    for name, there in sorted(observed.sets.items()):
        if name not in desired.sets:
            yield RemoveSet(there)


def _tables(tables: Mapping[tuple[Family, Table], str], observed: Observed) -> Iterator[Step]:
    for table in Table:
        for family in Family:
            wanted, was = tables[family, table], observed.firewall[family, table]
            if wanted != was:
                yield PutTable(family, table, wanted, was, delta(was, wanted))


_FORWARD, _TURNED = "net.ipv4.ip_forward", "net.ipv4.conf."


def _sysctls(desired: Desired, observed: Observed) -> Iterator[Step]:
    # Turning forwarding on or off has the kernel set what hosts and routers differ in
    # (inet_forward_change): so it comes first, and what it touches is set again.
    forward = desired.sysctls.get(_FORWARD)
    turned = forward is not None and observed.sysctls.get(_FORWARD) != forward.value
    if turned and forward is not None:
        yield SetSysctl(forward, observed.sysctls.get(_FORWARD))
    for key, sysctl in desired.sysctls.items():
        was = observed.sysctls.get(key)
        if key != _FORWARD and (was != sysctl.value or (turned and key.startswith(_TURNED))):
            yield SetSysctl(sysctl, was)


def _links(desired: Desired, observed: Observed) -> Iterator[Step]:
    """Links to their settings; NICs that the document does not have go down."""
    for name, was in sorted(observed.links.items()):
        link = desired.links.get(name, replace(was, up=False))
        if was != link:
            yield SetLink(link, was)


def _order(address: object) -> str:
    return str(address)


def _add_addresses(desired: Desired, observed: Observed) -> Iterator[Step]:
    new = desired.addresses - observed.addresses
    for address in sorted(new, key=lambda a: (a.nic, a.interface.version, a.interface.ip)):
        yield AddAddress(address)


def _remove_addresses(desired: Desired, observed: Observed) -> Iterator[Step]:
    for address in sorted(observed.addresses - desired.addresses, key=_order):
        yield RemoveAddress(address)


def _announce(desired: Desired, observed: Observed) -> Iterator[Step]:
    new = [a for a in desired.addresses - observed.addresses if a.announce]
    if new:
        yield Announce(tuple(sorted(new, key=_order)))


def _routes(desired: Desired, observed: Observed) -> Iterator[Step]:
    """Routes that changed are replaced in one step; the others come before any goes."""
    new = desired.routes - observed.routes
    for route in sorted(new, key=_order):
        yield AddRoute(route)
    replaced = {(route.destination, route.table) for route in new}
    for route in sorted(observed.routes - desired.routes, key=_order):
        if (route.destination, route.table) not in replaced:
            yield RemoveRoute(route)
    for rule in sorted(desired.policy_rules - observed.policy_rules, key=_order):
        yield AddPolicyRule(rule)
    for rule in sorted(observed.policy_rules - desired.policy_rules, key=_order):
        yield RemovePolicyRule(rule)


def _flip(
    desired: Desired, files: Mapping[str, str], observed: Observed
) -> tuple[()] | tuple[Flip]:
    changes = tuple(
        FileChange(
            path,
            observed.files.get(path),
            files.get(path),
            desired.files[path].unit if path in desired.files else None,
        )
        for path in sorted(files.keys() | observed.files.keys())
        if files.get(path) != observed.files.get(path)
    )
    return (Flip(changes),) if changes or observed.revision is None else ()


def _units(
    desired: Desired, observed: Observed, flip: Sequence[Flip], previous: Desired | None
) -> Iterator[Step]:
    """Stops first, so that ports are free; then reloads before restarts before starts."""
    for unit_name in sorted(desired.owned_units - desired.units.keys()):
        if _running(unit_name, observed):
            yield StopUnit(unit_name)
    reactions = _reactions(desired, flip)
    running = [unit for name, unit in sorted(desired.units.items()) if _running(name, observed)]
    for unit in running:
        if reactions.get(unit.name) is Reaction.RELOAD:
            yield ReloadUnit(unit, _new_binds(unit, previous))
    for unit in running:
        if reactions.get(unit.name) is Reaction.RESTART:
            yield RestartUnit(unit)
    for name, unit in sorted(desired.units.items()):
        if not _running(name, observed):
            yield StartUnit(unit)


def _load(desired: Desired, observed: Observed) -> Iterator[Step]:
    """Connections for a daemon that runs by now; one that is as wanted keeps its tunnel."""
    for name, connection in sorted(desired.connections.items()):
        was = observed.connections.get(name)
        if was != connection.digest:
            yield LoadConnection(connection, was)


def _unload(desired: Desired, observed: Observed) -> Iterator[Step]:
    """Before the daemon stops, where it does: peers are told that a connection is over."""
    for name in sorted(observed.connections.keys() - desired.connections.keys()):
        yield UnloadConnection(name)


def _new_binds(unit: Unit, previous: Desired | None) -> tuple[Bind, ...]:
    """What a unit will listen on and did not; nothing where what it did is not known."""
    if previous is None or unit.name not in previous.units:
        return ()
    had = {(bind.address, bind.port) for bind in previous.units[unit.name].binds}
    return tuple(bind for bind in unit.binds if (bind.address, bind.port) not in had)


def _running(unit: str, observed: Observed) -> bool:
    state = observed.units.get(unit)
    return state is not None and state.running


def _reactions(desired: Desired, flip: Sequence[Flip]) -> Mapping[str, Reaction]:
    """What each unit has to do about the files that change; a file that goes is a restart."""
    owners = {path.split("/", 1)[0]: file.unit for path, file in desired.files.items() if file.unit}
    found: dict[str, Reaction] = {}
    for change in flip[0].changes if flip else ():
        file = desired.files.get(change.path)
        unit = file.unit if file else owners.get(change.path.split("/", 1)[0])
        reaction = file.reaction if file else Reaction.RESTART
        if unit is not None:
            found[unit] = max(found.get(unit, Reaction.NONE), reaction)
    return found


# -- flows and leases that are over ------------------------------------------------------------


def _forget(desired: Desired, previous: Desired | None) -> Iterator[Step]:
    if previous is None:
        return
    matches = tuple(dict.fromkeys(_flows(desired, previous)))
    if matches:
        yield ForgetFlows(matches)
    kept = {lease.mac: lease.address for lease in desired.leases}
    promised = {lease.address: lease.mac for lease in desired.leases}
    gone = [
        lease
        for lease in previous.leases
        if kept.get(lease.mac) != lease.address or promised.get(lease.address) != lease.mac
    ]
    if gone:
        yield ForgetLeases(tuple(sorted(gone, key=_order)))


def _flows(desired: Desired, previous: Desired) -> Iterable[FlowMatch]:
    """Flows whose translation changed, or whose permission is gone.

    A flow that another rule still lets through is picked up again with its next packet, so that
    a match may be wider than the rule (a list of sources is not looked into).
    """
    before, after = _by_place(previous, desired), _by_place(desired, previous)
    for place, rule in before.items():
        if after.get(place) != rule and (isinstance(rule.target, Dnat) or rule.target == ACCEPT):
            yield from _matches(rule)
    for place, rule in after.items():
        if before.get(place) != rule and (isinstance(rule.target, Dnat) or rule.target != ACCEPT):
            yield from _matches(rule)


def _by_place(one: Desired, other: Desired) -> Mapping[tuple[object, ...], Rule]:
    """Rules that decide over flows and are not the other's very own, by where they stand."""
    shared = {id(rule) for rule in other.rules}
    return {
        (rule.family, rule.chain, rule.comment): rule
        for rule in one.rules
        if id(rule) not in shared and _decides(rule)
    }


def _decides(rule: Rule) -> bool:
    """Does the rule stand in a chain that decides over flows, rather than in the frame?"""
    return bool(rule.flow_sources) or rule.flow_destination is not None


def _matches(rule: Rule) -> Iterable[FlowMatch]:
    for source in (rule.source,) if rule.source else (rule.flow_sources or (None,)):
        yield FlowMatch(
            family=rule.family,
            protocol=rule.protocol,
            source=source,
            destination=rule.destination or rule.flow_destination,
            ports=rule.original_ports or rule.ports,
        )


# -- for people --------------------------------------------------------------------------------


def describe(plan: Plan) -> tuple[str, ...]:
    """The plan as a diff: one line for each thing that comes (+), goes (-) or changes (~)."""
    return tuple(line for step in plan.steps for line in _lines(step))


def name(step: Step) -> str:
    """What a step is called in errors and fault points, such as `put-table`."""
    words = "".join(f"-{c.lower()}" if c.isupper() else c for c in type(step).__name__)
    return words.removeprefix("-")


def _lines(step: Step) -> Iterator[str]:  # noqa: C901 - one case for each kind of step
    match step:
        case SetSysctl(sysctl, was):
            yield f"~ sysctl {sysctl.key}: {was} -> {sysctl.value}"
        case PutSet(address_set, was):
            yield from _set_lines(address_set, was)
        case RemoveSet(address_set):
            yield f"- set {address_set.name} ({len(address_set.members)} members)"
        case PutTable(family, table, text, was, _):
            yield from _table_lines(f"ipv{int(family)} {table}", was, text)
        case SetLink(link, was):
            yield from _link_lines(link, was)
        case AddAddress(address):
            yield f"+ address {address.interface} on {address.nic}"
        case RemoveAddress(address):
            yield f"- address {address.interface} on {address.nic}"
        case AddRoute(route):
            yield f"+ route {route.destination} via {route.via} on {route.nic}"
        case RemoveRoute(route):
            yield f"- route {route.destination} via {route.via} on {route.nic}"
        case AddPolicyRule(rule):
            yield f"+ policy rule {rule.priority} to table {rule.table}"
        case RemovePolicyRule(rule):
            yield f"- policy rule {rule.priority} to table {rule.table}"
        case Flip(changes):
            for change in changes:
                sign = "+" if change.was is None else "-" if change.now is None else "~"
                yield f"{sign} file {change.path}"
        case StartUnit(unit):
            yield f"+ start {unit.name}"
        case StopUnit(unit_name):
            yield f"- stop {unit_name}"
        case ReloadUnit(unit, _):
            yield f"~ reload {unit.name}"
        case RestartUnit(unit):
            yield f"~ restart {unit.name}"
        case LoadConnection(connection, was):
            yield f"{'+' if was is None else '~'} connection {connection.name}"
        case UnloadConnection(connection_name):
            yield f"- connection {connection_name}"
        case ForgetFlows(matches):
            for flow in matches:
                yield f"- tracked flows {_flow(flow)}"
        case ForgetLeases(leases):
            for lease in leases:
                yield f"- lease {lease.address} of {lease.mac}"
        case Announce(addresses):
            yield f"~ announce {', '.join(str(a.interface.ip) for a in addresses)}"
        case _:
            assert_never(step)


def _set_lines(now: AddressSet, was: AddressSet | None) -> Iterator[str]:
    before = was.members if was else frozenset()
    if was is None:
        yield f"+ set {now.name} ({len(now.members)} members)"
        return
    for member in sorted(now.members - before):
        yield f"+ set {now.name}: {member}"
    for member in sorted(before - now.members):
        yield f"- set {now.name}: {member}"


def _table_lines(title: str, was: str, now: str) -> Iterator[str]:
    """Rules that come and go; where only their order changed, that."""
    before, after = was.splitlines(), now.splitlines()
    old, new = set(before), set(after)
    lines = [f"- {title}: {line}" for line in before if line not in new]
    lines += [f"+ {title}: {line}" for line in after if line not in old]
    yield from lines or [f"~ {title}: another order or number of the same rules"]


def _link_lines(link: Link, was: Link) -> Iterator[str]:
    if link.mtu != was.mtu:
        yield f"~ link {link.name}: mtu {was.mtu} -> {link.mtu}"
    if link.up != was.up:
        yield f"~ link {link.name}: {'up' if link.up else 'down'}"


def _flow(flow: FlowMatch) -> str:
    words = [str(flow.protocol or "any")]
    if flow.source:
        words.append(f"from {flow.source}")
    if flow.destination:
        words.append(f"to {flow.destination}")
    if flow.ports:
        words.append(f"port {flow.ports}")
    return " ".join(words)
