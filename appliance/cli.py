"""`sysvm`: everything outside the VM."""

import json
import sys
from typing import Annotated

import typer
from rich.console import Console

from agent.system.run import CommandFailed
from appliance.cert.cli import app as cert
from appliance.errors import ApplianceError
from appliance.image.cli import app as image
from appliance.lab.cli import app as lab
from appliance.manager.cli import app as manager
from appliance.manager.cli import console
from appliance.manager.vm_cli import app as vm

app = typer.Typer(
    no_args_is_help=True,
    help="Build system VMs, try them in a lab, and drive them.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(lab, name="lab", help=lab.info.help)
app.add_typer(image, name="image", help=image.info.help)
app.add_typer(cert, name="cert", help=cert.info.help)
app.add_typer(manager, name="manager", help=manager.info.help)
app.add_typer(console, name="console", help=console.info.help)
app.add_typer(vm, name="vm", help=vm.info.help)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a document."""
    from agent.document.document import schema as document_schema

    json.dump(document_schema(), sys.stdout, indent=2)
    sys.stdout.write("\n")


@app.command()
def demo(
    name: Annotated[str, typer.Option("--name", "-n", help="The lab's name.")] = "demo",
    down: Annotated[
        bool, typer.Option("--down/--keep", help="Take the lab down at the end.")
    ] = False,
) -> None:
    """Boot a small cloud, push a document to it, and show everything working.

    A lab of that name is taken down first.
    """
    from appliance import demo as demonstration

    if not demonstration.run(name, Console(highlight=False), down=down):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; what went wrong is said in a line or two."""
    try:
        app()
    except ApplianceError as error:
        _say(error.what, error.hint)
    except CommandFailed as error:
        _say(str(error), "")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in {"", "agent", "appliance"}:
            raise  # ours
        _say(
            f"{missing} is not installed",
            "in the checkout, pip install '.[host,manager]' brings all there is",
        )


def _say(what: str, hint: str) -> None:
    console = Console(stderr=True, highlight=False)
    console.print(f"sysvm: {what}", style="red", markup=False)
    if hint:
        console.print(f"  {hint}", markup=False)
    raise SystemExit(1)
