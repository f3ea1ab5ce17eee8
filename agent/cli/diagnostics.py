"""Diagnostics: try something from this VM, and watch what comes of it."""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from agent.cli.commands import Commands
from agent.cli.text import plain
from agent.cli.wire import Client, Unusable

LONGEST = 300  # seconds


def attempt(client: Client, options: argparse.Namespace) -> Any:
    """Run a tool in the VM; what it says is printed as it says it."""
    request = {"target": options.target, "arguments": " ".join(options.arguments)}
    if options.family:
        request["family"] = options.family
    if options.seconds:
        request["seconds"] = options.seconds
    path, body = f"/v1/diagnostics/{options.tool}", json.dumps(request).encode()
    if options.json:
        return json.loads(client.send("POST", path, body)[0]), print
    with client.stream("POST", f"{path}?live=1", body) as response:
        try:
            for line in response:
                value = json.loads(line)
                if "reason" in value:
                    return value, print_end
                if "text" in value:
                    _echo(value["text"], sys.stderr if value["stream"] == "stderr" else sys.stdout)
        except KeyboardInterrupt:
            end = {"exit": None, "reason": "interrupted, and ended there as well"}
            return end, print_end
    raise Unusable("it broke off", path, "sysvmctl logs sysvm-agent has why")


def _echo(text: str, stream: TextIO) -> None:
    """What a tool says, line by line: names in it may be anybody's."""
    stream.write("\n".join(map(plain, text.split("\n"))))
    stream.flush()


def print_end(end: Mapping[str, Any]) -> None:
    """How it ended, where that is not seen."""
    if end["reason"] != "exited":
        print(f"sysvmctl: ended: {end['reason']}", file=sys.stderr)


def _seconds(text: str) -> int:
    value = int(text)
    if not 1 <= value <= LONGEST:
        raise argparse.ArgumentTypeError(f"from 1 to {LONGEST} seconds")
    return value


def add_to(commands: Commands) -> None:
    diag = commands.group("diag", "try something from this VM")
    for name, tool, text, examples in (
        (
            "ping",
            "ping",
            "does an address or a name answer",
            ("diag ping 10.1.1.10", "diag ping 10.1.1.10 -- -c 3 -s 1472 -M do"),
        ),
        (
            "trace",
            "traceroute",
            "which routers are on the way",
            ("diag trace 8.8.8.8", "diag trace vm1.example -- -n -T -p 443"),
        ),
        (
            "arping",
            "arping",
            "does a neighbour answer, below IP",
            ("diag arping 10.1.1.10", "diag arping 192.0.2.1 -- -I eth1 -c 2"),
        ),
    ):
        parser = diag.add(name, attempt, text, *examples)
        parser.set_defaults(tool=tool)
        parser.add_argument("target", metavar="TARGET", help="an IP address, or a name")
        parser.add_argument("arguments", nargs="*", metavar="OPTION", help=f"{tool}'s, after --")
        version = parser.add_mutually_exclusive_group()
        for family in (4, 6):
            version.add_argument(
                f"-{family}",
                dest="family",
                action="store_const",
                const=family,
                help=f"by IPv{family}",
            )
        parser.add_argument(
            "--seconds", type=_seconds, metavar="S", help="end it after S seconds; default 60"
        )
