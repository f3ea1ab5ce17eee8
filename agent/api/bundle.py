"""The bundle over the endpoint: everything that there is to say of this VM, without its secrets."""

import gc
import json
import logging
import re
from collections.abc import Callable, Iterator

from agent import __version__
from agent.api.answers import timestamp
from agent.api.diagnostics import PURPOSE
from agent.api.ports import Engine, Machine, MachineFailed
from agent.api.shape import to_json
from agent.api.streams import GZIP, Stream, Streams
from agent.diagnostics import bundle
from agent.diagnostics.bundle import Archive
from agent.diagnostics.scrub import Scrubber, secrets_of
from agent.document.secrets import redacted
from agent.engine.errors import EngineError
from agent.engine.model import Command

log = logging.getLogger(__name__)

Ask = Callable[[str], tuple[int, object]]
"""What the endpoint answers at a path: a status, and bytes or a value."""

_REVISIONS = 5  # whose documents are in it


class Bundle:
    """One bundle. `paths` are those of the endpoint that are in it."""

    def __init__(
        self,
        engine: Engine,
        machine: Machine,
        ask: Ask,
        *,
        paths: tuple[str, ...],
        units: tuple[str, ...],
        now: float,
    ) -> None:
        self._engine = engine
        self._machine = machine
        self._ask = ask
        self._paths = paths
        self._units = units
        self._now = now
        self.name = f"sysvm-{machine.facts().hostname}-{int(now)}"

    def parts(self) -> Iterator[bytes]:
        """The archive as it is made; b"" while a command takes its time."""
        archive = Archive(self.name, Scrubber(self._secrets()), self._now)
        for step in (self._answers, self._documents, self._commands, self._journals):
            for tick in step(archive):
                yield tick or archive.taken()
        about = {
            "hostname": self._machine.facts().hostname,
            "version": __version__,
            "made": timestamp(self._now),
        }
        yield archive.close(about)
        gc.collect()  # laying out JSON leaves cycles, and the agent's collector looks seldom

    def _secrets(self) -> Iterator[str]:
        """Secret values of every document that is kept, and of the boot configuration."""
        yield from self._machine.secrets()
        for info in self._revisions():
            try:
                document = self._engine.revision(info).document.value
            except EngineError:
                continue
            yield from secrets_of(document)

    def _revisions(self) -> tuple[int, ...]:
        try:
            return tuple(info.number for info in self._engine.revisions())
        except EngineError:
            return ()

    # -- steps: each yields after an entry, and b"" meanwhile ---------------------------------

    def _answers(self, archive: Archive) -> Iterator[bytes]:
        for path in self._paths:
            name = f"api{path.removeprefix('/v1')}".replace("/", "-").replace("api-", "api/", 1)
            try:
                status, value = self._ask(path)
            except Exception as error:  # noqa: BLE001 - whatever it is, the rest is wanted the more
                archive.add(name, path, b"", problem=f"{type(error).__name__}: {error}")
            else:
                text = isinstance(value, bytes) and not value.startswith((b"{", b"["))
                content = value if isinstance(value, bytes) else _json(value)
                archive.add(f"{name}.{'txt' if text else 'json'}", path, content, exit=status)
            yield b""

    def _documents(self, archive: Archive) -> Iterator[bytes]:
        for number in self._revisions()[:_REVISIONS]:
            name, source = f"documents/{number}.json", f"/v1/revisions/{number}"
            try:
                value = redacted(self._engine.revision(number).document.value)
            except EngineError as error:
                archive.add(name, source, b"", problem=str(error))
            else:
                archive.add(name, source, _json(value))
            yield b""

    def _commands(self, archive: Archive) -> Iterator[bytes]:
        try:
            inspections = self._engine.inspections()
        except EngineError:
            inspections = {}
        for name, command in bundle.commands_of(inspections):
            yield from self._command(archive, name, command)

    def _journals(self, archive: Archive) -> Iterator[bytes]:
        for unit in self._units:
            name = f"journal/{re.sub(r'[^A-Za-z0-9.-]', '-', unit)}.txt"
            command = Command(bundle.journal_of(unit), timeout=bundle.TIMEOUT)
            yield from self._command(archive, name, command)

    def _command(self, archive: Archive, name: str, command: Command) -> Iterator[bytes]:
        source = " ".join(command.argv)
        if archive.full:
            archive.add(name, source, b"")
            return
        try:
            tool = self._machine.inspect(command.argv, command.timeout, bundle.LONGEST_ENTRY)
        except MachineFailed as error:
            archive.add(name, source, b"", problem=error.reason)
            return
        said = bytearray()
        try:
            for part in tool:
                if part is None:
                    yield b""
                else:
                    said += part.data
        finally:
            tool.close()
        archive.add(
            name,
            source,
            bytes(said),
            exit=tool.returncode,
            truncated=tool.reason == "output limit",
            problem="" if tool.reason == "exited" else str(tool.reason),
        )
        yield b""


def stream(made: Bundle, streams: Streams, client: str) -> Stream:
    """The bundle as an answer. Raises Refusal where too much is under way."""
    opened = streams.open(PURPOSE, GZIP, made.parts)
    log.info("bundle %s is made for %s", made.name, client)
    return opened


def _json(value: object) -> bytes:
    return json.dumps(to_json(value), indent=1, ensure_ascii=False).encode() + b"\n"
