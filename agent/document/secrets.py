"""What of a document is told to nobody: values whose type is marked `Secret`.

A document comes in whole and is kept whole; what goes out again (an answer of the endpoint, a
diagnostics bundle) has a stand-in for each secret. The marks are on the types, so that a service
with a secret of its own needs nothing but the mark, and the JSON Schema says `writeOnly` there.
"""

import functools
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any

from agent.document.document import Document, canonical, section_types
from agent.document.types import REDACTED, Secret

__all__ = ["canonical_redacted", "redacted"]


@dataclass(frozen=True, slots=True)
class _Shape:
    """Where in values of a type secrets are."""

    secret: bool = False
    members: Mapping[str, "_Shape"] = field(default_factory=dict)  # of an object, all of them
    each: "_Shape | None" = None  # of a map's or a list's values

    @property
    def has_secrets(self) -> bool:
        return (
            self.secret
            or (self.each is not None and self.each.has_secrets)
            or any(member.has_secrets for member in self.members.values())
        )


def redacted(value: Mapping[str, Any]) -> dict[str, Any]:
    """A document without its secrets: each is REDACTED, which no field takes as a value.

    `value` need not be valid. What no type of this version knows is REDACTED as well, for a later
    version may have marked it.
    """
    shapes = _sections()
    return {
        name: _redact(part, shapes[name]) if name in shapes else REDACTED
        for name, part in value.items()
    }


def canonical_redacted(document: Document) -> bytes:
    """The document as canonical JSON, without its secrets."""
    shapes = _sections()
    return b"{%s}" % b",".join(
        b'"%s":%s' % (name.encode(), _redacted_text(text, shapes[name]))
        for name, text in document.texts.items()
    )


def _redacted_text(text: bytes, shape: _Shape) -> bytes:
    return canonical(_redact(json.loads(text), shape)) if shape.has_secrets else text


def _redact(value: Any, shape: _Shape) -> Any:
    if shape.secret:
        return value if value is None else REDACTED
    if isinstance(value, dict):
        if shape.members:
            return {
                name: _redact(part, shape.members[name]) if name in shape.members else REDACTED
                for name, part in value.items()
            }
        if shape.each is not None:
            return {name: _redact(part, shape.each) for name, part in value.items()}
    if isinstance(value, list) and shape.each is not None:
        return [_redact(part, shape.each) for part in value]
    return value


@functools.cache
def _sections() -> Mapping[str, _Shape]:
    return {name: _shape(of) for name, of in section_types().items()}


@functools.cache
def _shape(of: Any) -> _Shape:
    """The shape of values of this type."""
    origin = typing.get_origin(of)
    parts = typing.get_args(of)
    if origin is Annotated:
        if any(isinstance(mark, Secret) for mark in parts[1:]):
            return _Shape(secret=True)
        return _shape(parts[0])
    if origin is typing.Union or origin is types.UnionType:
        return _either(_shape(part) for part in parts)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _Shape(each=_shape(parts[1]))
    if origin is tuple:
        return _Shape(each=_either(_shape(part) for part in parts if part is not ...))
    if is_dataclass(of):
        types_of: dict[str, Any] = {member.name: member.type for member in fields(of)}
        spelt = _spelling(of)
        return _Shape(members={spelt(name): _shape(member) for name, member in types_of.items()})
    return _Shape()


def _spelling(of: Any) -> Callable[[str], str]:
    """How a section's fields are called in JSON."""
    spelt: Callable[[str], str] | None = getattr(of, "__pydantic_config__", {}).get(
        "alias_generator"
    )
    return spelt or str


def _either(shapes: Iterable[_Shape]) -> _Shape:
    """What may be secret in any of these."""
    whole = _Shape()
    for shape in shapes:
        members = dict(whole.members)
        for name, member in shape.members.items():
            members[name] = _either((members[name], member)) if name in members else member
        each = tuple(part for part in (whole.each, shape.each) if part is not None)
        whole = _Shape(whole.secret or shape.secret, members, _either(each) if each else None)
    return whole
