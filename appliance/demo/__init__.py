"""`sysvm demo`: a small cloud, and everything that its VMs do, tried before one's eyes.

Nothing is narrated. Each line says what was done, what came and how long it took, and what came
is compared with what should have come: the first difference ends the demo. What it tells is
data (`CHAPTERS`); each trial is a function from the cloud to the words for what came.
"""

import contextlib
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from appliance.demo import router, screen, watch
from appliance.demo.telling import Chapter, Cloud, tell
from appliance.lab import Lab, state

__all__ = ["CHAPTERS", "DEFAULT", "run"]

DEFAULT = "demo"

PICTURE = """
   vm1 --+                 +--------+
         +-- 10.1.1.0/24 --+ r-1-vm +-- 203.0.113.0/24 --+-- internet
   vm2 --+                 +---+----+                    |
                               |                     +---+----+
                           management, by mutual TLS-+ v-2-vm +-- kvm
                                                     +--------+"""

CHAPTERS: tuple[Chapter, ...] = (
    *router.SERVES,
    *watch.WATCHES,
    *router.COMES_BACK,
    *screen.SHOWS,
)


def run(name: str, console: Console, *, down: bool = False) -> bool:
    """Show all of it on a lab of this name, booted anew. Whether all went as it should."""
    console.print(PICTURE, markup=False)
    began = time.monotonic()
    cloud = Cloud(name, console)
    well = tell(CHAPTERS, cloud)
    seconds = time.monotonic() - began
    if down and name in state.names():
        cloud.lab.down()
    console.print()
    if well:
        count = sum(len(chapter.trials) for chapter in CHAPTERS)
        console.print(f"All {count} went as they should, in {seconds:.0f} s.", style="green")
    if name in state.names():
        for line in around(cloud.lab, well=well, link=cloud.link):
            console.print(line, markup=False, soft_wrap=True)
    elif not well:
        console.print("Run it again with --keep to look around in what it leaves.")
    return well


def around(lab: Lab, *, well: bool, link: str = "") -> Iterator[str]:
    """How to look around in what the demo leaves, and how to take it down."""
    program = shlex.quote(_program())
    name = f"--name {lab.name}"
    vm = next(iter(lab.vms))
    if not well:
        yield f"The lab {lab.name} is as it was when that failed. Look at what its VM says:"
        yield f"  {program} lab shell {name} {vm}"
        yield "  sysvmctl status; journalctl -b -n 50"
    else:
        manager = lab.manager
        inside = shlex.join(manager.argv(["curl"]))
        yield f"The lab {lab.name} stays up. Look around in the VM (sysvmctl status, show rules):"
        yield f"  {program} lab shell {name} {vm}"
        yield "and as a guest (curl http://www.example.test/):"
        yield f"  {program} lab shell {name} {next(iter(lab.guests))}"
        yield "Push a document, or ask as management does:"
        yield f"  {program} lab push {name} --next examples/router.json"
        yield f"  (cd {manager.keys_folder}; {inside} \\"
        yield "    --cacert ca.pem --cert manager.pem --key manager.key \\"
        yield f"    https://{manager.vm_address}:{manager.vm_port}/v1/status)"
        yield "See vm1's screen in a browser on this machine, which has to be told to"
        yield "believe the lab's certificate. A link opens once; this makes another:"
        yield f"  {program} lab console {name}"
        yield f"  {link}"
    yield "Take it down:"
    yield f"  {program} lab down {name}"


def _program() -> str:
    """How a person calls us from where they are."""
    if shutil.which("sysvm"):
        return "sysvm"
    called = Path(sys.argv[0]).absolute()
    with contextlib.suppress(ValueError):
        return str(called.relative_to(Path.cwd()))
    return str(called)
