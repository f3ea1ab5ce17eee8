"""The restore at boot: the last confirmed revision, before there is a network."""

import json
import logging
from dataclasses import replace

from agent.document.boot import BootConfig, serialize
from agent.document.document import Document, InvalidDocument, parse_value
from agent.engine import tell
from agent.engine.errors import EngineError, UnreadableState
from agent.engine.host import CheckFailed, Clock, Host
from agent.engine.model import Committed, Degraded, Outcome
from agent.engine.plan import name
from agent.engine.store import Revision, State, Store
from agent.engine.target import Target, Targets
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
    not waited for: this runs before they may. Counters go on from what was kept.
    """
    found = _readable(store, events)
    state = replace(found, making=None, deadline=None)
    store.begin_counters()
    for number in _bootable(store, state):
        try:
            revision = store.revision(number)
            if is_outdated(revision, boot):
                break
            target = targets.prepare(revision, "boot")
        except (InvalidDocument, CheckFailed, EngineError) as error:
            log.error("revision %d cannot be restored: %s", number, error)
            events.record(tell.not_restored(number, str(error)))
            continue
        outcome = _boot(host, store, targets, state, target)
        if found.provisional or found.making is not None:
            events.record(tell.cut_short(number, found))
        return outcome
    if boot is None:
        log.error("there is no boot configuration: staying closed")
        return Degraded("there is no boot configuration and no earlier revision")
    revision = Revision.of(document_of(boot), state.last + 1, clock.now(), "boot")
    target = targets.prepare(revision, "boot")
    store.put_revision(revision)
    state = replace(state, last=revision.info.number)
    return _boot(host, store, targets, state, target)


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
    numbers = [info.number for info in store.revisions()]
    for number in numbers:
        if number > state.confirmed:
            store.forget(number)
    return [number for number in numbers if number <= state.confirmed]


def _boot(host: Host, store: Store, targets: Targets, state: State, target: Target) -> Outcome:
    number = target.revision.info.number
    plan = targets.difference(target)
    for step in plan.steps:
        host.perform(step, number)
        host.fault(f"boot:{name(step)}")
    targets.remember(target)
    store.put_firewall(target.desired.sets.values(), target.tables)
    store.put_state(replace(state, current=number, confirmed=number))
    log.info("revision %d restored", number)
    return Committed(number, plan)
