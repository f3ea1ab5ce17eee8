"""The endpoint's description (OpenAPI 3.1), made of the table of routes."""

import functools
from collections.abc import Mapping
from typing import Any

from agent import __version__
from appliance.manager import bodies, problems
from appliance.manager.routes import PARAMETERS, ROUTES, Query, Route

_PROBLEM: Mapping[str, Any] = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "properties": {
        "type": {"enum": [f"/v1/problems/{name}" for name in problems.KINDS]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What it was this time."},
        "hint": {"type": "string", "description": "What to do next."},
        "retryable": {"type": "boolean", "description": "May the same request succeed later?"},
        "problems": {
            "type": "array",
            "description": "Everything that is wrong with the body.",
            "items": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in ("path", "message", "hint")},
                "required": ["path", "message", "hint"],
            },
        },
    },
    "required": ["type", "title", "status", "detail", "hint", "retryable"],
}
_TYPES = {str: "string", int: "integer", bool: "boolean"}
_REFERENCE = "#/components/schemas/{model}"


@functools.cache
def description() -> Mapping[str, Any]:
    """The whole OpenAPI document."""
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "sysvm manager",
            "version": __version__,
            "description": "Console sessions, console proxies and system VMs.",
        },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": dict(sorted(schemas.items())),
        },
    }


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "description": f"Roles: {', '.join(sorted(route.roles))}.",
    }
    parameters = [_path_parameter(name) for name in route.parameters]
    parameters += [_query_parameter(query) for query in route.query]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        schema = _schema(route.body, schemas, "validation")
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    reply = {"schema": _schema(route.reply, schemas, "serialization")}
    operation["responses"] = {
        "200": {"description": "It is done.", "content": {"application/json": reply}},
        "default": {
            "description": "It is not done.",
            "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        },
    }
    return operation


def _path_parameter(name: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": f"^{PARAMETERS[name]}$"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameter(query: Query) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": _TYPES[query.kind]}
    if query.default is not None:
        schema["default"] = query.default
    if query.kind is int:
        schema |= {"minimum": query.least, "maximum": query.most}
    if query.kind is str:
        schema["pattern"] = f"^{query.pattern}$"
    return {
        "name": query.name,
        "in": "query",
        "required": False,
        "description": query.description,
        "schema": schema,
    }


def _schema(of: Any, schemas: dict[str, Any], mode: Any) -> dict[str, Any]:
    """The schema of a type; named types go to `schemas`."""
    found = bodies.adapter(of).json_schema(ref_template=_REFERENCE, mode=mode)
    schemas.update(found.pop("$defs", {}))
    if found.get("type") == "object" and "title" in found:
        schemas[found["title"]] = found
        return {"$ref": f"#/components/schemas/{found['title']}"}
    return dict(found)
