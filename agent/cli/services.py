"""The services' units, and what they log."""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from agent.cli.commands import Commands
from agent.cli.text import duration, memory, plain, say, table
from agent.cli.wire import Client, quoted

SERVICE_TITLES = ("UNIT", "STATE", "UP", ">MEMORY", "NOTE")


_SERVICE_NOTES = {
    (True, True): "",
    (True, False): "WANTED, BUT DOWN",
    (False, True): "RUNS, BUT NOT WANTED",
    (False, False): "not wanted",
}


def service_cells(rows: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[object]]:
    for row in rows:
        running = row["active"] in {"active", "reloading", "activating"}
        note = _SERVICE_NOTES[row["wanted"], running]
        uptime = duration(row["uptime"]) if running else "-"
        yield row["unit"], row["active"], uptime, memory(row["memory"]), note


def service_list(client: Client, _: argparse.Namespace) -> Any:
    return client.get("/v1/services"), lambda a: say(table(SERVICE_TITLES, service_cells(a)))


def service_restart(client: Client, options: argparse.Namespace) -> Any:
    answer = client.send("POST", f"/v1/services/{quoted(options.unit)}/restart", b"")[0]
    return json.loads(answer), lambda a: say(table(SERVICE_TITLES, service_cells([a])))


def logs(client: Client, options: argparse.Namespace) -> Any:
    path = f"/v1/services/{quoted(options.unit)}/logs?lines={options.lines}"
    return client.get(path), lambda a: say(map(plain, a["lines"]))


def add_to(commands: Commands) -> None:
    service = commands.group("service", "list or restart the VM's services")
    service.add("list", service_list, "units and how they are", "service list")
    parser = service.add("restart", service_restart, "restart a unit", "service restart dnsmasq")
    parser.add_argument("unit")
    parser = commands.add(
        "logs", logs, "the last lines of a unit's journal", "logs haproxy --lines 20"
    )
    parser.add_argument("unit")
    parser.add_argument("-n", "--lines", type=int, default=100, help="how many; default 100")
