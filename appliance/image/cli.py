"""`sysvm image`: build the template."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from appliance.errors import ApplianceError
from appliance.image import build as builds
from appliance.image import cache, diff, locks, recipe, root_archive, rootfs, wheels
from appliance.image.formats import Format
from appliance.qemu.image import bootable
from appliance.qemu.machine import Firmware

app = typer.Typer(no_args_is_help=True, help=__doc__, rich_markup_mode=None)
console = Console(highlight=False)


RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", help="A recipe of your own, in DIB's format.")
]
Elements = Annotated[list[str] | None, typer.Option("--element", help="A further element.")]
ElementsPath = Annotated[
    list[Path] | None, typer.Option(help="A folder of elements, searched before ours.")
]
Packages = Annotated[
    list[str] | None, typer.Option("--package", help="A further package of Debian's.")
]
Ssh = Annotated[bool, typer.Option("--ssh/--no-ssh", help="Have SSH in it.")]
LockFile = Annotated[
    Path | None,
    typer.Option("--lock", help="Install exactly what this lock names.", dir_okay=False),
]
Debs = Annotated[
    Path | None,
    typer.Option(help="Take packages' files from this folder, where they are.", file_okay=False),
]


@app.command()
def build(
    formats: Annotated[
        list[Format] | None, typer.Option("--format", help="What to write. [default: qcow2]")
    ] = None,
    output: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("build"),
    recipe_file: RecipeFile = None,
    elements: Elements = None,
    elements_path: ElementsPath = None,
    packages: Packages = None,
    ssh: Ssh = True,
    fresh: Annotated[bool, typer.Option(help="Ask Debian's archive for newer packages.")] = False,
    lock_file: LockFile = None,
    debs: Debs = None,
    url: Annotated[
        str | None, typer.Option(help="Where the folder will be reached, for templates.json.")
    ] = None,
    sign: Annotated[
        str | None, typer.Option(metavar="KEY", help="Sign SHA256SUMS with this key of gpg's.")
    ] = None,
) -> None:
    """Build the template, as files that hypervisors take, and what accounts for them.

    Beside each image are its checksum, a manifest, a bill of materials (CycloneDX), the list of
    its files, templates.json for a cloud's registration, and the lock that builds it again.

    SYSVM_CACHE, SYSVM_MIRROR and SYSVM_SECURITY_MIRROR as for `rootfs`. What is in
    DIB_BOOTLOADER_DEFAULT_CMDLINE is appended to the kernel's command line.
    """
    wanted = _wanted(recipe_file, elements, elements_path, packages, ssh=ssh)
    with locks.held(wanted, lock_file, debs, fresh=fresh):
        built = builds.build(wanted, formats or [Format.QCOW2], output, console, url=url, sign=sign)
    for paths in built.files.values():
        for path in paths:
            size = path.stat().st_size / 1e6
            console.print(f"{path}  {size:.1f} MB", markup=False)


def _wanted(
    file: Path | None,
    elements: list[str] | None,
    elements_path: list[Path] | None,
    packages: list[str] | None,
    *,
    ssh: bool,
) -> recipe.Recipe:
    """The recipe with what was asked for besides."""
    return recipe.read(
        file,
        elements=elements or (),
        elements_path=elements_path or (),
        packages=packages or (),
        ssh=ssh,
    )


@app.command("rootfs")
def build_rootfs(
    fresh: Annotated[bool, typer.Option(help="Ask Debian's archive for newer packages.")] = False,
    lock_file: LockFile = None,
    debs: Debs = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Write it into this folder: root.tar, and root.mtree that lists it."),
    ] = None,
) -> None:
    """Build the root file system that the lab boots and the image contains.

    Its layers (packages, Python environment, agent) are kept in SYSVM_CACHE, /var/cache/sysvm by
    default, under the hash of what they are made from. SYSVM_MIRROR and SYSVM_SECURITY_MIRROR
    name other Debian mirrors.
    """
    wanted = recipe.read()
    with locks.held(wanted, lock_file, debs, fresh=fresh):
        layers = rootfs.layers(wanted, console=console)
        if output is not None:
            root_archive.place(layers, output)
    for path in reversed(layers.lowers):
        console.print(str(path), markup=False)


@app.command()
def lock(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("sysvm.lock.json"),
    debs: Annotated[
        Path | None,
        typer.Option(help="Keep every file that it names in this folder, for builds offline."),
    ] = None,
    python: Annotated[
        bool, typer.Option(help="First pin Python's packages anew, in image-recipes/python.lock.")
    ] = False,
    recipe_file: RecipeFile = None,
    elements: Elements = None,
    elements_path: ElementsPath = None,
    packages: Packages = None,
    ssh: Ssh = True,
) -> None:
    """Lock the newest packages: each file's version, size and SHA-256.

    `sysvm image build --lock FILE --debs FOLDER` builds from exactly these again. Debian's archive
    forgets old versions: keep the files (--debs) of what you may want to build again. A lock is for
    a build with the same recipe, elements and packages.
    """
    wanted = _wanted(recipe_file, elements, elements_path, packages, ssh=ssh)
    if python:
        for pin in wheels.refresh_lock():
            console.print(pin)
    made = locks.make(wanted)
    if debs is not None:
        locks.keep(made, debs)
    file.write_text(locks.render(made))
    console.print(
        f"{file}: {len(made.template)} packages of Debian, {len(made.python)} of Python, and "
        f"{len(made.builder)} to build with",
        markup=False,
    )


@app.command("diff")
def show_difference(
    before: Annotated[Path, typer.Argument(help="A manifest, root.tar, or a folder.")],
    after: Annotated[Path, typer.Argument(help="Another.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what differs between two images: their packages, and their files.

    Ends with code 1 if something does, like diff.
    """
    found = diff.diff(diff.read(before), diff.read(after))
    if as_json:
        sys.stdout.write(found.as_json())
    else:
        for table in diff.tables(found):
            console.print(table)
        console.print(f"differ: packages {len(found.packages)}, files {len(found.files)}")
    if found:
        raise typer.Exit(1)


@app.command()
def prune(
    keep: Annotated[int, typer.Option(help="How many of each kind stay.")] = 3,
) -> None:
    """Remove old layers, disks and packages from the cache.

    What a lab is made of stays, and what was used within the last hour.
    """
    from appliance.lab import state

    for path in cache.prune(keep, state.layers(), now=time.time()):
        console.print(f"removed {path}", markup=False)


@app.command("test")
def prove(
    images: Annotated[
        list[Path] | None,
        typer.Argument(help="Image files: .qcow2 .raw .vhd .vhdx .vmdk; all of build/ if none."),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all/--short",
            help="Every case on every kind of machine, or the most telling ones on the first.",
        ),
    ] = False,
    firmware: Annotated[
        Firmware | None, typer.Option(help="Only machines that start by this.")
    ] = None,
    case: Annotated[
        list[str] | None, typer.Option(help="Only this case; several can be named.")
    ] = None,
) -> None:
    """Boot images under QEMU, in a cloud of their own, and prove what they promise.

    A guest VM behind each system VM says whether it is served, by DHCP, DNS and address
    translation; the internet and management are tried from outside. As root; by KVM where it
    works, which is tried, and by emulation elsewhere. The short form takes a few minutes, all of
    it an hour. Ends with code 1 if something does not hold.
    """
    from appliance.qemu import report

    found = images or sorted(path for path in Path("build").glob("sysvm-*") if bootable(path))
    if not found:
        raise ApplianceError("no image in build/", "sysvm image build makes one")
    verdicts = report.prove(
        found, console, short=not everything, firmware=firmware, only=case or ()
    )
    if not verdicts or not all(verdict.holds for verdict in verdicts):
        raise typer.Exit(1)
