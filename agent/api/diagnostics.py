"""Diagnostics over the endpoint: from a request's JSON to a tool under way, and what it says."""

import codecs
import itertools
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from agent.api import problems
from agent.api.ports import Machine, MachineFailed, Saying, Tool
from agent.api.problems import Refusal
from agent.api.shape import to_json
from agent.api.streams import JSON_LINES, Closing, Stream, Streams
from agent.diagnostics import capture, requests
from agent.diagnostics.capture import Capture
from agent.diagnostics.refusal import DiagnosticRefused
from agent.diagnostics.requests import Request
from agent.document import json as strict_json

log = logging.getLogger(__name__)

T = TypeVar("T", str, int)

PURPOSE = "diagnostics"
_BEGINS_WITHIN = 5.0  # seconds
SILENCE = 4  # rounds of half a second, after which a line says that it still runs


@dataclass(frozen=True, slots=True)
class Begun:
    """The first line: what is run."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """What it has written just now; not always whole lines."""

    stream: str  # stdout or stderr
    text: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """It is silent; so that each end knows of the other."""

    elapsed: float  # seconds since it began


@dataclass(frozen=True, slots=True)
class Ended:
    """The last line: how it ended."""

    exit: int | None  # null if it was ended here
    reason: str  # exited, time limit, output limit
    duration: float  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All of it, where it was not asked for live."""

    argv: tuple[str, ...]
    exit: int | None  # null if it was ended here
    reason: str  # exited, time limit, output limit
    timed_out: bool
    truncated: bool
    duration: float  # seconds
    stdout: str
    stderr: str


class Diagnostics:
    """What may be tried from one machine."""

    def __init__(self, machine: Machine, streams: Streams) -> None:
        self._machine = machine
        self._streams = streams

    def run(self, tool: str, body: bytes, client: str, *, live: bool) -> Stream:
        """Try something. Raises Refusal, DiagnosticRefused, MachineFailed."""
        if tool not in requests.TOOLS:
            known = ", ".join(requests.TOOLS)
            raise Refusal(problems.UNKNOWN_PATH, f"no tool of this name; there are {known}")
        request, seconds = parse(tool, body)
        argv = requests.command(request, self._machine.nics())

        def begin() -> Iterator[bytes]:
            running = self._machine.start(argv, seconds, requests.LONGEST_OUTPUT)
            log.info("diagnostic by %s: %s", client, " ".join(argv))
            return Closing(lines(running) if live else whole(running), running.close)

        media_type = JSON_LINES if live else "application/json"
        return self._streams.open(PURPOSE, media_type, begin)

    def capture(self, body: bytes, client: str, control: Mapping[str, int]) -> Stream:
        """Capture packets. Raises Refusal, DiagnosticRefused, MachineFailed."""
        wanted = parse_capture(body)
        argv = capture.command(wanted, self._machine.nics(), control)

        def begin() -> Iterator[bytes]:
            running = self._machine.start(argv, wanted.seconds, wanted.bytes)
            try:
                rounds = _from_its_first_word(running)
            except BaseException:
                running.close()
                raise
            log.info("capture by %s: %s", client, " ".join(argv))
            return Closing(packets(rounds), running.close)

        return self._streams.open(PURPOSE, capture.MEDIA_TYPE, begin)


def parse_capture(body: bytes) -> Capture:
    """Raises NotJson, DiagnosticRefused."""
    defaults = Capture(nic="")
    names = tuple(Capture.__slots__)
    fields = Fields(strict_json.loads(body), names)
    return Capture(
        nic=fields.text("nic", ""),
        hosts=fields.several("hosts", str),
        network=fields.text("network", "") or None,
        protocol=fields.text("protocol", "") or None,
        ports=fields.several("ports", int),
        direction=fields.text("direction", defaults.direction),
        snaplen=fields.number("snaplen", None) or defaults.snaplen,
        packets=fields.number("packets", None) or defaults.packets,
        seconds=fields.number("seconds", None) or defaults.seconds,
        bytes=fields.number("bytes", None) or defaults.bytes,
    )


def _from_its_first_word(running: Tool) -> Iterator[Saying | None]:
    """What it says, once it has begun; a filter or a NIC that it refuses is an error by then."""
    rounds = iter(running)
    complaint = b""
    for said in rounds:
        if said is not None and said.stream == "stdout":
            return itertools.chain([said], rounds)
        if said is not None:
            complaint += said.data
        if running.duration > _BEGINS_WITHIN:
            break
    words = complaint.decode(errors="replace").strip().splitlines()
    raise MachineFailed(running.argv[0], words[-1] if words else "it did not begin in time")


def packets(rounds: Iterator[Saying | None]) -> Iterator[bytes]:
    """A capture in whole packets."""
    records = capture.Records()
    for said in rounds:
        yield records.whole(said.data) if said is not None and said.stream == "stdout" else b""


def parse(tool: str, body: bytes) -> tuple[Request, int]:
    """A request, and how many seconds it may take. Raises NotJson, DiagnosticRefused."""
    value = strict_json.loads(body)
    fields = Fields(value, ("target", "family", "arguments", "seconds"))
    request = Request(
        tool=tool,
        target=fields.text("target", ""),
        family=fields.number("family", None),
        arguments=fields.text("arguments", ""),
    )
    seconds = fields.number("seconds", requests.DEFAULT_SECONDS) or 0
    if not 1 <= seconds <= requests.LONGEST_SECONDS:
        raise DiagnosticRefused("/seconds", f"is a number from 1 to {requests.LONGEST_SECONDS}")
    return request, seconds


class Fields:
    """The members of a request's object, each of its type. Raises DiagnosticRefused."""

    def __init__(self, value: object, known: tuple[str, ...]) -> None:
        if not isinstance(value, dict):
            raise DiagnosticRefused("", f"is an object with {', '.join(known)}")
        for name in value:
            if name not in known:
                hint = f"known are {', '.join(known)}"
                raise DiagnosticRefused(f"/{ascii(name)[1:-1][:40]}", "is not known here", hint)
        self._value: Mapping[str, Any] = value

    def text(self, name: str, default: str) -> str:
        value = self._value.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise DiagnosticRefused(f"/{name}", "is a string")
        return value

    def several(self, name: str, kind: type[T]) -> tuple[T, ...]:
        value = self._value.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(type(part) is kind for part in value):
            what = "whole numbers" if kind is int else "strings"
            raise DiagnosticRefused(f"/{name}", f"is a list of {what}")
        return tuple(value)

    def number(self, name: str, default: int | None) -> int | None:
        value = self._value.get(name)
        if value is None:
            return default
        if type(value) is not int:
            raise DiagnosticRefused(f"/{name}", "is a whole number")
        return value


def lines(running: Tool) -> Iterator[bytes]:
    """What a tool says as JSON lines, as it says it."""
    yield _line(Begun(running.argv))
    decoders = {name: _decoder() for name in ("stdout", "stderr")}
    silent = 0
    for said in running:
        if said is None:
            silent += 1
            yield b"" if silent % SILENCE else _line(Waiting(round(running.duration, 1)))
            continue
        silent = 0
        yield _line(Output(said.stream, decoders[said.stream].decode(said.data)))
    yield _line(Ended(_exit(running), _reason(running), round(running.duration, 3)))


def whole(running: Tool) -> Iterator[bytes]:
    """What a tool said, when it has ended."""
    kept = {"stdout": bytearray(), "stderr": bytearray()}
    for said in running:
        if said is None:
            yield b""
        else:
            kept[said.stream] += said.data
    reason = _reason(running)
    yield _line(
        Diagnosis(
            argv=running.argv,
            exit=_exit(running),
            reason=reason,
            timed_out=reason == "time limit",
            truncated=reason == "output limit",
            duration=round(running.duration, 3),
            stdout=kept["stdout"].decode(errors="replace"),
            stderr=kept["stderr"].decode(errors="replace"),
        )
    )


def _exit(running: Tool) -> int | None:
    return running.returncode if _reason(running) == "exited" else None


def _reason(running: Tool) -> str:
    if running.reason is None:
        raise MachineFailed(running.argv[0], "it has not ended")
    return str(running.reason)


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")


def _line(value: object) -> bytes:
    return json.dumps(to_json(value), ensure_ascii=False).encode() + b"\n"
