"""What takes secrets out of text that leaves the VM, whoever wrote them into it.

Documents lose their secrets by type (agent.document.secrets). Logs, configurations and a daemon's
own words do not have types, so they are searched for the very values that this VM's documents
have: as they are, as JSON writes them, in hexadecimal, and in base64 wherever that begins.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from agent.document.secrets import redacted
from agent.document.types import REDACTED

STAND_IN = REDACTED.encode()
# A shorter value is in any text; where it stands in a document it is known by its type.
SHORTEST = 4
_LONGEST_GUESS = 8  # characters of base64, below which it would be found by chance

_PRIVATE_KEY = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]{0,40}PRIVATE KEY)-----.*?(?:-----END \1-----|\Z)", re.DOTALL
)
# As configuration files and command lines write them, and JSON: a name, a sign, a value.
_NAME = rb"(?:password|passwd|secret|psk|pre_?shared_?key|token|api_?key)"
_NAMED = re.compile(rb"(?i)(\b" + _NAME + rb"\s*[:=]\s*)(?![\[{\"'<\s])[^\s\"',;]+")
_QUOTED = re.compile(rb"(?i)(\b" + _NAME + rb"[\"']?\s*[:=]\s*([\"']))(?:(?!\2)[^\n\\]|\\.)*\2")
_HEXADECIMAL = re.compile("(?:[0-9A-Fa-f]{2}){8,}")
_HAPROXY = re.compile(rb"(?m)^(\s*(?:user\s+\S+\s+(?:insecure-)?password|stats\s+auth)\s+)\S+")


def secrets_of(document: Mapping[str, Any]) -> Iterator[str]:
    """The values in a document that are told to nobody."""
    return _hidden(document, redacted(document))


def private_keys_of(value: Any) -> Iterator[str]:
    """The private keys (PEM) in a JSON value of any shape."""
    return (text for text in _leaves(value) if "PRIVATE KEY-----" in text)


def _hidden(value: Any, shown: Any) -> Iterator[str]:
    match value, shown:
        case dict(), dict():
            for name, part in value.items():
                yield from _hidden(part, shown.get(name))
        case list(), list():
            for part, other in zip(value, shown, strict=True):
                yield from _hidden(part, other)
        case _, _ if value != shown:
            yield from _leaves(value)


def _leaves(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for part in value.values():
                yield from _leaves(part)
        case list():
            for part in value:
                yield from _leaves(part)


class Scrubber:
    """Knows secret values, and takes them out of text."""

    def __init__(self, values: Iterable[str]) -> None:
        found: dict[bytes, set[bytes]] = {}
        for value in set(values):
            for form in _forms(value):
                if len(form) >= SHORTEST:
                    found.setdefault(form[:SHORTEST], set()).add(form)
        self._forms = {
            start: tuple(sorted(forms, key=len, reverse=True)) for start, forms in found.items()
        }

    def scrub(self, text: bytes) -> bytes:
        """The text with a stand-in for each secret."""
        text = _PRIVATE_KEY.sub(STAND_IN, self._without_values(text))
        text = _QUOTED.sub(rb"\1" + STAND_IN + rb"\2", text)
        text = _NAMED.sub(rb"\1" + STAND_IN, text)
        return _HAPROXY.sub(rb"\1" + STAND_IN, text)

    def _without_values(self, text: bytes) -> bytes:
        """One look at each place, however many values there are."""
        forms, size = self._forms, SHORTEST
        if not forms:
            return text
        parts, done = [], 0
        for place in [i for i in range(len(text) - size + 1) if text[i : i + size] in forms]:
            if place < done:
                continue
            for form in forms[text[place : place + size]]:
                if text.startswith(form, place):
                    parts += [text[done:place], STAND_IN]
                    done = place + len(form)
                    break
        return b"".join([*parts, text[done:]])


def _forms(value: str) -> Iterator[bytes]:
    """The ways in which a value, or a line of a key, may be written."""
    pieces = [value]
    if "\n" in value:
        pieces = [line for line in value.split("\n") if len(line) >= 16 and line[:5] != "-----"]
    for piece in pieces:
        plain = piece.encode()
        yield plain
        yield json.dumps(piece)[1:-1].encode()
        yield quote(piece, safe="").encode()
        for raw in (plain, bytes.fromhex(piece)) if _HEXADECIMAL.fullmatch(piece) else (plain,):
            yield raw.hex().encode()
            yield raw.hex().upper().encode()
            for before in range(3):
                yield from _base64(raw, before)


def _base64(value: bytes, before: int) -> Iterator[bytes]:
    """What is sure to be there where base64 has the value after `before` bytes of a group."""
    length = (before + len(value)) * 8 // 6
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        sure = encode(bytes(before) + value)[(0, 2, 3)[before] : length]
        if len(sure) >= _LONGEST_GUESS:
            yield sure
