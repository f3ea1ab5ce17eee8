"""The restore at boot: the last confirmed revision, before there is a network."""

import contextlib
import json
import logging
from dataclasses import replace

from agent.document.boot import BootConfig, serialize
from agent.document.document import Document, InvalidDocument, parse_value
from agent.engine import tell
from agent.engine.errors import EngineError, UnreadableState
from agent.engine.host import CheckFailed, Clock, Host, HostFull
from agent.engine.model import Announce, Committed, Degraded, Observed, Outcome, Plan, Step
from agent.engine.plan import name, needs_systemd
from agent.engine.store import Revision, State, Store
from agent.engine.target import Target, Targets, keep_ahead
from agent.monitor.events import NOWHERE, Recorder

log = logging.getLogger(__name__)


def restore(
    host: Host,
    store: Store,
    targets: Targets,
    clock: Clock,
    boot: BootConfig | None,
    events: Recorder = NOWHERE,
) -> Outcome:
    """Become the last confirmed revision; where that one cannot be used, an older one.

    Before the first push the boot configuration stands in for a revision. Daemons are started,
    not waited for: this runs before they may. Counters go on from what was kept. It gets ready
    while the VM is still being closed, and acts when it is. A disk that takes no more keeps no
    revision from coming back: what would be written is what is there, or can be had again.
    """
    found = _readable(store, events)
    state = replace(found, making=None, deadline=None)
    with contextlib.suppress(HostFull):
        store.begin_counters()
    for number in _bootable(store, state):
        try:
            revision = store.revision(number)
            if is_outdated(revision, boot):
                break
            target, observed = targets.at_boot(revision)
        except (InvalidDocument, CheckFailed, EngineError) as error:
            log.error("revision %d cannot be restored: %s", number, error)
            events.record(tell.not_restored(number, str(error)))
            continue
        outcome = _boot(host, store, targets, state, target, observed)
        if found.provisional or found.making is not None:
            events.record(tell.cut_short(number, found))
        return outcome
    if boot is None:
        log.error("there is no boot configuration: staying closed")
        return Degraded("there is no boot configuration and no earlier revision")
    revision = Revision.of(document_of(boot), state.last + 1, clock.now(), "boot")
    target, observed = targets.at_boot(revision)
    store.put_revision(revision)
    state = replace(state, last=revision.info.number)
    return _boot(host, store, targets, state, target, observed)


def _readable(store: Store, events: Recorder) -> State:
    """The state, or what stands in for it where it cannot be read."""
    try:
        return store.state()
    except UnreadableState as error:
        state = store.recover()
        events.record(tell.unreadable(str(error), state.current))
        return state


def document_of(boot: BootConfig) -> Document:
    """The document that a VM has before the first push: its control NICs, and nothing open.

    The boot configuration may know of more NICs; a router with them up, and nothing said of its
    firewall, would let its guests out.
    """
    value = json.loads(serialize(boot))
    site = {
        "hostname": boot.hostname,
        "nics": {mac: value["nics"][mac] for mac in boot.control_nics()},
        "routes": value["routes"],
    }
    if boot.domain is not None:
        site["domain"] = boot.domain
    return parse_value({"schema": 1, "generation": 0, "role": str(boot.role), "site": site})


def is_outdated(revision: Revision, boot: BootConfig | None) -> bool:
    """Was it made of a boot configuration, and is there another one now?"""
    if boot is None or revision.info.cause != "boot":
        return False
    return revision.document.digest != document_of(boot).digest


def _bootable(store: Store, state: State) -> list[int]:
    """Revisions to try: the confirmed one, then older ones; never one that was on trial."""
    if state.confirmed is None:
        return []
    numbers = store.numbers()
    for number in numbers:
        if number > state.confirmed:
            store.forget(number)
    return [number for number in numbers if number <= state.confirmed]


def _unsaid(target: Target, observed: Observed) -> tuple[()] | tuple[Announce]:
    """Addresses that were put in ahead of this, of which the neighbours have not been told."""
    there = [a for a in target.desired.addresses if a in observed.addresses and a.announce]
    return (Announce(tuple(sorted(there, key=str))),) if there else ()


def _boot(
    host: Host, store: Store, targets: Targets, state: State, target: Target, observed: Observed
) -> Outcome:
    """First what guests wait for and systemd need not be there for; then the daemons."""
    number = target.revision.info.number
    steps: list[Step] = []

    def perform(plan: Plan, *, daemons: bool) -> None:
        for step in plan.steps:
            if needs_systemd(step) is daemons:
                host.perform(step, number)
                host.fault(f"boot:{name(step)}")
                steps.append(step)

    plan = targets.compare(target, observed)
    perform(Plan((*plan.steps, *_unsaid(target, observed))), daemons=False)
    observed = replace(observed, units=host.unit_states(target.desired.owned_units))
    perform(targets.compare(target, observed), daemons=True)
    targets.remember(target)
    with contextlib.suppress(HostFull):
        keep_ahead(store, target)
    store.note_state(replace(state, current=number, confirmed=number))
    log.info("revision %d restored", number)
    return Committed(number, Plan(tuple(steps)))
