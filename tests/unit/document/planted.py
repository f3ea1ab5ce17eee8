"""A value in every field of a document that is marked as secret, by walking the published schema.

A field that a later service marks is planted without anybody naming it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from agent.document.document import schema

Path = tuple[str, ...]
ANY = "*"  # a member of a map, or of a list


def places() -> frozenset[Path]:
    """Where in a document a secret may be."""
    whole = schema()
    return frozenset(_places(whole, (), whole.get("$defs", {}), frozenset()))


def planted() -> tuple[dict[str, Any], Mapping[Path, str]]:
    """Sections with a secret in each such place, and what is where. They need not be valid."""
    sections: dict[str, Any] = {}
    values: dict[Path, str] = {}
    for number, place in enumerate(sorted(places())):
        values[place] = f'Canary {number} of "{place[-1]}"\\ {number * 7919:06}'
        node = sections
        for name in place[:-1]:
            node = node.setdefault(name.replace(ANY, "one"), {})
        node[place[-1].replace(ANY, "one")] = values[place]
    return sections, values


def _places(
    node: Any, path: Path, kinds: Mapping[str, Any], seen: frozenset[str]
) -> Iterator[Path]:
    if not isinstance(node, Mapping):
        return
    if node.get("x-secret") is True:
        yield path
    kind = str(node.get("$ref", "")).rpartition("/")[2]
    if kind and kind not in seen:
        yield from _places(kinds[kind], path, kinds, seen | {kind})
    for name, child in node.get("properties", {}).items():
        yield from _places(child, (*path, name), kinds, seen)
    for child in (node.get("additionalProperties"), node.get("items")):
        yield from _places(child, (*path, ANY), kinds, seen)
    for child in node.get("patternProperties", {}).values():
        yield from _places(child, (*path, ANY), kinds, seen)
    for way in ("anyOf", "oneOf", "allOf"):
        for child in node.get(way, ()):
            yield from _places(child, path, kinds, seen)
