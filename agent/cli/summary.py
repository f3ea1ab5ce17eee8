"""The VM on one screen."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from agent.cli.commands import Commands
from agent.cli.services import RUNNING, SERVICE_TITLES, service_cells
from agent.cli.show import INTERFACE_TITLES, interface_cells
from agent.cli.text import duration, memory, pair, plain, say, table
from agent.cli.wire import Client


def status(client: Client, _: argparse.Namespace) -> Any:
    return client.get("/v1/status"), print_status


def print_status(answer: Mapping[str, Any]) -> None:
    agent = answer["agent"]
    print(f"{plain(answer['hostname'])}  {answer['role'] or 'no role yet'}")
    say(pair("Up", f"{duration(answer['uptime'])}"))
    text = f"{agent['version']}, {memory(agent['memory'])}, up {duration(agent['uptime'])}"
    say(pair("Agent", text))
    say(_running(answer))
    if answer["degraded"]:
        say(pair("DEGRADED", answer["degraded"]))
    if answer["state_problem"]:
        say(pair("STATE", answer["state_problem"]))
    drifted = {True: "YES: sysvmctl drift says how", False: "none", None: "not known"}
    say(pair("Drift", drifted[answer["drift"]]))
    say(pair("Health", _health(answer["health"])))
    say(_last(answer["last"]))
    print("Services")
    shown = [row for row in answer["services"] if row["wanted"] or row["active"] in RUNNING]
    say(table(SERVICE_TITLES, service_cells(shown), "  "))
    print("Interfaces")
    say(table(INTERFACE_TITLES, interface_cells(answer["interfaces"]), "  "))


def _running(answer: Mapping[str, Any]) -> Iterator[str]:
    running = answer["running"]
    if running is None:
        yield from pair("Revision", "none: nothing has been applied yet; sysvmctl apply FILE")
        return
    text = "{revision}, generation {generation}, digest {digest:.12}, ".format(**running)
    yield from pair("Revision", f"{text}{duration(running['age'])} ago ({running['cause']})")
    if answer["provisional"]:
        left = duration(answer["seconds_left"])
        text = f"PROVISIONAL, undone in {left}: sysvmctl confirm {running['revision']}"
        yield from pair("", text)


def _health(health: Mapping[str, Any]) -> str:
    if health["worst"] is None:
        return "not checked yet: sysvmctl check"
    if health["failing"]:
        return f"{health['worst'].upper()}: {', '.join(health['failing'])}; sysvmctl check"
    return "ok"


def _last(last: Mapping[str, Any] | None) -> Iterator[str]:
    if last is None:
        return
    text = f"{last['request']}: {last['result']}"
    detail = f", {last['detail']}" if last["detail"] else ""
    yield from pair("Last", f"{text}{detail} ({last['at']} by {last['client']})")


def add_to(commands: Commands) -> None:
    commands.add("status", status, "the VM on one screen", "status")
