"""Events: what has happened on this VM, and what happens."""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent.cli.commands import Commands, number
from agent.cli.text import hang, plain, say
from agent.cli.wire import Client, SaidNo, Unusable, quoted

SEVERITIES = ("info", "warning", "alert", "critical")
WAIT = 30  # seconds that the agent is asked to wait for an event
PATIENCE = 2.0  # seconds, where the agent is just not there


def lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        moment = row["time"][:19].replace("T", " ")
        yield plain(f"{moment}  {row['severity']:<8}  {row['kind']}  #{row['seq']}")
        yield from hang("    ", row["message"])


def events(client: Client, options: argparse.Namespace) -> Any:
    query = f"severity={options.severity}"
    begin = f"tail={options.lines}" if options.after is None else f"after={options.after}"
    answer = _get(client, f"{query}&limit=1000&{begin}")
    if options.follow:
        _follow(client, query, answer, as_json=options.json)
    return answer, lambda a: say(lines(a["events"]) if a["events"] else ["nothing"])


def _get(client: Client, query: str) -> Any:
    return client.get(f"/v1/events?{query}")


def _follow(client: Client, query: str, answer: Any, *, as_json: bool) -> None:
    """Print what comes until somebody interrupts. An agent that starts again is waited for."""
    try:
        while True:
            for row in answer["events"]:
                say([json.dumps(row)] if as_json else lines([row]))
            sys.stdout.flush()
            place = f"stream={quoted(answer['stream'])}&after={answer['next']}"
            try:
                answer = _get(client, f"{query}&{place}&limit=1000&wait={WAIT}")
            except (Unusable, ValueError):
                time.sleep(PATIENCE)
                answer = {**answer, "events": []}
            except SaidNo as error:
                if not error.problem.get("retryable"):
                    raise
                time.sleep(PATIENCE)
                answer = {**answer, "events": []}
    except KeyboardInterrupt:
        raise SystemExit(0) from None


def add_to(commands: Commands) -> None:
    parser = commands.add(
        "events",
        events,
        "what has happened on this VM",
        "events",
        "events -f --severity warning",
        "events --after 120",
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on as more happens")
    parser.add_argument(
        "-n", "--lines", type=number(0, 1000), default=20, help="the last so many; default 20"
    )
    parser.add_argument(
        "--after",
        type=number(0, 2**63 - 1),
        metavar="NUMBER",
        help="those that follow this event's number",
    )
    parser.add_argument(
        "--severity", choices=SEVERITIES, default="info", help="those at least as bad"
    )
