"""The published JSON Schema: no free text, everything described, and it agrees with the parser."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from agent.document.document import InvalidDocument, parse, schema
from tests.unit.engine.documents import router, with_forward, with_services

HOSTILE = (
    "vm\nserver=6.6.6.6",
    "vm\rserver",
    "vm\u0085x",
    "vm\u2028x",
    "vm\x00",
    "vm#x",
    "{{7*7}}",
    "{% raw %}",
    "$(id)",
    "`id`",
    "a b",
    "../../etc/passwd",
    "--option",
    '"quoted"',
    "x" * 10_000,
    "\ud800",
)


def strings(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every string type in the schema, with where it is."""
    if isinstance(node, dict):
        if node.get("type") == "string":
            yield path, node
        for key, child in node.items():
            if key not in {"examples", "default", "enum"}:
                yield from strings(child, f"{path}/{key}")
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from strings(child, f"{path}/{index}")


def test_no_string_is_free_text() -> None:
    found = list(strings(schema()))
    assert len(found) > 10
    for path, node in found:
        assert node.keys() & {"pattern", "enum", "const"}, f"{path} is a bare string"


def test_patterns_hold_from_end_to_end() -> None:
    for path, node in strings(schema()):
        if "pattern" in node:
            pattern = node["pattern"]
            assert pattern.startswith("^") and pattern.endswith("$"), f"{path}: {pattern}"  # noqa: PT018


def test_keys_of_maps_are_constrained() -> None:
    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("additionalProperties"), dict):
                names = node.get("propertyNames", {})
                assert names.keys() & {"pattern", "enum", "format"}, f"{path} has free keys"
            for key, child in node.items():
                walk(child, f"{path}/{key}")

    walk(schema(), "")


def test_every_field_is_described() -> None:
    for name, definition in schema()["$defs"].items():
        for field, node in definition.get("properties", {}).items():
            described = "description" in node or "$ref" in node
            assert described, f"{name}.{field} has no description"


def test_every_default_is_what_its_schema_takes() -> None:
    """Whoever fills in what is published has a document that is taken."""
    whole, tried = schema(), 0
    for name, definition in whole["$defs"].items():
        for field, node in definition.get("properties", {}).items():
            if "default" in node:
                tried += 1
                alone = {**node, "$defs": whole["$defs"]}
                errors = list(jsonschema.Draft202012Validator(alone).iter_errors(node["default"]))
                assert not errors, f"{name}.{field}: {errors[0].message}"
    assert tried > 50


@pytest.mark.parametrize("document", [router(1), with_forward(1), with_services(1)])
def test_what_the_parser_takes_the_schema_takes(document: bytes) -> None:
    parse(document)
    jsonschema.Draft202012Validator(schema()).validate(json.loads(document))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_in_any_string_is_refused_with_its_path(hostile: str) -> None:
    """Every string value of a full document is replaced in turn (generated, not listed)."""
    whole = json.loads(with_services(1))
    whole |= {k: v for k, v in json.loads(with_forward(1)).items() if k in {"nat", "firewall"}}
    tried = 0
    for path in _leaves(whole):
        value = json.loads(json.dumps(whole))
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        if not isinstance(parent[path[-1]], str):
            continue
        parent[path[-1]] = hostile
        tried += 1
        with pytest.raises(InvalidDocument) as caught:
            parse(json.dumps(value).encode())
        expected = "/" + "/".join(str(k).replace("~", "~0").replace("/", "~1") for k in path)
        assert expected in [problem.path for problem in caught.value.problems]
    assert tried > 12


def _leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _leaves(child, (*path, key))
    else:
        yield path
