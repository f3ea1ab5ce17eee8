"""Strict reading of JSON (RFC 8259): what parsers disagree about is an error here."""

import json
import math
from typing import Any

from agent.engine.model import Problem

LONGEST = 16 * 1024 * 1024  # bytes; a document of 10,000 rules and 20,000 hosts has 5 MB


class NotJson(ValueError):
    """The bytes are not one unambiguous JSON value."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def loads(data: bytes) -> Any:
    """The value that `data` spells.

    Refuses what RFC 8259 leaves to chance: duplicate names, NaN and infinities, numbers that
    do not fit, nesting deeper than the parser's stack, more than `LONGEST` bytes, bytes that are
    not UTF-8.

    Raises NotJson.
    """
    if len(data) > LONGEST:
        raise NotJson(Problem("", f"is larger than {LONGEST} bytes"))
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
    except RecursionError as error:
        raise NotJson(Problem("", "is nested too deep")) from error
    except ValueError as error:
        raise NotJson(Problem("", "is not JSON that can be read: a number is too long")) from error


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
