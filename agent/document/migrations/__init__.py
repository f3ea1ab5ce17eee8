"""Older documents are taken up to the latest form, one version at a time, by pure functions.

A migration is a module `m0001_to_0002` with one function `migrate(value) -> value`; each has
golden tests. There is one version so far.
"""

from collections.abc import Callable, Mapping
from typing import Any

LATEST = 1

MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def migrate(value: dict[str, Any]) -> dict[str, Any]:
    """The same document in the latest form; one of an unknown version is left for the types."""
    while (step := MIGRATIONS.get(_version(value))) is not None:
        value = step(value)
    return value


def _version(value: Mapping[str, Any]) -> int:
    version = value.get("schema")
    return version if isinstance(version, int) and not isinstance(version, bool) else -1
