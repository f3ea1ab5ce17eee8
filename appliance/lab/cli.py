"""`sysvm lab`: boot a cloud, look around in it, push to it, take it down."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from agent.system.run import ENVIRONMENT
from appliance import blobs
from appliance.errors import ApplianceError
from appliance.lab import cloud, state
from appliance.lab.cloud import DEFAULT, Lab
from appliance.lab.http import Response
from appliance.lab.topologies import CONSOLE, TOPOLOGIES

app = typer.Typer(no_args_is_help=True, help=__doc__, rich_markup_mode=None)
console = Console(highlight=False)

Name = Annotated[str, typer.Option("--name", "-n", help="Which lab; several can be up at once.")]
Vm = Annotated[str, typer.Argument(help="Which system VM.")]


@app.command()
def up(
    name: Name = DEFAULT,
    topology: Annotated[
        str, typer.Option(help=f"What to boot: {', '.join(TOPOLOGIES)}.")
    ] = "router",
    fault: Annotated[
        str | None, typer.Option(help="Where the agent is to fail on purpose, for tests.")
    ] = None,
) -> None:
    """Boot a lab: the system VM from its real root file system, guests, internet, management.

    The first run builds the root file system (a minute or two); later ones take a second.
    """
    lab = Lab.up(topology, name=name, fault=fault, console=console)
    _ready(lab)
    suffix = "" if name == DEFAULT else f" --name {name}"
    if topology == CONSOLE.name:
        from appliance.lab import estate

        try:
            estate.start(lab, here=True)
        except BaseException:
            lab.down()
            raise
    console.print(f"lab {name} is up: {', '.join([*lab.vms, *lab.nodes])}")
    if topology == CONSOLE.name:
        _tell_manager(lab)
        console.print(
            "sysvm console open vm1          a guest's screen, in a browser; or its link:"
        )
        console.print(_link(lab, "vm1"), markup=False, soft_wrap=True)
    else:
        example = f"examples/{lab.vm.spec.role}.json"
        console.print(f"  push a document   sysvm lab push{suffix} {example}")
    if lab.hypervisors and topology != CONSOLE.name:
        console.print(f"  a guest's screen  sysvm lab console{suffix} {next(iter(lab.guests))}")
    console.print(f"  look around       sysvm lab shell{suffix} {next(iter(lab.vms))}")
    console.print(f"  take it down      sysvm lab down{suffix}")


@app.command()
def down(
    name: Name = DEFAULT,
    everything: Annotated[bool, typer.Option("--all", help="Every lab of this machine.")] = False,
) -> None:
    """Take a lab down, however little of it is up; nothing of it stays behind."""
    if not everything and name not in state.names():
        Lab.find(name)
    busy = None
    for one in list(state.names()) if everything else [name]:
        try:
            cloud.down(one)
        except ApplianceError as error:  # somebody brings it up or down: the others first
            busy = error
            continue
        console.print(f"lab {one} is down")
    if busy is not None:
        raise busy


@app.command()
def status() -> None:
    """Show the labs of this machine and what their VMs say of themselves."""
    labs = Lab.all()
    if not list(state.names()):
        console.print("no lab is up; `sysvm lab up` boots one")
        return
    table = Table("lab", "node", "is", "boots", "document", box=None, pad_edge=False)
    for lab in labs:
        for vm in lab.vms.values():
            power = "running" if vm.running else "off"
            told = _document(lab, vm.name) if vm.running else ""
            table.add_row(lab.name, vm.name, power, str(vm.status.boots), told)
        for node in lab.nodes.values():
            argv = ["ip", "-brief", "-4", "address", "show", "scope", "global"]
            addresses = node.run(argv, check=False)  # of a lab that comes up some nodes are missing
            found = [line.split()[2:] for line in addresses.text.splitlines()]
            shown = " ".join(address for entry in found for address in entry)
            table.add_row(lab.name, node.name, shown or "no address", "", "")
        for what, condition, load in _manager_rows(lab):
            table.add_row(lab.name, what, condition, "", load)
    for name in state.names():
        if name not in {lab.name for lab in labs}:
            table.add_row(name, "", "half made, or another version's", "", "")
    console.print(table)


@app.command()
def shell(
    node: Annotated[
        str, typer.Argument(help="vm, vm1, internet, management … (`sysvm lab status`).")
    ] = "vm",
    name: Name = DEFAULT,
) -> None:
    """Open a shell in a system VM, a guest, the internet or management."""
    lab = Lab.find(name)
    inside = lab.vms.get(node) or lab.nodes.get(node)
    if inside is None:
        raise ApplianceError(
            f"no {node} in lab {name}", f"one of {', '.join([*lab.vms, *lab.nodes])}"
        )
    argv = inside.argv(["bash"])
    prompt = {"PS1": f"{name}:{node} \\w# ", "TERM": os.environ.get("TERM", "linux")}
    os.execvpe(argv[0], argv, {**ENVIRONMENT, "HOME": "/root", **prompt})  # noqa: S606


@app.command()
def push(
    file: Annotated[Path, typer.Argument(help="The document, JSON.", exists=True, dir_okay=False)],
    name: Name = DEFAULT,
    confirm_within: Annotated[
        int | None,
        typer.Option(help="Undo it unless it is confirmed within so many seconds."),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only show what would be done.")] = False,
    again: Annotated[
        bool,
        typer.Option("--next", help="Push with the next generation, whatever the file says."),
    ] = False,
    blob: Annotated[
        list[Path] | None, typer.Option(help="A file that the document names by its SHA-256.")
    ] = None,
) -> None:
    """Push a document as management does: over mutual TLS, from the control network.

    Files beside it that it names by their SHA-256 are uploaded before it.
    """
    lab = Lab.find(name)
    for path in (*(blob or ()), *blobs.beside(file)):
        lab.manager.upload(path.read_bytes())
    body = file.read_bytes()
    if again:
        document = json.loads(body)
        # After a rollback the document that runs is not the newest one that has been.
        known = lab.manager.request("GET", "/v1/revisions").json()["revisions"]
        before = max((revision["generation"] for revision in known), default=0)
        body = json.dumps({**document, "generation": before + 1}).encode()
    answer = lab.manager.push(body, dry_run=dry_run, confirm_within=confirm_within)
    explain(answer)
    if answer.status >= 400:
        raise typer.Exit(1)


@app.command()
def manage(name: Name = DEFAULT) -> None:
    """Start a manager in a lab, that knows its VMs, or find it; say how to reach it from here."""
    from appliance.lab import managed

    lab = Lab.find(name)
    managed.start(lab)
    _tell_manager(lab)


@app.command("console")
def show_console(
    guest: Annotated[str, typer.Argument(help="Whose screen.")] = "vm1", name: Name = DEFAULT
) -> None:
    """Show a guest's screen: print a link that opens once, for a browser on this machine.

    The lab has a console proxy (topologies proxy and demo); it gets examples/console-proxy.json
    and a certificate of the lab's own, which the browser has to be told to believe. In one of
    topology console, the manager is asked.
    """
    from appliance.lab import consoles

    lab = Lab.find(name)
    managed_here = lab.topology.name == CONSOLE.name
    url = _link(lab, guest) if managed_here else consoles.show(lab, guest).url
    console.print(url, markup=False, soft_wrap=True)


@app.command()
def reload(name: Name = DEFAULT) -> None:
    """Install the agent as it is in the source tree into the running VMs, and restart it."""
    lab = Lab.find(name)
    for vm in lab.vms.values():
        vm.reload()
    _ready(lab)
    console.print(f"lab {name} runs the agent as it is in the source tree")


@app.command()
def reboot(vm: Vm = "vm", name: Name = DEFAULT) -> None:
    """Restart a system VM in an orderly way."""
    _vm(name, vm).reboot()
    console.print(f"{vm} is up again")


@app.command("pull-plug")
def pull_plug(vm: Vm = "vm", name: Name = DEFAULT) -> None:
    """Switch a system VM off in the middle of whatever it does."""
    _vm(name, vm).pull_plug()
    console.print(f"{vm} is off; `sysvm lab start` switches it on again")


@app.command()
def start(vm: Vm = "vm", name: Name = DEFAULT) -> None:
    """Switch a system VM on again."""
    _vm(name, vm).start()
    console.print(f"{vm} is up")


def explain(answer: Response) -> None:
    """Print what the agent answered to a change, for a person."""
    value: dict[str, Any] = answer.json() if answer.body else {}
    if answer.status >= 400:
        console.print(f"[red]{value.get('title', 'refused')}[/red]", f"(HTTP {answer.status})")
        problems = value.get("problems", [])
        if not problems and value.get("detail"):
            console.print(f"  {value['detail']}", markup=False)
        for problem in problems:
            console.print(f"  {problem['path'] or '/'}: {problem['message']}", markup=False)
            if problem["hint"]:
                console.print(f"      {problem['hint']}", markup=False)
        if value.get("hint"):
            console.print(value["hint"], markup=False)
        return
    if "result" in value:
        console.print(
            f"[green]{value['result']}[/green]: revision {value['revision']}, generation "
            f"{value['generation']}, {value['duration_ms']} ms"
        )
    plan = value.get("plan", [])
    for line in plan:
        console.print(f"  {line}", markup=False)
    if not plan and value.get("result") != "unchanged":
        console.print("  nothing to do")
    for warning in value.get("warnings", []):
        console.print(f"[yellow]{warning}[/yellow]")
    if value.get("confirm"):
        console.print(f"confirm it until {value['deadline']}: sysvmctl confirm")


def _tell_manager(lab: Lab) -> None:
    """How to reach its manager from here."""
    from appliance.lab import managed

    made = managed.find(lab)
    if made is None:
        return
    url = f"http://127.0.0.1:{made.port}"
    console.print(f"the manager of lab {lab.name}: {url}/", markup=False)
    console.print(f"export SYSVM_MANAGER={url}", markup=False, soft_wrap=True)
    console.print(f"export SYSVM_TOKEN={made.tokens['operate']}", markup=False, soft_wrap=True)


def _link(lab: Lab, guest: str) -> str:
    from appliance.lab import managed

    made = managed.start(lab)
    asked = {"vm": guest, "valid": 600}
    return str(made.must("POST", "/v1/console-sessions", asked, role="operate")["link"])


def _manager_rows(lab: Lab) -> Iterator[tuple[str, str, str]]:
    """Its manager, and what that says of its proxies: name, condition, sessions."""
    from appliance.lab import managed

    made = managed.find(lab)
    if made is None:
        return
    yield "manager", f"http://127.0.0.1:{made.port}/", ""
    try:
        proxies = made.must("GET", "/v1/proxies")
    except (OSError, ApplianceError):
        yield "", "does not answer", ""
        return
    for one in proxies:
        yield one["name"], f"proxy, {one['condition']}", f"{one['load']} sessions"


def _ready(lab: Lab) -> None:
    for vm in lab.vms.values():
        vm.wait_ready()


def _vm(name: str, vm: str) -> Any:
    lab = Lab.find(name)
    if vm not in lab.vms:
        raise ApplianceError(f"no system VM {vm} in lab {name}", f"one of {', '.join(lab.vms)}")
    return lab.vms[vm]


def _document(lab: Lab, vm: str) -> str:
    try:
        answer = lab.vms[vm].request("GET", "/v1/status", timeout=5)
    except OSError:
        return "the agent does not answer"
    value = answer.json()
    if answer.status >= 400:
        return str(value.get("title"))
    running = value.get("running")
    if running is None:
        return "none yet"
    told = f"revision {running['revision']}, generation {running['generation']}, {running['state']}"
    return f"{told}, DEGRADED" if value.get("degraded") else told
