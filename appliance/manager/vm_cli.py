"""The commands of `sysvm vm`."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.manager.cli import HERE, Ca, ManagerUrl, Token, client

app = typer.Typer(
    no_args_is_help=True, help="List, push to and watch system VMs, by a manager.",
    rich_markup_mode=None,
)  # fmt: skip
Name = Annotated[str, typer.Argument(help="The VM.")]


@app.command("list")
def list_(
    role: Annotated[str | None, typer.Option(help="Of this role alone.")] = None,
    zone: Annotated[str | None, typer.Option(help="In this zone alone.")] = None,
    manager: ManagerUrl = HERE,
    token: Token = "",
    ca: Ca = None,
) -> None:
    """List VMs with their health and what they run."""
    asked, after = client(manager, token, ca), ""
    while True:
        found = asked.ask("GET", "/v1/vms", after=after, role=role, zone=zone, limit=1000)
        for one in found:
            typer.echo(_line(one))
        if len(found) < 1000:
            return
        after = found[-1]["name"]


def _line(one: dict[str, Any]) -> str:
    runs = f"{_number(one['running'])}/{_number(one['generation'])}"
    upgrade = "requires upgrade" if one["requires_upgrade"] else ""
    return (
        f"{one['name']:20}  {one['role']:14}  {one['zone']:10}  {one['health'] or '-':8}  "
        f"{runs:9}  {one['agent_version'] or '-':8}  {upgrade}"
    ).rstrip()


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


@app.command()
def show(name: Name, manager: ManagerUrl = HERE, token: Token = "", ca: Ca = None) -> None:
    """Show what is known of a VM."""
    answer = client(manager, token, ca).ask("POST", f"/v1/vms/{name}/look")
    for field, value in answer.items():
        typer.echo(f"{field.replace('_', ' '):18}{'-' if value in (None, '') else value}")


@app.command()
def push(
    name: Name,
    document: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The document.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask what would change.")] = False,
    force: Annotated[bool, typer.Option("--force", help="However old its agent is.")] = False,
    manager: ManagerUrl = HERE,
    token: Token = "",
    ca: Ca = None,
) -> None:
    """Push a document to a VM, and keep it."""
    answer = client(manager, token, ca).ask(
        "PUT",
        f"/v1/vms/{name}/document",
        data=document.read_bytes(),
        dry_run=dry_run,
        force=force,
    )
    _say(answer)


@app.command()
def recreate(
    name: Name,
    within: Annotated[int, typer.Option(min=0, max=300, help="Seconds to wait for it.")] = 120,
    manager: ManagerUrl = HERE,
    token: Token = "",
    ca: Ca = None,
) -> None:
    """Push the last document again to a VM that was made anew."""
    _say(client(manager, token, ca).ask("POST", f"/v1/vms/{name}/recreate", within=within))


def _say(answer: dict[str, Any]) -> None:
    numbers = f"revision {_number(answer['revision'])}, generation {answer['generation']}"
    typer.echo(f"{answer['vm']}: {answer['result']}, {numbers}")


@app.command()
def events(
    name: Annotated[str | None, typer.Argument(help="Of this VM alone.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on.")] = False,
    limit: Annotated[int, typer.Option("-n", min=1, max=1000, help="How many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, one in a line.")] = False,
    manager: ManagerUrl = HERE,
    token: Token = "",
    ca: Ca = None,
) -> None:
    """Show the last events, and those that come."""
    asked = client(manager, token, ca)
    found = asked.ask("GET", "/v1/events", vm=name, limit=limit)
    last = 0
    while True:
        for one in found:
            last = one["id"]
            line = f"{one['time']}  {one['severity']:8}  {one['vm'] or 'manager':16}  "
            typer.echo(json.dumps(one) if as_json else f"{line}{one['kind']}: {one['message']}")
        if not follow:
            return
        if not found:
            time.sleep(1)
        found = asked.ask("GET", "/v1/events", vm=name, after=last, wait=30)
