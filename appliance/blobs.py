"""Files that a document names by their SHA-256, found beside it, to be uploaded before it."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

_NAME = re.compile(r"[0-9a-f]{64}")
_LONGEST = 4 * 1024 * 1024  # bytes; the endpoint takes no larger ones


def beside(document: Path) -> tuple[Path, ...]:
    """The files in the document's folder that it names. None, if it is no JSON: a push says so."""
    try:
        named = set(_names(json.loads(document.read_bytes())))
    except ValueError:
        return ()
    if not named:
        return ()
    return tuple(path for path in sorted(document.parent.iterdir()) if _digest(path) in named)


def _digest(path: Path) -> str:
    if not path.is_file() or path.stat().st_size > _LONGEST:
        return ""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _names(value: object) -> Iterator[str]:
    match value:
        case dict():
            for member in value.values():
                yield from _names(member)
        case list():
            for member in value:
                yield from _names(member)
        case str() if _NAME.fullmatch(value):
            yield value
