"""The services' units, and what they log."""

import argparse
import getpass
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from agent.cli.commands import Commands, number
from agent.cli.text import duration, memory, plain, say, table
from agent.cli.wire import Client, quoted

RUNNING = frozenset({"active", "reloading", "activating"})
SERVICE_TITLES = ("UNIT", "STATE", "UP", ">MEMORY", "NOTE")


_SERVICE_NOTES = {
    (True, True): "",
    (True, False): "WANTED, BUT DOWN",
    (False, True): "RUNS, BUT NOT WANTED",
    (False, False): "not wanted",
}


def service_cells(rows: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[object]]:
    for row in rows:
        running = row["active"] in RUNNING
        note = _SERVICE_NOTES[row["wanted"], running]
        if row["wanted"]:
            note = service_note(row) or note
        uptime = duration(row["uptime"]) if running else "-"
        yield row["unit"], row["active"], uptime, memory(row["memory"]), note


def service_note(row: Mapping[str, Any]) -> str:
    """What is the matter with a unit that is wanted; empty where nothing is."""
    match row["state"]:
        case "running" | "unknown":
            return "" if row["correct"] is not False else "RUNS WITH OTHER FILES"
        case "held":
            return plain(f"held until {row['held_until']} by {row['held_by']}: {row['held_why']}")
        case "disabled":
            return "not watched: the document says so"
        case "absent":
            return "this image does not have it"
        case "starting":
            return "starting" if row["alive"] else ""
        case state:
            why = f": {row['reason']}" if row["reason"] else ""
            detail = f" ({row['detail']})" if row["detail"] else ""
            return plain(f"{state.upper()}{why}{detail}")


def service_hold(client: Client, options: argparse.Namespace) -> Any:
    body = {"seconds": options.seconds, "reason": options.reason, "by": operator()}
    path = f"/v1/services/{quoted(options.unit)}/hold"
    answer = client.send("POST", path, json.dumps(body).encode())[0]
    return json.loads(answer), lambda a: say(table(SERVICE_TITLES, service_cells([a])))


def service_release(client: Client, options: argparse.Namespace) -> Any:
    path = f"/v1/services/{quoted(options.unit)}/release"
    answer = client.send("POST", path, json.dumps({"by": operator()}).encode())[0]
    return json.loads(answer), lambda a: say(table(SERVICE_TITLES, service_cells([a])))


def operator() -> str:
    """Who is at the prompt: whoever became root, too."""
    return os.environ.get("SUDO_USER") or getpass.getuser()


def seconds(text: str) -> int:
    """A length of time: 90, 90s, 30m, 2h, 1d."""
    match = re.fullmatch(r"(\d{1,6})([smhd]?)", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a length of time such as 30m or 2h")
    return int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def service_list(client: Client, _: argparse.Namespace) -> Any:
    return client.get("/v1/services"), lambda a: say(table(SERVICE_TITLES, service_cells(a)))


def service_restart(client: Client, options: argparse.Namespace) -> Any:
    answer = client.send("POST", f"/v1/services/{quoted(options.unit)}/restart", b"")[0]
    return json.loads(answer), lambda a: say(table(SERVICE_TITLES, service_cells([a])))


def logs(client: Client, options: argparse.Namespace) -> Any:
    path = f"/v1/services/{quoted(options.unit)}/logs?lines={options.lines}"
    return client.get(path), lambda a: say(map(plain, a["lines"]))


def add_to(commands: Commands) -> None:
    service = commands.group("service", "list, restart, hold or release the VM's services")
    service.add("list", service_list, "units and how they are", "service list")
    parser = service.add("restart", service_restart, "restart a unit", "service restart dnsmasq")
    parser.add_argument("unit")
    parser = service.add(
        "hold",
        service_hold,
        "leave a unit alone: no restart, no alert",
        "service hold dnsmasq --for 30m --reason upgrade",
    )
    parser.add_argument("unit")
    parser.add_argument(
        "--for", dest="seconds", type=seconds, required=True, metavar="TIME", help="such as 30m"
    )
    parser.add_argument("--reason", required=True, help="why, for who comes after")
    parser = service.add("release", service_release, "end a hold", "service release dnsmasq")
    parser.add_argument("unit")
    parser = commands.add(
        "logs", logs, "the last lines of a unit's journal", "logs haproxy --lines 20"
    )
    parser.add_argument("unit")
    parser.add_argument(
        "-n", "--lines", type=number(1, 10_000), default=100, help="how many; default 100"
    )
