"""A console session as it is pushed.

Sessions are no part of the document: each is there for a minute or a few hours, and its
credentials are kept nowhere but in the proxy's memory. What is pushed is checked here by the same
types that a document is made of; the proxy itself is told only what has passed.
"""

import functools
from collections.abc import Mapping
from typing import Any

import pydantic
from pydantic import TypeAdapter

from agent.api import problems
from agent.api.problems import Refusal
from agent.document import json as strict_json
from agent.document.console_session import ConsoleSession, lint
from agent.document.problems import validation_problems


@functools.cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(ConsoleSession)


def schemas() -> Mapping[str, Any]:
    """The JSON Schemas of what is pushed, by name, as OpenAPI has them."""
    whole = _adapter().json_schema(ref_template="#/components/schemas/{model}")
    parts: dict[str, Any] = whole.pop("$defs", {})
    return {**parts, "ConsoleSession": whole}


def session(name: str, body: bytes) -> dict[str, Any]:
    """What the proxy is told of this push. Raises Refusal with every problem."""
    try:
        value = strict_json.loads(body)
        given = _adapter().validate_python(value)
    except strict_json.NotJson as error:
        raise Refusal(problems.NOT_JSON, error.problem.message) from error
    except pydantic.ValidationError as error:
        found = tuple(sorted(set(validation_problems(error, value))))
        raise Refusal(problems.SESSION_REFUSED, problems.count(found), problems=found) from error
    wrong = tuple(lint(given))
    if wrong:
        raise Refusal(problems.SESSION_REFUSED, problems.count(wrong), problems=wrong)
    plain: dict[str, Any] = _adapter().dump_python(given, mode="json", exclude_none=True)
    return plain | {"id": name, "title": given.title or given.vm}
