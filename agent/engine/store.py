"""What outlives a reboot: documents of the last revisions, which one runs, and the journal.

    state.json              which revision runs, which is confirmed, the greatest generation seen,
                            and the journal: the revision that is being made, if one is
    revisions/N.json        the document and how it came about
    counters.json           what the kernel counted before its counters last began again
    firewall/{sets,v4,v6}   the confirmed firewall, as text, which closes the VM at boot
    firewall/origin         a digest of what that text was rendered from
    firewall/network        the network that belongs to it (engine/ahead.py)
    firewall/files/         files of daemons that start with it
    firewall/sums           the revision's number and digests of these, for sha256sum: no network is
                            put in by files of two minds, or of a revision that is not confirmed

Every file is replaced whole and durably. What cannot be read is an error, never an empty state;
the newest whole revision stands in for it (`recover`). Where the disk takes no more, what has been
gone back to is noted elsewhere (`note_state`); a boot does not need the note, for it goes back to
the confirmed revision in any case.
"""

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from agent.document.document import Document, InvalidDocument, canonical, parse_value
from agent.engine.errors import NoSuchRevision, UnreadableState
from agent.engine.firewall import sets_text
from agent.engine.host import HostFull
from agent.engine.model import AddressSet, Count, CounterKey, Family, Table

log = logging.getLogger(__name__)

KEPT = 10  # revisions

_BLOB = re.compile(rb'"([0-9a-f]{64})"')


class Disk(Protocol):
    """How the store writes: whole files, durable when the call returns."""

    def write(self, path: Path, content: bytes, mode: int = 0o600, *, durable: bool = True) -> None:
        """Replace a file: temporary file, fsync, rename, fsync of the folder. Raises HostFull.

        Without `durable` the fsyncs are left out: a power cut may take the last change back.
        """

    def remove(self, path: Path) -> None:
        """Remove a file; nothing happens where there is none."""


@dataclass(frozen=True, slots=True)
class RevisionInfo:
    """A revision without its document."""

    number: int
    generation: int
    digest: str
    created: float  # seconds since the epoch
    cause: str  # push, patch, rollback, boot, adopt
    origin: int | None = None  # the revision that a rollback went back to


@dataclass(frozen=True, slots=True)
class Revision:
    """A document as the VM numbers it."""

    info: RevisionInfo
    document: Document

    @classmethod
    def of(
        cls, document: Document, number: int, now: float, cause: str, origin: int | None = None
    ) -> "Revision":
        generation, digest = document.generation, document.digest
        return cls(RevisionInfo(number, generation, digest, now, cause, origin), document)


@dataclass(frozen=True, slots=True)
class State:
    """Which revision runs. `current` differs from `confirmed` while one is provisional.

    `making` is the journal: a transaction for that revision has been begun and not ended.
    """

    current: int | None = None
    confirmed: int | None = None
    deadline: float | None = None  # of a provisional revision, by the monotonic clock of this boot
    generation: int = -1  # the greatest that was ever applied
    digest: str = ""  # of the document with that generation
    last: int = 0  # the last revision's number, used or not
    degraded: str = ""  # why, where neither revision could be made to hold
    making: int | None = None

    @property
    def provisional(self) -> bool:
        return self.current is not None and self.current != self.confirmed


class Store:
    """The folder `/var/lib/sysvm`; one process at a time writes, under the engine's lock.

    `settled` is called whenever a state is stored that no transaction is under way in. `note` is a
    file that a boot forgets, on another file system.
    """

    def __init__(
        self,
        folder: Path,
        disk: Disk,
        settled: Callable[["Store"], None] | None = None,
        note: Path | None = None,
    ) -> None:
        self._folder = folder
        self._disk = disk
        self._note_file = note
        self._settled = settled
        self._latest: Mapping[int, Revision] = {}  # two: what runs, and what is being made
        self._infos: dict[int, RevisionInfo] = {}
        self._blobs: dict[int, frozenset[str]] = {}
        self._firewall: dict[str, str] = {}

    # -- state ------------------------------------------------------------------------------

    def state(self) -> State:
        """Raises UnreadableState."""
        value = self._noted() or self._read(self._folder / "state.json")
        if value is None:
            return State()
        try:
            return State(**value)
        except TypeError as error:
            raise UnreadableState(str(self._folder / "state.json"), str(error)) from error

    def put_state(self, state: State) -> None:
        """With `making`, the point at which a transaction is begun; without, committed."""
        self._write("state.json", asdict(state))
        if self._note_file is not None and self._note_file.exists():
            self._disk.remove(self._note_file)
        if self._settled is not None and state.making is None:
            self._settled(self)

    def note_state(self, state: State) -> None:
        """`put_state` of what the machine is already, whatever the disk takes.

        The note is good for as long as the state on the disk is the one that it stands for. Raises
        HostFull where there is no room for it either.
        """
        try:
            self.put_state(state)
        except HostFull as error:
            if self._note_file is None:
                raise
            log.warning("the state is kept until the next boot alone: %s", error)
            value = {"instead_of": self._state_digest(), "state": asdict(state)}
            self._disk.write(self._note_file, canonical(value), durable=False)
            if self._settled is not None:
                self._settled(self)

    def _noted(self) -> dict[str, Any] | None:
        """The state that was noted, if it stands for the one that is on the disk."""
        if self._note_file is None or not self._note_file.exists():
            return None
        try:
            value = self._read(self._note_file) or {}
        except UnreadableState:
            return None
        if value.get("instead_of") != self._state_digest():
            return None
        state: dict[str, Any] = value["state"]
        return state

    def _state_digest(self) -> str:
        try:
            return hashlib.sha256((self._folder / "state.json").read_bytes()).hexdigest()
        except OSError:
            return ""

    def recover(self) -> State:
        """The state, or the newest whole revision's where state.json cannot be read."""
        try:
            return self.state()
        except UnreadableState:
            for number in reversed(self._numbers()):
                try:
                    found = self.revision(number)
                except (UnreadableState, NoSuchRevision):
                    continue
                info = found.info
                return State(
                    current=number,
                    confirmed=number,
                    generation=info.generation,
                    digest=info.digest,
                    last=max(self._numbers()),
                )
            raise

    # -- revisions --------------------------------------------------------------------------

    def put_revision(self, revision: Revision) -> None:
        number = revision.info.number
        about = canonical(asdict(revision.info))
        text = [about[:-1], b',"document":', revision.document.canonical, b"}"]
        self._disk.write(self._path(number), b"".join(text))
        self._know(revision)

    def revision(self, number: int) -> Revision:
        """Raises NoSuchRevision, UnreadableState."""
        if (known := self._latest.get(number)) is not None:
            return known
        revision = self._load(number)
        self._know(revision)
        return revision

    def _load(self, number: int) -> Revision:
        """From the disk."""
        path = self._path(number)
        value = self._read(path)
        if value is None:
            raise NoSuchRevision(number)
        try:
            document = parse_value(value.pop("document"))
            info = RevisionInfo(**value)
        except (KeyError, TypeError, AttributeError, InvalidDocument) as error:
            raise UnreadableState(str(path), str(error)) from error
        if info.digest != document.digest:
            raise UnreadableState(str(path), "the document is not the one that was stored")
        return Revision(replace(info, number=number), document)

    def _know(self, revision: Revision) -> None:
        """Remember the two latest revisions whole, and of the others only what they are called.

        While one is made, others ask for the one that runs: to read it again takes a whole push.
        """
        number = revision.info.number
        others = [one for one in self._latest.items() if one[0] != number]
        for _, other in others:
            other.document.sections.forget()
        self._latest = dict([*others[-1:], (number, revision)])
        self._note(revision)

    def _note(self, revision: Revision) -> RevisionInfo:
        """Remember what a revision is called, and first what it needs, for whoever lists them."""
        info = revision.info
        self._blobs[info.number] = _blobs(revision)
        self._infos[info.number] = info
        return info

    def revisions(self) -> tuple[RevisionInfo, ...]:
        """Those that are kept and can be read, newest first; another thread may remove some."""
        found = []
        for number in self.numbers():
            try:
                found.append(self._infos.get(number) or self._note(self._load(number)))
            except (UnreadableState, NoSuchRevision):
                continue
        return tuple(found)

    def before(self, state: State) -> int:
        """The revision to go back to: the confirmed one, or the last that said something else.

        Raises NoSuchRevision.
        """
        if state.provisional and state.confirmed is not None:
            return state.confirmed
        if state.current is None:
            raise NoSuchRevision(None)
        info = self.revision(state.current).info
        before = info.origin if info.cause == "rollback" and info.origin else info.number
        for candidate in self.revisions():
            if candidate.number < before and candidate.digest != info.digest:
                return candidate.number
        raise NoSuchRevision(None)

    def prune(self, keep: frozenset[int]) -> tuple[int, ...]:
        """Remove all but the last `KEPT` revisions and those to keep; returns what is left."""
        numbers = self._numbers()
        left = set(numbers[-KEPT:]) | (keep & set(numbers))
        for number in set(numbers) - left:
            self.forget(number)
        return tuple(sorted(left))

    def forget(self, number: int) -> None:
        """Remove a revision; a disk that is read-only keeps it, for it can wait."""
        with contextlib.suppress(HostFull):
            self._disk.remove(self._path(number))
        self._infos.pop(number, None)
        self._blobs.pop(number, None)
        self._latest = {n: one for n, one in self._latest.items() if n != number}

    def blobs_in_use(self) -> frozenset[str]:
        """Blobs that a kept revision names, for their removal to spare."""
        numbers = [info.number for info in self.revisions()]
        return frozenset().union(*(self._blobs.get(number, frozenset()) for number in numbers))

    def _path(self, number: int) -> Path:
        return self._folder / "revisions" / f"{number}.json"

    def numbers(self) -> list[int]:
        """Those that are kept, whether they can be read or not, newest first."""
        return self._numbers()[::-1]

    def _numbers(self) -> list[int]:
        folder = self._folder / "revisions"
        if not folder.is_dir():
            return []
        return sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal())

    # -- counters and the firewall's last good text -------------------------------------------

    def counters(self) -> Mapping[CounterKey, Count]:
        """What was counted before the kernel last began again."""
        return self._counts("counters.json")

    def put_counters(self, counters: Mapping[CounterKey, Count]) -> None:
        self._put_counts("counters.json", counters)

    def put_totals(self, counters: Mapping[CounterKey, Count]) -> None:
        """Keep all that was counted so far, for the next boot to go on from."""
        self._put_counts("totals.json", counters)

    def begin_counters(self) -> None:
        """At boot: the kernel counts from zero, on top of the totals that were kept."""
        base, totals = self.counters(), self._counts("totals.json")
        zero = Count(0, 0)
        higher = {
            key: max(base.get(key, zero), totals.get(key, zero), key=lambda c: c.packets)
            for key in base.keys() | totals.keys()
        }
        self.put_counters(higher)

    def _counts(self, name: str) -> dict[CounterKey, Count]:
        """Nothing where it cannot be read, for it is only a count."""
        try:
            value = self._read(self._folder / name) or {}
        except UnreadableState:
            return {}
        found = {}
        for key, (packets, size) in value.items():
            family, table, chain, comment = key.split(" ", 3)
            found[CounterKey(Family(int(family)), Table(table), chain, comment)] = Count(
                packets, size
            )
        return found

    def _put_counts(self, name: str, counters: Mapping[CounterKey, Count]) -> None:
        value = {
            f"{int(k.family)} {k.table} {k.chain} {k.comment}": [c.packets, c.bytes]
            for k, c in counters.items()
        }
        self._disk.write(self._folder / name, canonical(value), durable=False)

    def put_ahead(
        self,
        revision: int,
        sets: Iterable[AddressSet],
        tables: Mapping[tuple[Family, Table], str],
        origin: str,
        network: str = "",
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Keep what closes the VM at the next boot, before anything of ours can start.

        `origin` is a digest of what the tables were rendered to before they became canonical. What
        has not changed is not written. The sums, without which nothing else is put in, are kept
        before the state says that `revision` is confirmed, and are good for nothing until it does:
        wherever the power goes, files and state are of one revision or wait for the restore. So
        neither the sums need be durable themselves, nor files, which close nothing.
        """
        folder = self._folder / "firewall"
        loose = {f"files/{path}": content for path, content in (files or {}).items()}
        parts = {"sets": sets_text(sets).encode(), "network": network.encode()} | loose
        for family in Family:
            text = "".join(tables[family, table] for table in Table)
            parts[f"v{int(family)}"] = text.encode()
        sums = [f"# revision {revision}\n"]
        sums += [
            f"{hashlib.sha256(content).hexdigest()}  {folder / name}\n"
            for name, content in parts.items()
        ]
        parts["origin"] = origin.encode()
        parts["sums"] = loose["sums"] = "".join(sums).encode()
        for name, content in parts.items():
            digest = hashlib.sha256(content).hexdigest()
            if self._firewall.get(name) != digest:
                if self._kept(name) != content:
                    self._disk.write(folder / name, content, durable=name not in loose)
                self._firewall[name] = digest
        for path in (folder / "files").rglob("*"):
            name = str(path.relative_to(folder))
            if name not in parts and not path.is_dir():
                self._disk.remove(path)
                self._firewall.pop(name, None)

    def firewall(self, origin: str) -> Mapping[tuple[Family, Table], str] | None:
        """The kept firewall in canonical text; None if it came from something else, or is gone."""
        if not origin or self._kept("origin") != origin.encode():
            return None
        found: dict[tuple[Family, Table], str] = {}
        for family in Family:
            text = (self._kept(f"v{int(family)}") or b"").decode(errors="replace")
            for part in re.split(r"^(?=\*)", text, flags=re.MULTILINE):
                name = part[1:].partition("\n")[0]
                if name in set(Table):
                    found[family, Table(name)] = part
        return found

    def _kept(self, name: str) -> bytes | None:
        try:
            return (self._folder / "firewall" / name).read_bytes()
        except OSError:
            return None

    # -- files ------------------------------------------------------------------------------

    def _write(self, name: str, value: object) -> None:
        self._disk.write(self._folder / name, canonical(value))

    def _read(self, path: Path) -> Any:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnreadableState(str(path), error.strerror or str(error)) from error
        try:
            value = json.loads(data)
        except ValueError as error:
            raise UnreadableState(str(path), f"is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise UnreadableState(str(path), "is not an object")
        return value


def _blobs(revision: Revision) -> frozenset[str]:
    """Every string of a document that looks like a blob's name: sparing too much is safe."""
    texts = revision.document.texts.values()
    return frozenset(name.decode() for text in texts for name in _BLOB.findall(text))
