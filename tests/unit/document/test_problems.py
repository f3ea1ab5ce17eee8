"""What is wrong with a document is told in JSON's words, at a place that is in the document."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.document.document import InvalidDocument, parse

EXAMPLE = json.loads((Path(__file__).parents[3] / "examples/router.json").read_text())
WRONG: tuple[Any, ...] = (None, [], {}, "", "x", 5, True, 1.5, -1, 2**70, ["x"], [None], {"x": 1})
PYTHON = ("dict", "tuple", "instance", "integer", "unable", "validation")


def places(value: Any, *above: Any) -> Iterator[tuple[Any, ...]]:
    """Every member of every object and list."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*above, key)
        if isinstance(inner, dict | list):
            yield from places(inner, *above, key)


def broken(place: tuple[Any, ...], value: Any) -> Any:
    document = copy.deepcopy(EXAMPLE)
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return document


def found(document: Any) -> dict[str, tuple[str, str]]:
    with pytest.raises(InvalidDocument) as error:
        parse(json.dumps(document).encode())
    problems = error.value.problems
    assert len({p.path for p in problems}) == len(problems)
    return {p.path: (p.message, p.hint) for p in problems}


def is_in(path: str, document: Any) -> bool:
    """Whether a JSON pointer (RFC 6901) leads to something, or to what is missing in something."""
    keys = [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]
    for number, key in enumerate(keys, 1):
        if isinstance(document, list):
            document = document[int(key)]
        elif key in document:
            document = document[key]
        else:
            return number == len(keys)
    return True


@pytest.mark.parametrize(
    "place", list(places(EXAMPLE)), ids=lambda place: "/".join(map(str, place))
)
def test_every_wrong_value_is_told_where_it_is_and_in_words_of_json(place: tuple[Any, ...]) -> None:
    for value in WRONG:
        document = broken(place, value)
        try:
            parse(json.dumps(document).encode())
        except InvalidDocument as error:
            for problem in error.problems:
                assert is_in(problem.path, document), problem
                assert not any(word in problem.message for word in PYTHON), problem


def test_null_is_no_way_to_leave_something_out() -> None:
    hint = "null is a value, too: leave out what is not wanted"
    for place in (("dhcp_dns",), ("nat", "forwards"), ("nat", "forwards", "web")):
        path = "/" + "/".join(place)
        assert found(broken(place, None)) == {path: ("is not an object", hint)}


def test_value_of_several_forms_that_has_none_is_one_problem() -> None:
    place = ("dhcp_dns", "ranges", "visitors", "lease_seconds")
    path = "/" + "/".join(place)
    assert found(broken(place, "long")) == {
        path: ("is not a whole number, and is not one of 'infinite'", "")
    }
    assert found(broken(place, 5))[path][0].startswith("input should be greater than or equal to")
