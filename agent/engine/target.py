"""Revisions made ready: composed, staged, checked, rehearsed, and compared with the machine."""

import hashlib
import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from agent.document.boot import BootConfig
from agent.document.document import Document, InvalidDocument
from agent.engine import ahead, firewall
from agent.engine.compose import Composer, Push
from agent.engine.errors import EngineError
from agent.engine.host import CheckFailed, Host, Scope
from agent.engine.model import (
    AddressSet,
    Command,
    Desired,
    Family,
    Observed,
    Plan,
    Problem,
    Rule,
    Table,
    pointer,
)
from agent.engine.plan import diff
from agent.engine.store import Revision, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """What a revision wants of this machine, down to the firewall's canonical text."""

    revision: Revision
    desired: Desired
    files: Mapping[str, str]  # path -> SHA-256
    tables: Mapping[tuple[Family, Table], str]  # canonical
    origin: str = ""  # what the tables became canonical from: a digest of the text and its sets


def keep_ahead(store: Store, target: Target) -> None:
    """Keep the firewall, the network and names for a boot before anything of ours can start.

    Raises HostFull.
    """
    number, desired = target.revision.info.number, target.desired
    network, files = ahead.network(desired), ahead.files(desired)
    store.put_ahead(number, desired.sets.values(), target.tables, target.origin, network, files)


class Targets:
    """Makes targets, and remembers the one that runs and what has been rehearsed."""

    def __init__(self, host: Host, store: Store, boot: BootConfig | None) -> None:
        self._host = host
        self._store = store
        self._boot = boot
        self._composer = Composer()
        self._mutex = threading.RLock()
        self._running: Target | None = None
        # What a table's text, by its digest, becomes.
        self._canonical: dict[tuple[Family, Table], tuple[str, str]] = {}
        self._sets: Mapping[str, AddressSet] = {}
        self._rules: tuple[Rule, ...] = ()  # kept, so that no other rule gets an id of theirs
        self._lines: Mapping[int, str] = {}

    def lint(self, document: Document) -> tuple[Problem, ...]:
        """What else is wrong with a document that is known to be invalid."""
        return self._composer.lint(document, self._host.links(), self._boot)

    def inspections(self, document: Document) -> Mapping[str, tuple[Command, ...]]:
        """What a diagnostics bundle takes of each of the document's services."""
        return self._composer.inspections(document, self._host.links(), self._boot)

    def prepare(self, revision: Revision, phase: str) -> Target:
        """Stage, check and rehearse: nothing that runs is touched.

        `phase` is push, boot or roll-back; only a push's files are checked, for the others have
        run before. Raises InvalidDocument, CheckFailed, HostFull.
        """
        with self._mutex:
            target = self._unstaged(revision, self._push() if phase == "push" else None)
            if phase == "push":
                self._host.require_room()
            self._host.stage(revision.info.number, target.desired)
            self._host.fault(f"{phase}:staged")
            if phase == "push":
                self._check(target)
                self._host.fault(f"{phase}:checked")
            target = self._rehearsed(target)
            self._host.fault(f"{phase}:rehearsed")
            return target

    def at_boot(self, revision: Revision) -> tuple[Target, Observed]:
        """Like `prepare`, with what there is before anything of ours, units aside.

        The confirmed firewall, as text, is in the kernel by then. Where that is what this revision
        would become, it has had its rehearsal: it was read back, and is what was kept. Else it is
        rehearsed.
        """
        with self._mutex:
            target = self._unstaged(revision)
            self._host.stage(revision.info.number, target.desired)
            self._host.fault("boot:staged")
            self._host.wait_until_closed()
            observed = self._host.observe(Scope(frozenset(), frozenset(target.desired.sysctls)))
            texts = self._texts(target.desired)
            origin = _origin(texts, target.desired)
            if (
                observed.sets == target.desired.sets
                and self._store.firewall(origin) == observed.firewall
            ):
                for key, canonical in observed.firewall.items():
                    self._canonical[key] = (_digest(texts[key]), canonical)
                target = replace(target, tables=dict(observed.firewall), origin=origin)
            else:
                target = self._rehearsed(target)
            self._host.fault("boot:rehearsed")
            return target, observed

    def running(self, number: int, making: int | None = None) -> Target:
        """The target of the revision that runs; between its swap and its commit that is `making`.

        Does not wait for a change under way, where this process knows what runs. Raises
        InvalidDocument or CheckFailed where the machine is no longer one that it fits.
        """
        known = self._running
        if known is not None and known.revision.info.number in {number, making}:
            return known
        with self._mutex:
            self._running = self._rehearsed(self._unstaged(self._store.revision(number)))
            return self._running

    def remember(self, target: Target) -> None:
        """This one runs now."""
        self._running = target
        target.revision.document.sections.forget()

    def firewall_alone(self, document: Document) -> Target:
        """A document's firewall, for when nothing else of it can be made to hold."""
        with self._mutex:
            desired = self._composer.compose(document, self._host.links(), self._boot)
            revision = Revision.of(document, 0, 0.0, "boot")
            return self._rehearsed(Target(revision, desired, {}, {}))

    def observe(self, target: Target) -> Observed:
        """The machine, in the words of the target: every NIC, also one that it does not know."""
        desired = target.desired
        return self._host.observe(Scope(desired.owned_units, frozenset(desired.sysctls)))

    def difference(self, target: Target, previous: Desired | None = None) -> Plan:
        """What it takes for the machine to become the target."""
        return self.compare(target, self.observe(target), previous)

    def compare(self, target: Target, observed: Observed, previous: Desired | None = None) -> Plan:
        """What it takes for what was observed to become the target."""
        return diff(target.desired, target.tables, target.files, observed, previous)

    def previous(self, current: int | None) -> Desired | None:
        """What the running revision wants; None where that cannot be told any more."""
        if current is None:
            return None
        try:
            return self.running(current).desired
        except (InvalidDocument, CheckFailed, EngineError) as error:
            log.warning("revision %s cannot be compared with: %s", current, error)
            return None

    def _push(self) -> Push:
        running = self._running
        return Push(time.time(), {} if running is None else running.revision.document.texts)

    def _unstaged(self, revision: Revision, push: Push | None = None) -> Target:
        document = revision.document
        desired = self._composer.compose(document, self._host.links(), self._boot, push)
        if missing := self._host.missing_blobs(desired.blobs):
            raise InvalidDocument(_missing(document, missing))
        files = {
            path: hashlib.sha256(file.content).hexdigest() for path, file in desired.files.items()
        }
        return Target(revision, desired, files, {})

    def _check(self, target: Target) -> None:
        """Run the checkers of those services whose files are not the running ones."""
        current = self._store.state().current
        known = self._running
        running = known.files if known and known.revision.info.number == current else {}
        commands = [
            command
            for command in target.desired.commands
            if any(target.files.get(path) != running.get(path) for path in command.reads)
        ]
        self._host.check(target.revision.info.number, commands)

    def _rehearsed(self, target: Target) -> Target:
        """With the canonical text of every table; only what is not known yet is rehearsed."""
        desired = target.desired
        texts = self._texts(desired)
        new = {
            key: text
            for key, text in texts.items()
            if key not in self._canonical or self._canonical[key][0] != _digest(text)
        }
        if new or desired.sets != self._sets:
            for key, canonical in self._host.rehearse(desired.sets, new).items():
                self._canonical[key] = (_digest(texts[key]), canonical)
            self._sets = desired.sets
        tables = {key: self._canonical[key][1] for key in texts}
        return replace(target, tables=tables, origin=_origin(texts, desired))

    def _texts(self, desired: Desired) -> Mapping[tuple[Family, Table], str]:
        """The text of every table, as we write it; lines of rules that stay are not made anew."""
        lines = {id(r): self._lines.get(id(r)) or firewall.line(r) for r in desired.rules}
        self._rules, self._lines = desired.rules, lines
        return firewall.tables(desired.chains, desired.rules, lines)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _origin(texts: Mapping[tuple[Family, Table], str], desired: Desired) -> str:
    known = hashlib.sha256(firewall.sets_text(desired.sets.values()).encode())
    for family in Family:
        for table in Table:
            known.update(texts[family, table].encode())
    return known.hexdigest()


def _missing(document: Document, blobs: Collection[str]) -> Iterator[Problem]:
    """A problem wherever the document names a blob that is not there."""
    waiting: list[tuple[str, object]] = [("", document.value)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(path + pointer(key), child) for key, child in value.items()]
        elif isinstance(value, str) and value in blobs:
            yield Problem(path, "names a blob that has not been uploaded", f"PUT /v1/blobs/{value}")
