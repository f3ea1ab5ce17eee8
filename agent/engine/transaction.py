"""The transaction: a machine becomes what a document says, or stays what it was.

receive → compose → stage → check → rehearse → plan → journal → swap → react → verify → probe →
commit, or roll back. Rolling back is the same code with the revision before; there is no undo
log. One change at a time, over all processes: the lock dies with who holds it.
"""

import contextlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

from agent.document.boot import BootConfig
from agent.document.document import Document, InvalidDocument, merge, parse, parse_value
from agent.document.json import NotJson, loads
from agent.engine import tell
from agent.engine.errors import (
    AwaitingConfirm,
    EngineError,
    GenerationConflict,
    NothingApplied,
    NotProvisional,
    PreconditionFailed,
    StaleGeneration,
    UnreadableState,
)
from agent.engine.host import CheckFailed, Clock, Host, HostFull, StepFailed
from agent.engine.model import (
    Committed,
    Degraded,
    Outcome,
    Plan,
    Problem,
    Provisional,
    PutSet,
    PutTable,
    Refused,
    ReloadUnit,
    RolledBack,
    Unchanged,
)
from agent.engine.plan import touched_units
from agent.engine.restore import document_of, restore
from agent.engine.running import Running
from agent.engine.store import Revision, State, Store
from agent.engine.swap import DidNotHold, Swap, bystanders
from agent.engine.target import Target, Targets, keep_ahead
from agent.monitor.events import NOWHERE, Recorder

log = logging.getLogger(__name__)


class Engine(Running):
    """Everything that changes this machine by a document goes through here."""

    def __init__(
        self,
        host: Host,
        store: Store,
        clock: Clock,
        lock: Callable[[], AbstractContextManager[None]],
        boot: BootConfig | None = None,
        events: Recorder = NOWHERE,
    ) -> None:
        super().__init__(host, store, Targets(host, store, boot))
        self._clock = clock
        self._lock = lock
        self._boot = boot
        self._events = events
        self._swap = Swap(host, store, self._targets, clock)
        self._last: Document | None = None  # whose valid text need not be validated again

    # -- asking -----------------------------------------------------------------------------

    def plan(self, data: bytes, *, patch: bool = False, if_match: str | None = None) -> Plan:
        """What a push (or a merge patch) would do; nothing is changed.

        Raises InvalidDocument, and CheckFailed where a daemon's checker refuses it.
        """
        with self._lock():
            state = self._store.state()
            self._check_match(state, if_match)
            document = self._merged(data) if patch else self._parse(data)
            if not patch:
                _check_generation(state, document)
            target = self._targets.prepare(self._revision(state, document, "plan"), "push")
            return self._targets.difference(target, self._targets.previous(state.current))

    # -- changing ---------------------------------------------------------------------------

    def push(
        self, data: bytes, *, if_match: str | None = None, confirm_within: float | None = None
    ) -> Outcome:
        """Make the machine what the document says.

        With `confirm_within` (seconds) it goes back by itself unless confirmed in that time.
        Raises InvalidDocument, EngineError, HostFull: nothing was begun.
        """
        document = self._parse(data)
        with self._lock():
            state = self._store.state()
            self._check_match(state, if_match)
            _check_generation(state, document)
            self._check_settled(state, document)
            state = replace(state, generation=document.generation, digest=document.digest)
            return self._told(
                self._transact(state, document, "push", confirm_within=confirm_within)
            )

    def patch(
        self, data: bytes, *, if_match: str | None = None, confirm_within: float | None = None
    ) -> Outcome:
        """Push what an RFC 7396 merge patch makes of the document that runs.

        The document's generation stays what it is, unless the patch raises it.
        """
        with self._lock():
            state = self._store.state()
            self._check_match(state, if_match)
            document = self._merged(data)
            self._check_settled(state, document)
            kept = document.generation == self.current().document.generation
            if document.generation < state.generation and not kept:
                raise StaleGeneration(document.generation, state.generation)
            if document.generation > state.generation:
                state = replace(state, generation=document.generation, digest=document.digest)
            return self._told(
                self._transact(state, document, "patch", confirm_within=confirm_within)
            )

    def confirm(self, revision: int) -> Outcome:
        """Keep a provisional revision. Raises NotProvisional."""
        with self._lock():
            state = self._store.state()
            if not state.provisional or state.current != revision:
                raise NotProvisional(revision)
            self._put_confirmed(replace(state, confirmed=revision, deadline=None))
            self._host.disarm()
            log.info("revision %d confirmed", revision)
            self._events.record(tell.confirmed(self._store.revision(revision)))
            return Committed(revision, Plan(()))

    def roll_back(self, revision: int | None = None, *, if_unconfirmed: bool = False) -> Outcome:
        """Make the machine what an earlier revision says; the one before where none is named.

        With `if_unconfirmed`, `revision` is the one to go back *from*, and nothing happens
        unless it still waits to be confirmed: this is what the timer asks for. Where the disk takes
        no new revision, it is then the confirmed one that runs again. Raises NoSuchRevision.
        """
        why = tell.ASKED
        with self._lock():
            state = self._store.state()
            if if_unconfirmed:
                if not state.provisional or state.current != revision:
                    return Unchanged(state.current or 0)
                log.warning("revision %s was not confirmed in time: rolling back", revision)
                why, revision = tell.NOT_CONFIRMED, None
            origin = self._store.before(state) if revision is None else revision
            document = self._store.revision(origin).document
            try:
                outcome = self._transact(state, document, "rollback", origin=origin)
            except HostFull as error:
                if not if_unconfirmed:
                    raise
                log.warning("no revision can be made of it: %s", error)
                state = replace(state, current=state.confirmed, deadline=None)
                self._fallback(state)  # with no room for its files either, nothing is touched
                outcome = self._put_back(state, why)
            if isinstance(outcome, Committed | Unchanged):
                self._host.disarm()
            return self._told(outcome, why)

    # -- after a fault ----------------------------------------------------------------------

    def put_files_back(self) -> None:
        """Write the running revision's files anew, whatever a hand has made of them.

        Nothing is reloaded. Raises NothingApplied, HostFull, StepFailed, CheckFailed.
        """
        with self._lock():
            state = self._store.state()
            if state.current is None:
                raise NothingApplied
            self._targets.prepare(self._store.revision(state.current), "roll-back")

    def read_files(self, unit: str) -> None:
        """As `put_files_back`, then have a unit that the revision wants read them.

        Raises the same.
        """
        with self._lock():
            state = self._store.state()
            if state.current is None:
                raise NothingApplied
            target = self._targets.prepare(self._store.revision(state.current), "roll-back")
            if unit in target.desired.units:
                self._host.perform(ReloadUnit(target.desired.units[unit]), state.current)

    def recover(self) -> Outcome | None:
        """Finish what a transaction that died left behind: the agent's first act.

        Returns None where there was nothing to do.
        """
        with self._lock():
            state = self._readable_state()
            if state.making is None:
                self._rearm(state)
                return None
            log.warning(
                "the agent died while making revision %d: putting back %s",
                state.making, state.current,
            )  # fmt: skip
            return self._told(self._put_back(state, "the agent died in the middle of a change", ()))

    def restore(self) -> Outcome:
        """Bring the machine up at boot, as the last confirmed revision says."""
        with self._lock():
            parts = self._host, self._store, self._targets, self._clock, self._boot
            outcome = restore(*parts, self._events)
            return self._told(outcome) if isinstance(outcome, Degraded) else outcome

    def adopt(self) -> Outcome:
        """Go by a boot configuration that came when the machine was up already.

        What was pushed stays, with what the new configuration changes below it. A revision on
        trial is left alone: what it is confirmed or rolled back to will go by the new one.
        """
        with self._lock():
            state = self._readable_state()
            if state.provisional or self._boot is None:
                return Unchanged(state.current or 0)
            if state.current is not None:
                current = self._store.revision(state.current)
                if current.info.cause != "boot":
                    return self._told(self._transact(state, current.document, "adopt"))
            return self._told(self._transact(state, document_of(self._boot), "boot"))

    def _readable_state(self) -> State:
        """The state; where it cannot be read, what stands in for it is stored from now on."""
        try:
            return self._store.state()
        except UnreadableState as error:
            state = self._store.recover()
            log.critical("%s; revision %s stands in for it", error, state.current)
            self._store.put_state(state)
            self._events.record(tell.unreadable(str(error), state.current))
            return state

    def _told(self, outcome: Outcome, back: str = "") -> Outcome:
        """Say outside how a transaction ended; a roll back says why there was one."""
        with contextlib.suppress(EngineError):
            current = self._store.recover().current
            running = self._store.revision(current) if current is not None else None
            if (event := tell.ended(outcome, running, back)) is not None:
                self._events.record(event)
        return outcome

    def _rearm(self, state: State) -> None:
        if state.provisional and state.current is not None:
            left = (state.deadline or 0) - self._clock.monotonic()
            self._host.arm(state.current, max(left, 1.0))

    # -- the transaction --------------------------------------------------------------------

    def _transact(
        self,
        state: State,
        document: Document,
        cause: str,
        *,
        confirm_within: float | None = None,
        origin: int | None = None,
    ) -> Outcome:
        revision = self._revision(state, document, cause, origin)
        self._host.look_ahead()
        self._host.fault("push:received")
        try:
            target = self._targets.prepare(revision, "push")
        except CheckFailed as error:
            return Refused((Problem(error.path, error.reason),))
        previous = self._targets.previous(state.current)
        plan = self._targets.difference(target, previous)
        if not plan and self._runs(state, document):
            self._keep_generation(state)
            return Unchanged(state.current or 0)
        spared = bystanders(plan, target, previous)
        self._begin(revision)
        try:
            warnings = self._swap.do(target, plan, spared)
            return self._commit(state, target, plan, warnings, confirm_within)
        except (DidNotHold, StepFailed, HostFull) as error:
            path = getattr(error, "path", "")
            problems = (Problem(path, str(error)),) if path else ()
            return self._put_back(self._store.recover(), str(error), problems, spared)

    def _commit(
        self,
        state: State,
        target: Target,
        plan: Plan,
        warnings: tuple[str, ...],
        confirm_within: float | None,
    ) -> Outcome:
        number = target.revision.info.number
        new = replace(state, current=number, last=number, degraded="", making=None)
        self._remember(target)
        if confirm_within is not None and state.confirmed is not None:
            self._host.arm(number, confirm_within)
            deadline = self._clock.monotonic() + confirm_within
            self._store.put_state(replace(new, deadline=deadline))
        else:
            self._put_confirmed(replace(new, confirmed=number, deadline=None))
        self._host.fault("push:committed")
        self._prune(new)
        log.info(
            "revision %d (generation %d) runs, by %s: %d steps",
            number, new.generation, target.revision.info.cause, len(plan.steps),
        )  # fmt: skip
        if confirm_within is not None and state.confirmed is not None:
            return Provisional(number, confirm_within, plan, warnings)
        return Committed(number, plan, warnings)

    def _put_back(
        self,
        state: State,
        cause: str,
        problems: tuple[Problem, ...] = (),
        spared: frozenset[str] = frozenset(),
    ) -> Outcome:
        """Make what runs the revision of `state` again, whatever the machine is now.

        Where the kernel's half of it does not hold, the VM is closed. A daemon that does not run
        again is no reason for that: the rest serves on.
        """
        self._host.fault("roll-back:begun")
        try:
            target = self._fallback(state)
            plan = self._targets.difference(target)
            units = frozenset(target.desired.units)
            down, warnings = self._swap.perform(plan, target, units, "roll-back")
            self._swap.verify(target, down)
        except (
            DidNotHold,
            StepFailed,
            CheckFailed,
            HostFull,
            InvalidDocument,
            EngineError,
        ) as error:
            return self._close(state, f"{cause}; and putting back failed: {error}")
        try:
            self._swap.probe(target.desired, touched_units(plan) - down)
        except DidNotHold as error:
            down, warnings = down | touched_units(plan), (*warnings, error.cause)
        self._host.disarm()
        self._remember(target)
        if state.making is not None:
            self._store.forget(state.making)
        broken = "" if down <= spared else f"{cause}; and put back: {'; '.join(warnings)}"
        if state.current == state.confirmed is not None:
            with contextlib.suppress(HostFull):
                keep_ahead(self._store, target)  # the commit may have got as far as that
        self._store.note_state(replace(state, making=None, degraded=broken))
        self._prune(state)
        number = target.revision.info.number
        log.warning("rolled back to revision %d: %s", number, broken or cause)
        return Degraded(broken) if broken else RolledBack(number, cause, problems)

    def _fallback(self, state: State) -> Target:
        if state.current is not None:
            return self._targets.prepare(self._store.revision(state.current), "roll-back")
        if self._boot is None:
            raise NothingApplied
        revision = Revision.of(document_of(self._boot), 0, self._clock.now(), "boot")
        return self._targets.prepare(revision, "roll-back")

    def _close(self, state: State, cause: str) -> Outcome:
        """Neither revision holds: keep established flows and management, close the rest."""
        log.critical("degraded: %s", cause)
        try:
            if self._boot is not None:
                target = self._targets.firewall_alone(document_of(self._boot))
                for step in self._targets.difference(target).steps:
                    if isinstance(step, PutSet | PutTable):
                        self._host.perform(step, 0)
            self._store.note_state(replace(state, degraded=cause, making=None))
        except (StepFailed, CheckFailed, HostFull, InvalidDocument) as error:
            log.critical("and cannot be closed: %s", error)
        return Degraded(cause)

    # -- counters ---------------------------------------------------------------------------

    def save_counters(self) -> None:
        """Make the counts so far outlive a reboot; called now and then, and at the end."""
        self._store.put_totals(self.counters())

    # -- small things -----------------------------------------------------------------------

    def _parse(self, data: bytes) -> Document:
        """Raises InvalidDocument, with what is wrong between sections as well as within them."""
        try:
            document = parse(data, self._last)
        except InvalidDocument as error:
            if error.rest is None:
                raise
            more = self._targets.lint(error.rest)
            raise InvalidDocument([*error.problems, *more]) from error.__cause__
        self._last = document
        return document

    def _merged(self, data: bytes) -> Document:
        try:
            change = loads(data)
        except NotJson as error:
            raise InvalidDocument([error.problem]) from error
        current = self.current().document
        return parse_value(merge(current.value, change), current)

    def _check_match(self, state: State, if_match: str | None) -> None:
        if if_match is None:
            return
        digest = self.current().document.digest if state.current is not None else ""
        if if_match not in {"*", digest} or not digest:
            raise PreconditionFailed(if_match, digest)

    def _check_settled(self, state: State, document: Document) -> None:
        if state.provisional and state.current is not None and not self._runs(state, document):
            raise AwaitingConfirm(state.current)

    def _runs(self, state: State, document: Document) -> bool:
        return (
            state.current is not None
            and self._store.revision(state.current).document.digest == document.digest
        )

    def _keep_generation(self, state: State) -> None:
        if state != self._store.state():
            self._store.put_state(state)

    def _revision(
        self, state: State, document: Document, cause: str, origin: int | None = None
    ) -> Revision:
        return Revision.of(document, state.last + 1, self._clock.now(), cause, origin)

    def _begin(self, revision: Revision) -> None:
        """From here on, a death is a roll back. Raises HostFull, with nothing begun."""
        try:
            self._store.put_revision(revision)
            self._store.put_state(replace(self._store.state(), making=revision.info.number))
        except HostFull:
            self._store.forget(revision.info.number)
            raise
        self._host.fault("push:journaled")

    def _put_confirmed(self, state: State) -> None:
        """Commit, and keep the firewall for a boot in which nothing of ours can start."""
        if state.current is not None:
            keep_ahead(self._store, self._targets.running(state.current))
            self._host.fault("push:kept")
        self._store.put_state(state)

    def _remember(self, target: Target) -> None:
        self._targets.remember(target)
        self._last = target.revision.document

    def _prune(self, state: State) -> None:
        self._store.prune(_wanted(state))

    def tidy(self) -> None:
        """Remove what no revision needs any more; called now and then, for it can wait."""
        with self._lock():
            state = self._store.state()
            self._prune(state)
            self._host.discard(sorted(_wanted(state)), self._store.blobs_in_use())


def _wanted(state: State) -> frozenset[int]:
    return frozenset(n for n in (state.current, state.confirmed) if n is not None)


def _check_generation(state: State, document: Document) -> None:
    if document.generation < state.generation:
        raise StaleGeneration(document.generation, state.generation)
    if document.generation == state.generation and document.digest != state.digest:
        raise GenerationConflict(document.generation, document.digest, state.digest)
