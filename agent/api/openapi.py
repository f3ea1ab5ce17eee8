"""The endpoint's description (OpenAPI 3.1), made of the table of routes."""

import functools
from collections.abc import Mapping
from typing import Any

from agent import __version__
from agent.api import problems
from agent.api.problems import Kind
from agent.api.routes import ROUTES, Body, Parameter, Reply, Route
from agent.api.shape import schema_of

_PROBLEM: Mapping[str, Any] = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "properties": {
        "type": {"type": "string", "enum": [kind.type for kind in problems.KINDS.values()]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What it was this time."},
        "hint": {"type": "string", "description": "What to do next."},
        "retryable": {"type": "boolean", "description": "May the same request succeed later?"},
        "problems": {
            "type": "array",
            "description": "Everything that is wrong with the document.",
            "items": {
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "JSON pointer (RFC 6901)."},
                    "message": {"type": "string"},
                    "hint": {"type": "string", "description": "What would be right."},
                },
                "required": ["path", "message", "hint"],
            },
        },
    },
    "required": ["type", "title", "status", "detail", "hint", "retryable"],
}
# What any route may answer with.
_ALWAYS = (problems.BAD_REQUEST, problems.UNEXPECTED)


@functools.cache
def description() -> Mapping[str, Any]:
    """The whole OpenAPI document."""
    from agent.api import console_push

    schemas: dict[str, Any] = {"Problem": _PROBLEM, **console_push.schemas()}
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "sysvm",
            "version": __version__,
            "description": "The control endpoint of a system VM: on the Unix socket "
            "/run/sysvm/control.sock, and over mutual TLS on the control network.",
        },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": route.operation, "summary": route.summary}
    parameters = [
        *(_parameter(part, "path") for part in route.path_parameters),
        *(_parameter(part, "query") for part in route.query),
        *(_parameter(part, "header") for part in route.headers),
    ]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = _body(route.body)
    responses = {str(reply.status): _reply(reply, schemas) for reply in route.replies}
    operation["responses"] = responses | _problems((*_ALWAYS, *route.kinds))
    return operation


def _parameter(parameter: Parameter, where: str) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": where,
        "required": parameter.required,
        "description": parameter.description,
        "schema": parameter.schema,
    }


def _body(body: Body) -> dict[str, Any]:
    return {
        "description": body.description,
        "required": body.required,
        "content": {body.media_type: {"schema": body.schema}},
    }


def _reply(reply: Reply, schemas: dict[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = {"description": reply.description}
    if reply.content is bytes:
        value["content"] = {reply.media_type or "application/octet-stream": {"schema": {}}}
    elif reply.content is not None:
        known = isinstance(reply.content, Mapping)
        schema = reply.content if known else schema_of(reply.content, schemas)
        value["content"] = {reply.media_type or "application/json": {"schema": schema}}
    return value


def _problems(kinds: tuple[Kind, ...]) -> dict[str, Any]:
    """Kinds of one status share a response, for OpenAPI knows no more than one of each."""
    by_status: dict[int, dict[str, str]] = {}
    for kind in kinds:
        by_status.setdefault(kind.status, {})[kind.name] = kind.title
    return {
        str(status): {
            "description": " ".join(f"`{name}`: {title}." for name, title in kinds_of.items()),
            "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, kinds_of in sorted(by_status.items())
    }
