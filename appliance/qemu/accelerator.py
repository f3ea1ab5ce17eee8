"""Whether KVM is there and works. A device node says nothing: a nested one may hang a guest."""

import os
from pathlib import Path

from appliance.lab.process import spawn
from appliance.lab.wait import TookTooLong, wait_until
from appliance.qemu.initramfs import initramfs
from appliance.qemu.machine import PROGRAM

TCG = ("-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max")  # MiB of translated code
KVM = ("-accel", "kvm", "-cpu", "host")

_PATIENCE = 15.0  # seconds; where KVM works, this takes one
_SAID = "sysvm: KVM works"


def accelerator(kernel: Path, folder: Path) -> tuple[str, ...]:
    """QEMU's arguments for KVM if a kernel boots under it in time, for TCG otherwise.

    What came of trying is kept in `folder`. SYSVM_ACCEL (kvm or tcg) decides without trying.
    """
    match os.environ.get("SYSVM_ACCEL", ""):
        case "kvm":
            return KVM
        case "tcg":
            return TCG
    note = folder / "accelerator"
    if not note.exists():
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text("kvm" if _kvm_works(kernel, folder) else "tcg")
    return KVM if note.read_text() == "kvm" else TCG


def _kvm_works(kernel: Path, folder: Path) -> bool:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    initrd, console = folder / "kvm.initrd", folder / "kvm.log"
    initrd.write_bytes(initramfs(f"echo {_SAID}\npoweroff -f\n", {}))
    console.unlink(missing_ok=True)
    argv = ["setpriv", "--pdeathsig", "KILL", PROGRAM, "-machine", "q35", *KVM, "-m", "256"]
    argv += ["-nodefaults", "-display", "none", "-serial", f"file:{console}", "-no-reboot"]
    argv += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", "console=ttyS0 panic=-1"]
    process = spawn(argv)

    def said() -> bool:
        return (console.exists() and _SAID in console.read_text(errors="replace")) or (
            process.poll() is not None
        )

    try:
        wait_until(said, _PATIENCE, "a kernel under KVM", every=0.1)
        return console.exists() and _SAID in console.read_text(errors="replace")
    except TookTooLong:
        return False
    finally:
        process.kill()
        process.wait()
