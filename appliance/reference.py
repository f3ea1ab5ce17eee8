"""References that are written from the code: docs/document.md, docs/events.md."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.document.document import schema
from agent.document.types import REDACTED
from agent.monitor.events import CATALOGUE, Kind, Severity
from agent.monitor.sentences import MEANINGS

INTRODUCTION = f"""\
# The document

<!-- Generated from the types by `make docs`; a test fails when it is stale. Do not edit. -->

Management pushes one JSON document; the VM becomes what it says, or stays what it was. This page
lists every field. The same as JSON Schema: `sysvmctl schema`, `sysvm schema`, `GET /v1/schema`.

Collections are maps keyed by identity (a MAC address, an address, an id of your choosing), so
that a merge patch (RFC 7396) can change one entry. Addresses have one spelling: IPv6 in lower
case and shortest form, networks without host bits, MAC addresses in lower case with colons.

Where `…` stands for a default, it is too long for its column: that of a group of fields is each
field's own, and the schema has all of them.

A *secret* (`writeOnly` in the JSON Schema) is never told back: where a document is shown,
`{REDACTED}` stands for it, which is refused where it is pushed. A merge patch leaves secrets as
they are.
"""


def markdown() -> str:
    """The whole page."""
    definitions: Mapping[str, Any] = schema()["$defs"]
    lines = [INTRODUCTION]
    lines += _section("The whole", schema(), definitions)
    for name, reference in schema()["properties"].items():
        title = reference.get("$ref", "").rsplit("/", 1)[-1]
        if title and "properties" in definitions[title]:
            lines += [f"## `{name}`", "", definitions[title].get("description", ""), ""]
            for used in _reachable(title, definitions):
                lines += _section("" if used == title else used, definitions[used], definitions)
    return "\n".join(lines).rstrip() + "\n"


EVENTS = """\
# Events

<!-- Generated from the catalogue by `make docs`; a test fails when it is stale. Do not edit. -->

What happens on a VM that somebody outside should know: the whole of it, for the set is closed.
[integrating.md](integrating.md#events) says how events are received and acknowledged;
`sysvmctl events -f` shows them on the VM.

Each has `seq` (its number in the outbox's stream), `boot` (the boot that it happened in), `time`,
`monotonic` (seconds since that boot), `kind`, `severity`, `subject` (what it is about), `message`
(a sentence for a person) and `data`, as below. Whoever receives a `kind` that is not listed has an
older list than the VM: `severity` and `message` say enough to go on with.
"""


def events() -> str:
    """The page of all events."""
    lines = [EVENTS, "| severity | means |", "|---|---|"]
    lines += [f"| `{severity}` | {_SEVERITIES[severity]} |" for severity in Severity]
    for kind in Kind:
        meaning = CATALOGUE[kind]
        lines += ["", f"## `{kind}`", "", f"*{meaning.severity}.* {meaning.summary}", ""]
        lines += [f"Next: {meaning.next}.", ""]
        if meaning.data:
            lines += ["| data | |", "|---|---|"]
            lines += [f"| `{name}` | {text} |" for name, text in meaning.data.items()]
    lines += [LOG, "| sentence | | means |", "|---|---|---|"]
    lines += [f"| `{s.of('X')}` | {level} | {words} |" for s, (level, words) in MEANINGS.items()]
    text = "\n".join(lines)
    return re.sub("\n{3,}", "\n\n", text).rstrip() + "\n"


LOG = """

# The service log

What `/var/log/routerServiceMonitor.log` says of daemons and checks; `X` is the one it is about.
The first four sentences never change. [operations.md](operations.md) has its form.
"""

_SEVERITIES: Mapping[Severity, str] = {
    Severity.INFO: "a change of state that ends well, or that somebody asked for",
    Severity.WARNING: "degraded, but serving",
    Severity.ALERT: "something does not serve, and does not come back by itself",
    Severity.CRITICAL: "the VM as a whole is at risk",
}


def _section(title: str, node: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[str]:
    lines = [f"### {title}", "", node.get("description", ""), ""] if title else []
    if not node.get("properties"):
        return [*lines, "No fields.", ""] if title else lines
    lines += ["| field | type | default | |", "|---|---|---|---|"]
    required = node.get("required", ())
    for name, field in node["properties"].items():
        target = definitions.get(field.get("$ref", "").rsplit("/", 1)[-1], {})
        description = field.get("description") or target.get("description", "")
        default = "**required**" if name in required else _default(field)
        cells = (f"`{name}`", _type(field, definitions), default, description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]


def _default(field: Mapping[str, Any]) -> str:
    if "default" not in field:
        return ""
    return f"`{json.dumps(field['default'])}`" if len(json.dumps(field["default"])) < 40 else "…"


def _type(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """What a field holds, in a few words."""
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[-1]
        target = definitions[name]
        if "enum" in target:
            return " or ".join(f"`{value}`" for value in target["enum"])
        return f"[{name}](#{_anchor(name)})"
    if "enum" in node:
        return " or ".join(f"`{value}`" for value in node["enum"])
    if "const" in node:
        return f"`{json.dumps(node['const'])}`"
    if "anyOf" in node:
        kinds = [_type(part, definitions) for part in node["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    match node.get("type"):
        case "object":
            return _map(node, definitions)
        case "array":
            return f"list of {_type(node.get('items', {}), definitions)}"
        case "integer":
            bounds = [str(node[k]) for k in ("minimum", "maximum") if k in node]
            return f"integer, {' to '.join(bounds)}" if bounds else "integer"
        case "string":
            example = node.get("examples", [""])[0]
            kind = "secret string" if node.get("x-secret") else "string"
            return f"{kind} such as `{example}`" if example else kind
        case other:
            return str(other or "")


def _anchor(title: str) -> str:
    """The heading that describes a type: a section has its name in the document for one."""
    sections: Mapping[str, Any] = schema()["properties"]
    named = (name for name, node in sections.items() if node.get("$ref", "").endswith(f"/{title}"))
    return next(named, title.lower())


def _map(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    values = [*node.get("patternProperties", {}).values()]
    if isinstance(node.get("additionalProperties"), dict):
        values.append(node["additionalProperties"])
    key = (node.get("propertyNames", {}).get("examples") or ["id"])[0]
    kinds = ", ".join(_type(value, definitions) for value in values) or "nothing"
    return f"map from `{key}` to {kinds}"


def _reachable(title: str, definitions: Mapping[str, Any]) -> Iterator[str]:
    """A definition and those that it uses, each once, as they come; enumerations stand inline."""
    seen: list[str] = []
    waiting = [title]
    while waiting:
        name = waiting.pop(0)
        if name in seen or "properties" not in definitions[name]:
            continue
        seen.append(name)
        yield name
        waiting += _references(definitions[name])


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if "$ref" in node:
            yield node["$ref"].rsplit("/", 1)[-1]
        for child in node.values():
            yield from _references(child)
    elif isinstance(node, list):
        for child in node:
            yield from _references(child)


def main() -> None:
    """Write the pages; `make docs` calls this."""
    Path("docs/document.md").write_text(markdown())
    Path("docs/events.md").write_text(events())


if __name__ == "__main__":
    main()
