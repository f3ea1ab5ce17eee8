"""`sysvm image`: build the template."""

from typing import Annotated

import typer
from rich.console import Console

from appliance.image import rootfs, wheels

app = typer.Typer(no_args_is_help=True, help=__doc__, rich_markup_mode=None)
console = Console(highlight=False)


@app.command("rootfs")
def build_rootfs(
    fresh: Annotated[bool, typer.Option(help="Ask Debian's archive for newer packages.")] = False,
) -> None:
    """Build the root file system that the lab boots and the image contains.

    Its layers (packages, Python environment, agent) are kept in SYSVM_CACHE, /var/cache/sysvm by
    default, under the hash of what they are made from. SYSVM_MIRROR and SYSVM_SECURITY_MIRROR
    name other Debian mirrors.
    """
    layers = rootfs.layers(fresh=fresh, console=console)
    for path in reversed(layers.lowers):
        console.print(str(path), markup=False)


@app.command()
def lock() -> None:
    """Pin the newest versions of the agent's Python packages that the list of them allows.

    Writes image-recipes/python.lock: every version and hash, dependencies included.
    """
    for pin in wheels.refresh_lock():
        console.print(pin)
