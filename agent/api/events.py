"""Events over the endpoint: pages, a wait for the next one, a stream of them, acknowledgements.

Whoever waits takes one of the slots for streams (`agent.api.streams`): at most as many can, and no
other request is kept from its thread.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

from agent.api import answers, problems
from agent.api.problems import Refusal
from agent.api.shape import to_json
from agent.api.streams import SERVER_SENT_EVENTS, Stream, Streams
from agent.document import json as strict_json
from agent.monitor.events import Cursor, Kept, Page, Severity, Unknown
from agent.monitor.rows import EventRow, event_row

PURPOSE = "events"
JSON = "application/json"
MOST = 1000  # events in a page
LONGEST_WAIT = 60  # seconds
SILENCE = 15.0  # seconds without an event, after which a stream says that it is still there
_AT_ONCE = 100  # events in one piece of a stream
_TURN = 0.5  # seconds from one look whether a client has left to the next
_LAST_EVENT_ID = re.compile(r"([0-9a-z-]{1,64}):([0-9]{1,18})")
_STREAM = re.compile(r"[0-9a-z-]{1,64}")


def page(kept: Kept, streams: Streams, query: Mapping[str, str]) -> answers.Events | Stream:
    """The next events; with `wait`, not before there is one, unless that takes longer."""
    cursor = _cursor(kept, query)
    limit, wait = _number(query, "limit", 100, 1, MOST), _number(query, "wait", 0, 0, LONGEST_WAIT)
    least = _severity(query)
    found = kept.read(cursor, limit, least)
    if found.events or not wait:
        return answers.events(found)

    def parts() -> Iterator[bytes]:
        until = time.monotonic() + wait
        seen = found
        while not seen.events and (left := until - time.monotonic()) > 0:
            seen = _when_there_is(kept, seen, min(left, _TURN), limit, least)
            yield b""
        yield _json(answers.events(seen))

    return streams.open(PURPOSE, JSON, parts)


def _when_there_is(kept: Kept, seen: Page, seconds: float, limit: int, least: Severity) -> Page:
    """The page after this one, once there is something; this one where there is nothing yet."""
    if not kept.wait(seen.next, seconds):
        return seen
    found = kept.read(seen.next, limit, least)
    if not found.events and found.next == seen.next:  # there is something; it cannot be read now
        time.sleep(seconds)
    return found


def stream(
    kept: Kept, streams: Streams, query: Mapping[str, str], last_event_id: str | None
) -> Stream:
    """Events as they come, as Server-Sent Events; an event's id is STREAM:NUMBER."""
    least = _severity(query)
    if last_event_id is not None and (match := _LAST_EVENT_ID.fullmatch(last_event_id)):
        cursor = Cursor(int(match[2]), match[1])
    else:
        cursor = _cursor(kept, query)

    def parts() -> Iterator[bytes]:
        said = time.monotonic()
        yield b": events of this VM\n\n"
        seen = kept.read(cursor, _AT_ONCE, least)
        while True:
            if seen.events:
                said = time.monotonic()
                rows = map(event_row, seen.events)
                yield b"".join(_sent(seen.stream, row) for row in rows)
                seen = replace(seen, events=())
            elif time.monotonic() - said >= SILENCE:
                said = time.monotonic()
                yield b":\n\n"
            else:
                yield b""
            seen = _when_there_is(kept, seen, _TURN, _AT_ONCE, least)

    return streams.open(PURPOSE, SERVER_SENT_EVENTS, parts)


def acknowledge(kept: Kept, body: bytes) -> answers.Acknowledged:
    """Note that all events up to a number have arrived. Raises Refusal."""
    value = strict_json.loads(body)
    if not isinstance(value, dict) or value.keys() != {"stream", "seq"}:
        raise Refusal(problems.BAD_REQUEST, 'the body is {"stream": "…", "seq": 7}')
    name, seq = value["stream"], value["seq"]
    if not isinstance(name, str) or type(seq) is not int or not 0 <= seq < 2**63:
        raise Refusal(problems.BAD_REQUEST, "stream is text, seq a number")
    try:
        return answers.Acknowledged(name, kept.acknowledge(Cursor(seq, name)))
    except Unknown as error:
        raise Refusal(problems.NO_SUCH_EVENT, str(error)) from error


def _cursor(kept: Kept, query: Mapping[str, str]) -> Cursor:
    if "tail" in query:
        return kept.before(_number(query, "tail", 0, 0, MOST), _severity(query))
    name = query.get("stream", "")
    if name and not _STREAM.fullmatch(name):
        raise Refusal(problems.BAD_REQUEST, "stream is what an earlier answer called it")
    return Cursor(_number(query, "after", 0, 0, 2**63 - 1), name)


def _number(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not re.fullmatch("[0-9]{1,19}", text) or not least <= int(text) <= most:
        raise Refusal(problems.BAD_REQUEST, f"{name} is a number from {least} to {most}")
    return int(text)


def _severity(query: Mapping[str, str]) -> Severity:
    return Severity(query.get("severity", Severity.INFO))


def _sent(name: str, row: EventRow) -> bytes:
    """One event of a stream (HTML standard, 9.2.6)."""
    content = _json(row).decode().rstrip("\n")
    return f"id: {name}:{row.seq}\nevent: {row.kind}\ndata: {content}\n\n".encode()


def _json(value: object) -> bytes:
    return json.dumps(to_json(value), ensure_ascii=False, allow_nan=False).encode() + b"\n"
