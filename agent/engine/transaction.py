"""The transaction: a machine becomes what a document says, or stays what it was.

receive → compose → stage → check → rehearse → plan → journal → swap → react → verify → probe →
commit, or roll back. Rolling back is the same code with the revision before; there is no undo
log. One change at a time, over all processes: the lock dies with who holds it.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from agent.document.boot import BootConfig
from agent.document.document import Document, InvalidDocument, merge, parse, parse_value
from agent.document.json import NotJson, loads
from agent.engine import firewall
from agent.engine.compose import Composer
from agent.engine.errors import (
    AwaitingConfirm,
    EngineError,
    GenerationConflict,
    NoSuchRevision,
    NothingApplied,
    NotProvisional,
    PreconditionFailed,
    StaleGeneration,
)
from agent.engine.host import CheckFailed, Clock, Host, HostFull, Scope, StepFailed
from agent.engine.model import (
    Committed,
    Count,
    CounterKey,
    Degraded,
    Desired,
    Family,
    Observed,
    Outcome,
    Plan,
    Probe,
    Problem,
    Provisional,
    PutSet,
    PutTable,
    Refused,
    RolledBack,
    StartUnit,
    Step,
    Table,
    Unchanged,
    pointer,
)
from agent.engine.plan import describe, diff, name, touched_units
from agent.engine.store import Revision, RevisionInfo, State, Store

log = logging.getLogger(__name__)

VERIFY_TRIES = 4
VERIFY_PAUSE = 0.1  # seconds; what has just been changed may take a moment to settle
PROBE_TIMEOUT = 8.0  # seconds


@dataclass(frozen=True, slots=True)
class Target:
    """A revision made ready: staged, checked, rehearsed."""

    revision: Revision
    desired: Desired
    files: Mapping[str, str]  # path -> SHA-256
    tables: Mapping[tuple[Family, Table], str]  # canonical


class _Failed(Exception):
    """The swap did not hold; the cause is for the operator."""

    def __init__(self, cause: str, path: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.path = path


class Engine:
    """Everything that changes this machine by a document goes through here."""

    def __init__(
        self,
        host: Host,
        store: Store,
        clock: Clock,
        lock: Callable[[], AbstractContextManager[None]],
        boot: BootConfig | None = None,
    ) -> None:
        self._host = host
        self._store = store
        self._clock = clock
        self._lock = lock
        self._boot = boot
        self._composer = Composer()
        self._mutex = threading.RLock()  # guards what is remembered below
        self._canonical: dict[tuple[Family, Table], tuple[str, str]] = {}
        self._rehearsed_sets: Mapping[str, object] = {}
        self._targets: dict[int, Target] = {}  # of the revision that runs
        self._last_document: Document | None = None

    # -- asking -----------------------------------------------------------------------------

    @property
    def boot(self) -> BootConfig | None:
        return self._boot

    def state(self) -> State:
        return self._store.state()

    def revisions(self) -> tuple[RevisionInfo, ...]:
        """Those that are kept, newest first."""
        return self._store.revisions()

    def revision(self, number: int) -> Revision:
        """Raises NoSuchRevision."""
        return self._store.revision(number)

    def current(self) -> Revision:
        """The revision that runs. Raises NothingApplied."""
        number = self._store.state().current
        if number is None:
            raise NothingApplied
        return self._store.revision(number)

    def desired(self) -> Desired:
        """What the running revision wants. Raises NothingApplied."""
        return self._current_target().desired

    def observed(self) -> Observed:
        desired = self.desired()
        return self._host.observe(_scope(desired))

    def drift(self) -> Plan:
        """What it would take for the machine to be again what was asked; empty if it is."""
        target = self._current_target()
        observed = self._host.observe(_scope(target.desired))
        return diff(target.desired, target.tables, target.files, observed)

    def counters(self) -> Mapping[CounterKey, Count]:
        """What every rule has counted since it first was."""
        zero = Count(0, 0)
        base = self._store.counters()
        return {key: base.get(key, zero) + now for key, now in self._host.counters().items()}

    def plan(self, data: bytes, *, patch: bool = False, if_match: str | None = None) -> Plan:
        """What a push (or a merge patch) would do; nothing is changed.

        Raises InvalidDocument, and CheckFailed where a daemon's checker refuses it.
        """
        with self._lock(), self._mutex:
            state = self._store.state()
            self._check_match(state, if_match)
            document = self._merged(data) if patch else self._parse(data)
            if not patch:
                _check_generation(state, document)
            target = self._prepare(self._revision(state, document, "plan"), "push")
            return self._diff(target, state)[0]

    # -- changing ---------------------------------------------------------------------------

    def push(
        self, data: bytes, *, if_match: str | None = None, confirm_within: float | None = None
    ) -> Outcome:
        """Make the machine what the document says.

        With `confirm_within` (seconds) it goes back by itself unless confirmed in that time.
        Raises InvalidDocument, EngineError, HostFull: nothing was begun.
        """
        document = self._parse(data)
        with self._lock(), self._mutex:
            state = self._store.state()
            self._check_match(state, if_match)
            _check_generation(state, document)
            self._check_settled(state, document)
            state = replace(state, generation=document.generation, digest=document.digest)
            return self._transact(state, document, "push", confirm_within=confirm_within)

    def patch(
        self, data: bytes, *, if_match: str | None = None, confirm_within: float | None = None
    ) -> Outcome:
        """Push what an RFC 7396 merge patch makes of the document that runs.

        The document's generation stays what it is, unless the patch raises it.
        """
        with self._lock(), self._mutex:
            state = self._store.state()
            self._check_match(state, if_match)
            document = self._merged(data)
            self._check_settled(state, document)
            if document.generation < state.generation:
                raise StaleGeneration(document.generation, state.generation)
            if document.generation > state.generation:
                state = replace(state, generation=document.generation, digest=document.digest)
            return self._transact(state, document, "patch", confirm_within=confirm_within)

    def confirm(self, revision: int) -> Outcome:
        """Keep a provisional revision. Raises NotProvisional."""
        with self._lock(), self._mutex:
            state = self._store.state()
            if not state.provisional or state.current != revision:
                raise NotProvisional(revision)
            self._put_confirmed(replace(state, confirmed=revision, deadline=None))
            self._host.disarm()
            log.info("revision %d confirmed", revision)
            return Committed(revision, Plan(()))

    def roll_back(self, revision: int | None = None, *, if_unconfirmed: bool = False) -> Outcome:
        """Make the machine what an earlier revision says; the one before where none is named.

        With `if_unconfirmed`, `revision` is the one to go back *from*, and nothing happens
        unless it still waits to be confirmed: this is what the timer asks for.
        Raises NoSuchRevision.
        """
        with self._lock(), self._mutex:
            state = self._store.state()
            if if_unconfirmed:
                if not state.provisional or state.current != revision:
                    return Unchanged(state.current or 0)
                log.warning("revision %s was not confirmed in time: rolling back", revision)
                revision = None
            origin = self._origin(state, revision)
            document = self._store.revision(origin).document
            outcome = self._transact(state, document, "rollback", origin=origin)
            if isinstance(outcome, Committed | Unchanged):
                self._host.disarm()
            return outcome

    # -- after a fault ----------------------------------------------------------------------

    def recover(self) -> Outcome | None:
        """Finish what a transaction that died left behind: the agent's first act.

        Returns None where there was nothing to do.
        """
        with self._lock(), self._mutex:
            state = self._store.recover()
            if state.making is None:
                self._rearm(state)
                return None
            log.warning(
                "the agent died while making revision %d: putting back %s",
                state.making, state.current,
            )  # fmt: skip
            return self._put_back(state, "the agent died in the middle of a change", ())

    def restore(self) -> Outcome:
        """Bring the machine up at boot, as the last confirmed revision says.

        Where that one cannot be used an older one is, and after them the boot configuration.
        Daemons are started, not waited for: this runs before they may.
        """
        with self._lock(), self._mutex:
            state = replace(self._store.recover(), making=None)
            self._store.begin_counters()
            for number in self._bootable(state):
                try:
                    target = self._prepare(self._store.revision(number), "boot")
                except (InvalidDocument, CheckFailed, EngineError) as error:
                    log.error("revision %d cannot be restored: %s", number, error)
                    continue
                return self._boot_into(replace(state, deadline=None), target)
            return self._boot_bare(state)

    def _bootable(self, state: State) -> list[int]:
        """Revisions to try at boot: the confirmed one, then older ones; never one on trial."""
        if state.confirmed is None:
            return []
        numbers = [info.number for info in self._store.revisions()]
        for number in numbers:
            if number > state.confirmed:
                self._store.forget(number)
        return [number for number in numbers if number <= state.confirmed]

    def _boot_into(self, state: State, target: Target) -> Outcome:
        number = target.revision.info.number
        plan, _ = self._diff(target, replace(state, current=None))
        for step in plan.steps:
            self._host.perform(step, number)
            self._host.fault(f"boot:{name(step)}")
        self._targets = {number: target}
        self._put_confirmed(replace(state, current=number, confirmed=number))
        log.info("revision %d restored", number)
        return Committed(number, plan)

    def _boot_bare(self, state: State) -> Outcome:
        """The first boot: closed, but for the control NIC that the boot configuration names."""
        if self._boot is None:
            log.error("there is no boot configuration: staying closed")
            return Degraded("there is no boot configuration and no earlier revision")
        document = boot_document(self._boot)
        target = self._prepare(self._revision(state, document, "boot"), "boot")
        self._store.put_revision(target.revision)
        return self._boot_into(replace(state, last=target.revision.info.number), target)

    def _rearm(self, state: State) -> None:
        if state.provisional and state.current is not None:
            left = (state.deadline or 0) - self._clock.now()
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
        self._host.fault("push:received")
        try:
            target = self._prepare(revision, "push")
        except CheckFailed as error:
            return Refused((Problem(error.path, error.reason),))
        plan, previous = self._diff(target, state)
        if not plan and self._runs(state, document):
            self._keep_generation(state)
            return Unchanged(state.current or 0)
        self._begin(revision)
        try:
            warnings = self._swap(target, plan, previous)
            return self._commit(state, target, plan, warnings, confirm_within)
        except (_Failed, StepFailed, HostFull) as error:
            path = getattr(error, "path", "")
            problems = (Problem(path, str(error)),) if path else ()
            return self._put_back(self._store.recover(), str(error), problems)

    def _prepare(self, revision: Revision, phase: str) -> Target:
        """Stage, check and rehearse: nothing that runs is touched.

        What has run before is not checked again. Raises InvalidDocument, CheckFailed, HostFull.
        """
        document, number = revision.document, revision.info.number
        desired = self._composer.compose(document, self._host.links(), self._boot)
        if missing := self._host.missing_blobs(desired.blobs):
            raise InvalidDocument(_missing(document, missing))
        files = {
            path: hashlib.sha256(file.content).hexdigest() for path, file in desired.files.items()
        }
        self._host.stage(number, desired)
        self._host.fault(f"{phase}:staged")
        if phase == "push":
            running = self._running_files()
            commands = [
                command
                for command in desired.commands
                if any(files.get(path) != running.get(path) for path in command.reads)
            ]
            self._host.check(number, commands)
            self._host.fault(f"{phase}:checked")
        tables = self._rehearse(desired)
        self._host.fault(f"{phase}:rehearsed")
        return Target(revision, desired, files, tables)

    def _rehearse(self, desired: Desired) -> Mapping[tuple[Family, Table], str]:
        """The canonical text of every table; only what is not known yet is rehearsed."""
        texts = firewall.tables(desired.chains, desired.rules)
        new = {
            key: text
            for key, text in texts.items()
            if key not in self._canonical or self._canonical[key][0] != text
        }
        sets = desired.sets
        if new or sets != self._rehearsed_sets:
            for key, canonical in self._host.rehearse(sets, new).items():
                self._canonical[key] = (texts[key], canonical)
            self._rehearsed_sets = sets
        return {key: self._canonical[key][1] for key in texts}

    def _diff(self, target: Target, state: State) -> tuple[Plan, Desired | None]:
        previous = None
        if state.current is not None:
            try:
                previous = self._target(state.current).desired
            except (InvalidDocument, CheckFailed, EngineError) as error:
                log.warning("revision %s cannot be compared with: %s", state.current, error)
        observed = self._host.observe(_scope(target.desired))
        return diff(target.desired, target.tables, target.files, observed, previous), previous

    def _swap(self, target: Target, plan: Plan, previous: Desired | None) -> tuple[str, ...]:
        """Do the plan's steps, then read back and ask. Raises StepFailed or _Failed."""
        number = target.revision.info.number
        excused, warnings = self._perform(plan, number, _bystanders(plan, target, previous))
        self._verify(target, excused)
        self._host.fault("push:verified")
        self._probe(target.desired, touched_units(plan) - excused)
        self._host.fault("push:probed")
        return warnings

    def _perform(
        self, plan: Plan, number: int, bystanders: frozenset[str]
    ) -> tuple[frozenset[str], tuple[str, ...]]:
        """Returns units that were broken before and still are, and what to say of them."""
        excused: set[str] = set()
        warnings: list[str] = []
        replaced = {
            (step.family, step.table)
            for step in plan.steps
            if isinstance(step, PutTable) and step.edits is None
        }
        kernel = self._host.counters() if replaced else {}
        for step in plan.steps:
            try:
                self._host.perform(step, number)
            except StepFailed as error:
                if not (isinstance(step, StartUnit) and step.unit.name in bystanders):
                    raise
                excused.add(step.unit.name)
                warnings.append(f"{error}: it was down before, and has nothing to do with this")
            self._host.fault(f"push:{name(step)}")
        self._fold({key: n for key, n in kernel.items() if (key.family, key.table) in replaced})
        return frozenset(excused), tuple(warnings)

    def _verify(self, target: Target, excused: frozenset[str]) -> None:
        """Read the machine again: there must be nothing left to do. Raises _Failed."""
        left = Plan(())
        for attempt in range(VERIFY_TRIES):
            if attempt:
                self._clock.sleep(VERIFY_PAUSE)
            observed = self._host.observe(_scope(target.desired))
            left = diff(target.desired, target.tables, target.files, observed)
            left = Plan(tuple(s for s in left.steps if not _is_start_of(s, excused)))
            if not left:
                return
        raise _Failed("the machine did not become it: " + "; ".join(describe(left)[:5]))

    def _probe(self, desired: Desired, units: frozenset[str]) -> None:
        """Ask the daemons that were touched. Raises _Failed."""
        probes: list[Probe] = [probe for probe in desired.probes if probe.unit in units]
        failed = [r for r in self._host.probe(probes, PROBE_TIMEOUT) if not r.passed]
        if failed:
            raise _Failed("; ".join(f"{r.probe.unit}: {r.detail}" for r in failed[:5]))

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
        self._remember(number, target)
        if confirm_within is not None and state.confirmed is not None:
            self._host.arm(number, confirm_within)
            self._store.put_state(replace(new, deadline=self._clock.now() + confirm_within))
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

    def _put_back(self, state: State, cause: str, problems: tuple[Problem, ...]) -> Outcome:
        """Make what runs the revision of `state` again, whatever the machine is now."""
        self._host.fault("roll-back:begun")
        try:
            target = self._fallback(state)
            number = target.revision.info.number
            plan, _ = self._diff(target, replace(state, current=None))
            for step in plan.steps:
                self._host.perform(step, number)
                self._host.fault(f"roll-back:{name(step)}")
            self._verify(target, frozenset())
            self._probe(target.desired, touched_units(plan))
        except (_Failed, StepFailed, CheckFailed, HostFull, InvalidDocument, EngineError) as error:
            return self._degrade(state, f"{cause}; and putting back failed: {error}")
        self._host.disarm()
        self._remember(number, target)
        if state.making is not None:
            self._store.forget(state.making)
        self._store.put_state(replace(state, making=None))
        self._prune(state)
        log.warning("rolled back to revision %d: %s", number, cause)
        return RolledBack(number, cause, problems)

    def _fallback(self, state: State) -> Target:
        if state.current is not None:
            return self._prepare(self._store.revision(state.current), "roll-back")
        if self._boot is None:
            raise NothingApplied
        revision = self._revision(replace(state, last=-1), boot_document(self._boot), "boot")
        return self._prepare(revision, "roll-back")

    def _degrade(self, state: State, cause: str) -> Outcome:
        """Neither revision holds: keep established flows and management, close the rest."""
        log.critical("degraded: %s", cause)
        try:
            if self._boot is not None:
                document = boot_document(self._boot)
                desired = self._composer.compose(document, self._host.links(), self._boot)
                tables = self._rehearse(desired)
                observed = self._host.observe(_scope(desired))
                plan = diff(desired, tables, {}, observed)
                for step in plan.steps:
                    if isinstance(step, PutSet | PutTable):
                        self._host.perform(step, 0)
            self._store.put_state(replace(state, degraded=cause, making=None))
        except (StepFailed, CheckFailed, HostFull, InvalidDocument) as error:
            log.critical("and cannot be closed: %s", error)
        return Degraded(cause)

    # -- counters ---------------------------------------------------------------------------

    def _fold(self, kernel: Mapping[CounterKey, Count]) -> None:
        """Keep what rules had counted before their table was replaced."""
        if kernel:
            zero = Count(0, 0)
            base = self._store.counters()
            self._store.put_counters(
                {**base, **{key: base.get(key, zero) + n for key, n in kernel.items()}}
            )

    def save_counters(self) -> None:
        """Make the counts so far outlive a reboot; called now and then, and at the end."""
        with self._mutex:
            self._store.put_totals(self.counters())

    # -- small things -----------------------------------------------------------------------

    def _parse(self, data: bytes) -> Document:
        """Raises InvalidDocument, with what is wrong between sections as well as within them."""
        try:
            document = parse(data, self._last_document)
        except InvalidDocument as error:
            if error.rest is None:
                raise
            more = self._composer.lint(error.rest, self._host.links(), self._boot)
            raise InvalidDocument([*error.problems, *more]) from error.__cause__
        self._last_document = document
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

    def _origin(self, state: State, revision: int | None) -> int:
        """The revision to go back to."""
        if revision is not None:
            self._store.revision(revision)
            return revision
        if state.provisional and state.confirmed is not None:
            return state.confirmed
        if state.current is None:
            raise NoSuchRevision(None)
        info = self._store.revision(state.current).info
        before = info.origin if info.cause == "rollback" and info.origin else info.number
        for candidate in self._store.revisions():
            if candidate.number < before and candidate.digest != info.digest:
                return candidate.number
        raise NoSuchRevision(None)

    def _revision(
        self, state: State, document: Document, cause: str, origin: int | None = None
    ) -> Revision:
        info = RevisionInfo(
            number=state.last + 1,
            generation=document.generation,
            digest=document.digest,
            created=self._clock.now(),
            cause=cause,
            origin=origin,
        )
        return Revision(info, document)

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
        assert state.current is not None  # noqa: S101
        target = self._targets.get(state.current)
        if target is not None:
            texts = {
                f"v{int(family)}": "".join(target.tables[family, table] for table in Table)
                for family in Family
            }
            sets = firewall.sets_text(target.desired.sets.values())
            self._store.put_firewall({"sets": sets, **texts})
        self._store.put_state(state)

    def _running_files(self) -> Mapping[str, str]:
        number = self._store.state().current
        target = self._targets.get(number) if number is not None else None
        return target.files if target else {}

    def _current_target(self) -> Target:
        """Without waiting for a change under way, where this process knows what runs."""
        number = self._store.state().current
        if number is None:
            raise NothingApplied
        known = self._targets.get(number)
        if known is not None:
            return known
        with self._mutex:
            return self._target(number)

    def _target(self, number: int) -> Target:
        """What a revision wants; made again where this process has not applied it itself."""
        if number not in self._targets:
            revision = self._store.revision(number)
            desired = self._composer.compose(revision.document, self._host.links(), self._boot)
            files = {p: hashlib.sha256(f.content).hexdigest() for p, f in desired.files.items()}
            self._targets = {number: Target(revision, desired, files, self._rehearse(desired))}
        return self._targets[number]

    def _remember(self, number: int, target: Target) -> None:
        self._targets = {number: target}
        self._last_document = target.revision.document
        self._last_document.sections.forget()

    def _prune(self, state: State) -> None:
        self._store.prune(_wanted(state))

    def tidy(self) -> None:
        """Remove what no revision needs any more; called now and then, for it can wait."""
        with self._lock(), self._mutex:
            state = self._store.state()
            self._prune(state)
            self._host.discard(sorted(_wanted(state)), self._store.blobs_in_use())


def _wanted(state: State) -> frozenset[int]:
    return frozenset(n for n in (state.current, state.confirmed) if n is not None)


def boot_document(boot: BootConfig) -> Document:
    """The document that a VM has before the first push: its control NIC, and nothing open."""
    nics = {mac: nic.model_dump(mode="json", exclude_none=True) for mac, nic in boot.nics.items()}
    return parse_value(
        {
            "schema": 1,
            "generation": 0,
            "role": str(boot.role),
            "site": {"hostname": boot.hostname, "nics": nics},
        }
    )


def _missing(document: Document, blobs: Collection[str]) -> Iterator[Problem]:
    """A problem wherever the document names a blob that is not there."""
    waiting: list[tuple[str, object]] = [("", document.value)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(path + pointer(key), child) for key, child in value.items()]
        elif isinstance(value, str) and value in blobs:
            yield Problem(path, "names a blob that has not been uploaded", f"PUT /v1/blobs/{value}")


def _check_generation(state: State, document: Document) -> None:
    if document.generation < state.generation:
        raise StaleGeneration(document.generation, state.generation)
    if document.generation == state.generation and document.digest != state.digest:
        raise GenerationConflict(document.generation, document.digest, state.digest)


def _scope(desired: Desired) -> Scope:
    """What to look at: every NIC, also one that only a revision that failed knew of."""
    return Scope(desired.owned_units, frozenset(desired.sysctls))


def _bystanders(plan: Plan, target: Target, previous: Desired | None) -> frozenset[str]:
    """Units that the plan starts only because they were down, with the files that they had."""
    if previous is None:
        return frozenset()
    changed = {
        path
        for path in previous.files.keys() | target.desired.files.keys()
        if previous.files.get(path) != target.desired.files.get(path)
    }
    concerned = {
        desired.files[path].unit
        for desired in (previous, target.desired)
        for path in changed
        if path in desired.files
    }
    return frozenset(
        step.unit.name
        for step in plan.steps
        if isinstance(step, StartUnit)
        and step.unit.name in previous.units
        and step.unit.name not in concerned
    )


def _is_start_of(step: Step, units: frozenset[str]) -> bool:
    return isinstance(step, StartUnit) and step.unit.name in units
