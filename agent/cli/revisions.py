"""What has been: revisions and how their documents differ."""

import argparse
import json
from collections.abc import Mapping
from typing import Any

from agent.cli.commands import Commands, revision_number
from agent.cli.text import duration, plain, say, table
from agent.cli.wire import Client, Unusable


def history(client: Client, _: argparse.Namespace) -> Any:
    return client.get("/v1/revisions"), print_history


def print_history(answer: Mapping[str, Any]) -> None:
    rows = [
        (
            row["revision"],
            row["state"],
            row["generation"],
            row["digest"][:12],
            f"{duration(row['age'])} ago",
            row["cause"] + (f" to {row['origin']}" if row["origin"] is not None else ""),
        )
        for row in answer["revisions"]
    ]
    say(table((">REVISION", "STATE", ">GENERATION", "DIGEST", "WHEN", "CAUSE"), rows))


def diff(client: Client, options: argparse.Namespace) -> Any:
    import difflib

    old, new = _two_revisions(client, options.a, options.b)
    texts = [
        json.dumps(client.get(f"/v1/revisions/{n}")["document"], indent=2, sort_keys=True)
        for n in (old, new)
    ]
    lines = list(
        difflib.unified_diff(
            texts[0].splitlines(),
            texts[1].splitlines(),
            f"revision {old}",
            f"revision {new}",
            lineterm="",
        )
    )
    answer = {"from": old, "to": new, "diff": lines}
    return answer, lambda a: say(map(plain, a["diff"] or ["the documents are the same"]))


def _two_revisions(client: Client, old: int | None, new: int | None) -> tuple[int, int]:
    """The revisions to compare: the one before and the one that runs, where none are named."""
    if old is not None and new is not None:
        return old, new
    answer = client.get("/v1/revisions")
    current = answer["current"]
    if current is None:
        raise Unusable("no document has been applied yet", "diff", "sysvmctl apply FILE")
    if old is not None:
        return old, current
    earlier = [r["revision"] for r in answer["revisions"] if r["revision"] < current]
    if not earlier:
        raise Unusable("there is no earlier revision", "diff", "sysvmctl history lists them")
    return max(earlier), current


def add_to(commands: Commands) -> None:
    commands.add("history", history, "the revisions that are kept", "history")
    parser = commands.add("diff", diff, "how the documents of two revisions differ", "diff 4 7")
    parser.add_argument("a", nargs="?", type=revision_number, help="default: the one before")
    parser.add_argument("b", nargs="?", type=revision_number, help="default: the one that runs")
