"""What a route is, and how routes of a kind are made: one constructor for all, by method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent.api.problems import Kind

LONGEST_DOCUMENT = 16 * 1024 * 1024  # bytes

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of the path, the query or the header."""

    name: str
    schema: Schema
    description: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """What a request carries."""

    media_type: str
    schema: Schema
    description: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Reply:
    """A success: its status and what is in it (a type of ours, a JSON Schema, or bytes).

    Of a stream of lines or events, `content` is the type of each, and `media_type` theirs.
    """

    status: int
    description: str
    content: Any = None
    media_type: str | None = None  # by default JSON's, or octet-stream for bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path; `operation` is the name of the function that answers it."""

    method: str
    path: str
    operation: str
    summary: str
    replies: tuple[Reply, ...]
    kinds: tuple[Kind, ...] = ()
    path_parameters: tuple[Parameter, ...] = ()
    query: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    body: Body | None = None
    longest: int = LONGEST_DOCUMENT  # bytes of body
    only_asks: bool = False  # though its method is POST

    @property
    def changes(self) -> bool:
        """Does it change something? Then it leaves a line in the log."""
        return not self.only_asks and self.method not in {"GET", "HEAD"}


# -- constructors --------------------------------------------------------------------------------


def _route(
    method: str,
    path: str,
    operation: str,
    summary: str,
    answer: Any,
    *kinds: Kind,
    **more: Any,
) -> Route:
    """A route; `answer` is a reply, several, or what is in the only one."""
    match answer:
        case Reply():
            replies: tuple[Reply, ...] = (answer,)
        case tuple():
            replies = answer
        case _:
            replies = (Reply(200, "It.", answer),)
    return Route(
        method=method, path=path, operation=operation, summary=summary, replies=replies,
        kinds=kinds, **more,
    )  # fmt: skip


get = partial(_route, "GET")
put = partial(_route, "PUT")
post = partial(_route, "POST")
patch = partial(_route, "PATCH")
delete = partial(_route, "DELETE")


def rows(name: str, row: Any, summary: str, *kinds: Kind) -> Route:
    """A table, of those that `sysvmctl show` has."""
    reply = Reply(200, "Rows.", tuple[row, ...])
    return get(f"/v1/show/{name}", f"show_{name.replace('-', '_')}", summary, reply, *kinds)


# -- what a request may have -----------------------------------------------------------------------


def members(
    description: str,
    properties: Mapping[str, Schema],
    *,
    needed: Sequence[str] = (),
    required: bool = True,
) -> Body:
    """A body that is an object with these members and no other."""
    return Body("application/json", closed(properties, needed), description, required=required)


def closed(properties: Mapping[str, Schema], needed: Sequence[str] = ()) -> Schema:
    """The schema of such an object."""
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": list(needed)} if needed else schema


def integer(least: int, most: int | None = None, **more: Any) -> Schema:
    """The schema of a whole number."""
    bounds = {"minimum": least} if most is None else {"minimum": least, "maximum": most}
    return {"type": "integer", **bounds, **more}


FLAG: Schema = {"type": "string", "enum": ["0", "1", "false", "true"], "default": "0"}
