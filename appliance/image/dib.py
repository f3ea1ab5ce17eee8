"""Runs diskimage-builder, and is what the hooks of our elements call.

DIB unpacks the root file system (`unpack`, from sysvm/root.d), makes the disk by our block-device
plug-in, copies one into the other, and has it made bootable (`finish`, from
sysvm-boot/pre-finalise.d). It runs in mounts and processes of its own, which end with it.
"""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from agent.system.run import ENVIRONMENT, CommandFailed, run
from appliance import tools
from appliance.errors import ApplianceError
from appliance.image import block_device, boot_loader, file_systems, initrd, python, rootfs, steps
from appliance.image.recipe import Recipe, from_environment

TIMEOUT = 1800.0  # seconds; a quarter of a minute where the disk is not slow
FACTORY = Path("usr/share/factory/var")  # what /var is filled from where it is empty
_LOG = "dib.log"


def build(recipe: Recipe, folder: Path) -> Path:
    """Run DIB over this recipe in the empty `folder`, where the raw disk and a log come to lie.

    The layers of the root file system are taken from the cache. Whatever happens, no mount, loop
    device or process is left. Raises ApplianceError.
    """
    tools.need("sudo", "unshare", "setpriv", "losetup", "sfdisk", "mkfs.ext4")
    tools.need("fstrim", "getopt", "ps", "lsattr", "zstd", "mcopy", "mkfs.vfat")
    scratch = folder / "scratch"
    scratch.mkdir()
    block_device.detach_left_behind(folder.parent)
    with _ended_by_signals():
        try:
            run(
                [
                    *steps.confined(),
                    _program(),
                    "--stop-on-failure",
                    *map(str, _recipes(recipe, folder)),
                ],
                timeout=TIMEOUT,
                env=_environment(recipe, scratch),
                cwd=folder,
            )
        except CommandFailed as error:
            raise _explained(error, folder) from error
        finally:
            block_device.detach_left_behind(folder)
            shutil.rmtree(scratch, ignore_errors=True)
    disk = folder / f"{recipe.name}.raw"
    file_systems.settle(disk, epoch())
    return disk


def unpack(target: Path) -> None:
    """Fill the empty folder `target` with the root file system of the recipe that DIB builds."""
    steps.in_private_mounts("merge", target, *rootfs.layers(from_environment()).lowers)


def finish(root: Path, image: Path) -> None:
    """Make the disk boot: `root` is its root file system, mounted, with the state on /var."""
    (root / "etc/machine-id").write_text("")
    factory = root / FACTORY
    factory.parent.mkdir(parents=True, exist_ok=True)
    run(["cp", "-a", str(root / "var"), str(factory)], timeout=steps.TIMEOUT)
    shutil.rmtree(factory / "lost+found", ignore_errors=True)
    boot = root / "boot"
    builder = python.builder(from_environment())
    (kernel,) = boot.glob("vmlinuz-*")
    (boot / "vmlinuz").unlink(missing_ok=True)
    (boot / "vmlinuz").symlink_to(kernel.name)
    (boot / "initrd.img").write_bytes(initrd.build(root, builder))
    command_line = os.environ.get("DIB_BOOTLOADER_DEFAULT_CMDLINE", "")
    boot_loader.install(image, builder, command_line, epoch())


def epoch() -> int:
    """The time that built files carry, in seconds since 1970 (SOURCE_DATE_EPOCH)."""
    return int(os.environ.get("SOURCE_DATE_EPOCH", "0"))


def _recipes(recipe: Recipe, folder: Path) -> Iterator[Path]:
    """The recipe's file, and one that adds what was asked for: DIB merges them by name."""
    yield recipe.file
    if recipe.extra_elements:
        added = folder / "added.yaml"
        entry = {"imagename": recipe.name, "elements": list(recipe.extra_elements)}
        added.write_text(yaml.safe_dump([entry]))
        yield added


def _environment(recipe: Recipe, scratch: Path) -> dict[str, str]:
    # Where our own package is, for the plug-in and the hooks: a checkout need not be installed.
    source = str(Path(__file__).resolve().parents[2])
    return {
        **tools.passed_on(("PIP_", "SSL_CERT_", "DIB_", "SYSVM_", "SOURCE_DATE_")),
        "PATH": f"{Path(sys.executable).parent}:{ENVIRONMENT['PATH']}",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "TMP_DIR": str(scratch),
        "PYTHONPATH": source,
        "DIB_PYTHON_EXEC": sys.executable,
        "DIB_NO_TIMESTAMP": "1",
        # A loop device over a tmpfs that is gone no longer says whose it was.
        "DIB_NO_TMPFS": "1",
        "DIB_LOCKFILES": str(scratch / "locks"),
        "DIB_IMAGE_CACHE": str(scratch / "cache"),
        "ELEMENTS_PATH": ":".join(map(str, recipe.elements_path)),
        "SYSVM_PACKAGES": " ".join(recipe.extra_packages),
    }


def _program() -> str:
    beside = Path(sys.executable).with_name("diskimage-builder")
    return str(beside) if beside.exists() else "diskimage-builder"


def _explained(error: CommandFailed, folder: Path) -> ApplianceError:
    said = (error.stdout + error.stderr).decode(errors="replace")
    log = folder.parent / _LOG
    log.write_text(said)
    lines = [line for line in said.splitlines() if line.strip()]
    return ApplianceError(
        f"diskimage-builder failed ({error.reason}): {' / '.join(lines[-4:])}", f"see {log}"
    )


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end this process in an orderly way, as SIGINT does."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["unpack", target]:
            unpack(Path(target))
        case ["finish", root, image]:
            finish(Path(root), Path(image))
