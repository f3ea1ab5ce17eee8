"""What pydantic found wrong, in our words and at a place that is in what was pushed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pydantic

from agent.engine.model import Problem, pointer

# Its words for a wrong type are Python's; those who push know JSON's.
_NOT = {
    "dict_type": "an object",
    "mapping_type": "an object",
    "model_type": "an object",
    "dataclass_type": "an object",
    "list_type": "a list",
    "tuple_type": "a list",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "a string",
    "bool_type": "true or false",
}


def validation_problems(
    error: pydantic.ValidationError, value: object, *prefix: object
) -> Iterator[Problem]:
    """Each thing that is wrong with `value`, which is found at `prefix`.

    Where one of several forms is allowed, that none of them fits is one problem.
    """
    forms: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False):
        parts, of_several = _place(detail["loc"], value, missing=detail["type"] == "missing")
        path, (message, hint) = pointer(*prefix, *parts), _words(detail)
        if of_several:
            forms.setdefault(path, []).append(message)
        else:
            yield Problem(path, message, hint)
    for path, messages in forms.items():
        yield Problem(path, ", and ".join(dict.fromkeys(messages)))


def _place(loc: Sequence[int | str], value: Any, *, missing: bool) -> tuple[list[int | str], bool]:
    """Where in `value` this is: pydantic also names which of several forms it tried there."""
    parts: list[int | str] = []
    of_several = False
    for number, part in enumerate(loc, 1):
        if part == "[key]":
            continue
        if isinstance(value, Mapping) and part in value:
            value = value[str(part)]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif not (missing and number == len(loc)):
            of_several = True
            continue
        parts.append(part)
    return parts, of_several


def _words(detail: Any) -> tuple[str, str]:
    """What is wrong, and a hint."""
    context = detail.get("ctx", {})
    kind = detail["type"]
    match kind:
        case "sysvm":
            return context["message"], context["hint"]
        case "extra_forbidden" | "unexpected_keyword_argument":
            return "is not known here", ""
        case "missing":
            return "is missing", ""
        case "string_pattern_mismatch":
            return "has a form that is not allowed", f"it matches {context['pattern']}"
        case "enum" | "literal_error":
            return f"is not one of {context['expected']}", ""
        case "too_short":
            return f"has fewer than {context['min_length']}", ""
        case "too_long":
            return f"has more than {context['max_length']}", ""
    if kind in _NOT:
        null = "null is a value, too: leave out what is not wanted"
        return f"is not {_NOT[kind]}", null if detail["input"] is None else ""
    return detail["msg"][0].lower() + detail["msg"][1:], ""
