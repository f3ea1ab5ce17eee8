"""The health checks, run now."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.cli.commands import Commands
from agent.cli.text import hang, say, table
from agent.cli.wire import OK, SAID_NO, Client, quoted

_ILL = frozenset({"failed", "warning"})


def check(client: Client, options: argparse.Namespace) -> Any:
    query = [f"level={options.level}"] if options.level else []
    query += [f"name={quoted(options.name)}"] if options.name else []
    path = "/v1/health/run" + (f"?{'&'.join(query)}" if query else "")
    return json.loads(client.send("POST", path, b"")[0]), print_checks


def print_checks(results: Sequence[Mapping[str, Any]]) -> None:
    """A line for each check; below, all that those say which are not well."""
    cells = [(one["name"], one["level"], _word(one["verdict"]), one["message"]) for one in results]
    say(table(("CHECK", "LEVEL", "VERDICT", "WHAT IT FOUND"), cells))
    say(line for one in results if one["verdict"] in _ILL for line in _details(one))


def _word(verdict: str) -> str:
    return verdict.upper() if verdict in _ILL else verdict


def _details(one: Mapping[str, Any]) -> Iterator[str]:
    if one["missing"] or one["path"]:
        yield from hang(f"{one['name']}: ", f"see {one['path']}" if one["path"] else "misses")
    for item in one["missing"]:
        yield from hang("  - ", item)


def code(results: Sequence[Mapping[str, Any]]) -> int:
    """1 where a check failed; a warning serves yet."""
    return SAID_NO if any(one["verdict"] == "failed" for one in results) else OK


def add_to(commands: Commands) -> None:
    parser = commands.add(
        "check",
        check,
        "run the health checks now, and say what they found",
        "check",
        "check advanced",
        "check --name dns",
    )
    parser.add_argument("level", nargs="?", choices=("basic", "advanced"), help="default: both")
    parser.add_argument("--name", help="only the check of this name")
    parser.set_defaults(code=code)
