"""Strict reading of JSON (RFC 8259): what parsers disagree about is an error here."""

import json
import math
from typing import Any

from agent.engine.model import Problem

LONGEST = 16 * 1024 * 1024  # bytes; a document of 10,000 rules and 20,000 hosts has 5 MB
DEEPEST = 32  # levels; the deepest place in a document is 8


class NotJson(ValueError):
    """The bytes are not one unambiguous JSON value."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def loads(data: bytes) -> Any:
    """The value that `data` spells.

    Refuses what RFC 8259 leaves to chance: duplicate names, NaN and infinities, numbers that
    do not fit, more than `DEEPEST` levels, more than `LONGEST` bytes, bytes that are not UTF-8.

    Raises NotJson.
    """
    if len(data) > LONGEST:
        raise NotJson(Problem("", f"is larger than {LONGEST} bytes"))
    _check_depth(data)
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
        )
    except UnicodeDecodeError as error:
        raise NotJson(Problem("", f"is not UTF-8: byte {error.start}")) from error
    except json.JSONDecodeError as error:
        raise NotJson(
            Problem("", f"is not JSON: {error.msg}, line {error.lineno} column {error.colno}")
        ) from error
    except NotJson:
        raise
    except (ValueError, RecursionError) as error:
        raise NotJson(Problem("", "is not JSON that can be read: a number is too long")) from error


def _check_depth(data: bytes) -> None:
    """Refuse deep nesting before a recursive parser sees it; brackets in strings do not count."""
    if data.count(b"[") + data.count(b"{") <= DEEPEST:
        return
    depth = 0
    in_string = False
    # Strings are cut out by splitting at quotes; an escaped quote hides behind a backslash.
    for piece in data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"'):
        if not in_string:
            depth += piece.count(b"[") + piece.count(b"{")
            if depth > DEEPEST:
                raise NotJson(Problem("", f"is nested more than {DEEPEST} levels deep"))
            depth -= piece.count(b"]") + piece.count(b"}")
        in_string = not in_string


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise NotJson(Problem("", f"has the name {name!r} twice in one object"))
            seen.add(name)
    return value


def _constant(name: str) -> float:
    raise NotJson(Problem("", f"has the number {name}, which JSON does not know"))


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NotJson(Problem("", f"has the number {text[:20]}, which is too large"))
    return value
