"""What pydantic found wrong, in our words."""

from collections.abc import Iterator

import pydantic

from agent.engine.model import Problem, pointer


def validation_problems(error: pydantic.ValidationError, *prefix: object) -> Iterator[Problem]:
    """Each of an error's details, at its path below `prefix`."""
    for detail in error.errors(include_url=False):
        parts = [part for part in detail["loc"] if part != "[key]"]
        context = detail.get("ctx", {})
        hint = ""
        match detail["type"]:
            case "sysvm":
                message, hint = context["message"], context["hint"]
            case "extra_forbidden" | "unexpected_keyword_argument":
                message = "is not known here"
            case "missing":
                message = "is missing"
            case "string_pattern_mismatch":
                message, hint = "has a form that is not allowed", f"it matches {context['pattern']}"
            case "enum" | "literal_error":
                message = f"is not one of {context['expected']}"
            case _:
                message = detail["msg"][0].lower() + detail["msg"][1:]
        yield Problem(pointer(*prefix, *parts), message, hint)
