"""The document: one whole push, from bytes to typed sections, or every problem at once."""

import copy
import functools
import hashlib
import json
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic
from pydantic import Field, TypeAdapter

from agent.document import json as strict_json
from agent.document.migrations import LATEST, migrate
from agent.document.problems import validation_problems
from agent.document.site import Site
from agent.document.types import Int, Section
from agent.engine.model import Problem, pointer
from agent.roles import Role
from agent.services import discover

__all__ = ["Document", "InvalidDocument", "canonical", "merge", "parse", "parse_value", "schema"]

GENERATION = Annotated[
    Int,
    Field(
        ge=0,
        le=2**63 - 1,
        description="Management's own number for this document; it only grows. The same "
        "generation with other content, or an older one, is refused.",
        examples=[7],
    ),
]


class InvalidDocument(ValueError):
    """The document says something impossible; `problems` has all of it, in order of the path.

    `rest` is what could be understood, for whoever wants to say what else is wrong with it.
    """

    def __init__(self, problems: Iterable[Problem], rest: "Document | None" = None) -> None:
        self.problems = tuple(sorted(set(problems)))
        self.rest = rest
        super().__init__("\n".join(map(str, self.problems)))


class Sections(Mapping[str, Section]):
    """The sections of a document by name, parsed from their valid text when they are asked for.

    As objects, the sections of a large document take ten times the room of their text, and only
    those that changed are ever looked at.
    """

    def __init__(self, texts: Mapping[str, bytes], names: Iterable[str]) -> None:
        self._texts = texts
        self._names = tuple(names)
        self._parsed: dict[str, Section] = {}

    def __getitem__(self, name: str) -> Section:
        if name not in self._names:
            raise KeyError(name)
        section = self._parsed.get(name)
        if section is None:  # another thread may have let go of it meanwhile
            text = self._texts.get(name)
            section = (
                discover()[name].ABSENT
                if text is None
                else _adapters()[name].validate_python(json.loads(text))
            )
            self._parsed[name] = section
        return section

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def put(self, name: str, section: Section) -> None:
        """Remember a section that has just been parsed."""
        self._parsed[name] = section

    def forget(self, name: str | None = None) -> None:
        """Let go of the objects, or of one section's; they can be made again."""
        if name is None:
            self._parsed = {}
        else:
            self._parsed.pop(name, None)


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One whole push. `digest` is the SHA-256 of its canonical form.

    What was pushed is kept as text, by top-level name; text that is here is valid.
    """

    texts: Mapping[str, bytes]  # canonical JSON of each member, in order of their names
    digest: str
    generation: int
    role: Role
    site: Site
    sections: Sections

    @property
    def canonical(self) -> bytes:
        """The document as canonical JSON."""
        return b"".join(_pieces(self.texts))

    @property
    def value(self) -> dict[str, Any]:
        """The document as it was pushed, made anew at each call."""
        return {name: json.loads(text) for name, text in self.texts.items()}


def _pieces(texts: Mapping[str, bytes]) -> Iterator[bytes]:
    """The document's canonical JSON."""
    before = b"{"
    for name, text in texts.items():
        yield b'%s"%s":' % (before, name.encode())
        yield text
        before = b","
    yield b"}" if texts else b"{}"


def _digest(texts: Mapping[str, bytes]) -> str:
    known = hashlib.sha256()
    for piece in _pieces(texts):
        known.update(piece)
    return known.hexdigest()


def canonical(value: object) -> bytes:
    """JSON with sorted names and no blanks: the same value always gives the same bytes.

    Half a character ("\\ud800") is not UTF-8, but has to be kept until a type refuses it.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode(errors="surrogatepass")


def merge(value: Any, patch: Any) -> Any:
    """What an RFC 7396 merge patch makes of `value`, which stays as it is."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(value) if isinstance(value, dict) else {}
    for name, change in patch.items():
        if change is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), change)
    return merged


def parse(data: bytes, previous: Document | None = None) -> Document:
    """The document that these bytes are.

    Sections with the same text as in `previous` are not validated again, which is what makes one
    rule more in a large document cheap. Raises InvalidDocument with every problem.
    """
    try:
        return _parsed([strict_json.loads(data)], previous)
    except strict_json.NotJson as error:
        raise InvalidDocument([error.problem]) from error


def parse_value(value: Any, previous: Document | None = None) -> Document:
    """The document that this JSON value is. Raises InvalidDocument with every problem."""
    given = [value]
    del value
    return _parsed(given, previous)


def _parsed(given: list[Any], previous: Document | None) -> Document:
    """The document of the one value in `given`, which is taken out.

    As Python's objects a document has ten times the size of its text: each member goes as soon as
    it has become something smaller.
    """
    value = given.pop()
    if not isinstance(value, dict):
        raise InvalidDocument([Problem("", "is not an object")])
    value = dict(migrate(value))
    texts, parts, problems = _texts(value, previous), dict[str, Any](), list[Problem]()
    adapters = _adapters()
    for name in texts.keys() - adapters.keys():
        hint = f"one of {', '.join(sorted(adapters))}"
        problems.append(Problem(pointer(name), "is not a section that this version knows", hint))
    for name, adapter in adapters.items():
        if name not in texts:
            if name in _REQUIRED:
                problems.append(Problem(pointer(name), "is missing"))
        elif name in value:
            try:
                parts[name] = _section(adapter, value.pop(name), name)
            except InvalidDocument as error:
                problems.extend(error.problems)
    if "role" in parts:
        problems.extend(_foreign_sections(parts["role"], texts))
    if not problems:
        return _document(texts, parts)
    known = {"role", "site", "generation"} <= parts.keys()
    wrong = {problem.path.split("/")[1] for problem in problems if problem.path}
    good = {name: text for name, text in texts.items() if name not in wrong}
    raise InvalidDocument(problems, _document(good, parts) if known else None)


def _section(adapter: TypeAdapter[Any], value: Any, name: str) -> Any:
    try:
        return adapter.validate_python(value)
    except pydantic.ValidationError as error:
        raise InvalidDocument(list(validation_problems(error, value, name))) from error


def _texts(value: dict[str, Any], previous: Document | None) -> dict[str, bytes]:
    """Each member's text. Sections that are valid, for `previous` has them too, are taken out.

    Their texts are the very ones of `previous`: one copy is enough.
    """
    known = previous.texts if previous else {}
    texts: dict[str, bytes] = {}
    try:
        for name in sorted(value):
            texts[name] = canonical(value[name])
            if name in discover() and known.get(name) == texts[name]:
                texts[name] = known[name]
                del value[name]
    except RecursionError as error:
        raise InvalidDocument([Problem("", "is nested too deep")]) from error
    return texts


def _document(texts: Mapping[str, bytes], parts: Mapping[str, Any]) -> Document:
    role = parts["role"]
    sections = Sections(
        texts,
        (
            name
            for name, service in discover().items()
            if role in service.ROLES and (name in parts or name in texts or service.ABSENT)
        ),
    )
    for name in sections:
        if name in parts:
            sections.put(name, parts[name])
    return Document(
        texts=texts,
        digest=_digest(texts),
        generation=parts["generation"],
        role=role,
        site=parts["site"],
        sections=sections,
    )


@functools.cache
def schema() -> Mapping[str, Any]:
    """The JSON Schema (2020-12) of a document, assembled from the services that are there."""
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for name, adapter in _adapters().items():
        part = copy.deepcopy(adapter.json_schema(ref_template="#/$defs/{model}"))
        for key, definition in part.pop("$defs", {}).items():
            _define(definitions, key, definition)
        if part.get("type") == "object":
            title = "".join(word.capitalize() for word in name.split("_"))
            _define(definitions, title, part | {"title": title})
            part = {"$ref": f"#/$defs/{title}"}
        properties[name] = part
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sysvm document",
        "description": "What a system VM is to be: one whole push.",
        "type": "object",
        "properties": properties,
        "required": sorted(_REQUIRED),
        "additionalProperties": False,
        "$defs": dict(sorted(definitions.items())),
    }


def _define(definitions: dict[str, Any], key: str, definition: Any) -> None:
    if definitions.setdefault(key, definition) != definition:
        raise TypeError(f"two sections define a type {key}: give one of them another name")


_REQUIRED = frozenset({"schema", "generation", "role", "site"})


@functools.cache
def _adapters() -> Mapping[str, TypeAdapter[Any]]:
    return {name: TypeAdapter(part) for name, part in section_types().items()}


def section_types() -> Mapping[str, Any]:
    """The type of each of a document's members."""
    version = Annotated[
        Int,
        Field(
            ge=LATEST,
            le=LATEST,
            description="The version of the document's form. Older ones are taken up to this one.",
        ),
    ]
    role = Annotated[Role, Field(description="What this VM is for.")]
    fixed: dict[str, Any] = {
        "schema": version,
        "generation": GENERATION,
        "role": role,
        "site": Site,
    }
    services = {name: service.Section for name, service in discover().items()}
    return fixed | services


def _foreign_sections(role: Role, names: Container[str]) -> Iterable[Problem]:
    for name, service in discover().items():
        if name in names and role not in service.ROLES:
            yield Problem(pointer(name), f"is not something that the role {role} has")
