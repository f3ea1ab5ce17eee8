"""What somebody changed by hand."""

import argparse
import json
from collections.abc import Mapping
from typing import Any

from agent.cli.changes import print_plan
from agent.cli.commands import Commands
from agent.cli.text import say, table
from agent.cli.wire import Client


def drift(client: Client, _: argparse.Namespace) -> Any:
    return client.get("/v1/drift"), lambda a: print_plan(a, "none: the VM is what was asked for")


def legacy_rules(client: Client, options: argparse.Namespace) -> Any:
    method = "DELETE" if options.remove else "GET"
    answer = json.loads(client.send(method, "/v1/legacy-rules")[0])
    return answer, lambda a: print_legacy(a, removed=options.remove)


def print_legacy(answer: Mapping[str, Any], *, removed: bool) -> None:
    rules = answer["rules"]
    if not rules:
        print("none")
        return
    rows = [(f"ipv{rule['family']}", rule["table"], rule["rule"]) for rule in rules]
    say(table(("FAMILY", "TABLE", "RULE"), rows))
    print("removed" if removed else "sysvmctl legacy-rules --remove removes them")


def add_to(commands: Commands) -> None:
    commands.add("drift", drift, "how the VM differs from what was asked for", "drift")
    parser = commands.add(
        "legacy-rules",
        legacy_rules,
        "firewall rules that somebody made beside ours, in the legacy tables",
        "legacy-rules --remove",
    )
    parser.add_argument("--remove", action="store_true", help="remove them")
