"""One virtual machine: what it is made of, and QEMU running it.

A machine's QEMU ends with the process that started it, whatever becomes of that, and its serial
console is a file from the first byte on.
"""

import base64
import contextlib
import enum
import logging
import re
import shlex
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.system.run import Completed
from appliance import tools
from appliance.errors import ApplianceError
from appliance.lab import network
from appliance.lab.process import Popen, spawn
from appliance.lab.wait import TookTooLong, wait_until
from appliance.qemu import shell
from appliance.qemu.qmp import Monitor

log = logging.getLogger(__name__)

PROGRAM = "qemu-system-x86_64"
_OVMF = Path("/usr/share/OVMF")
_TIMEOUT = 30.0
_DYING = 5.0  # seconds from a closed socket to QEMU's end
_STALE_TRAPS = 2  # that a machine is switched on again for


class Firmware(enum.StrEnum):
    """What starts the boot loader."""

    BIOS = "bios"
    UEFI = "uefi"


class Bus(enum.StrEnum):
    """What the disk hangs on. `virtio` is KVM's, `ide` stands for XenServer and Hyper-V of
    generation 1, `pvscsi` and `lsi` for VMware."""

    VIRTIO = "virtio"
    IDE = "ide"
    AHCI = "ahci"
    PVSCSI = "pvscsi"
    LSI = "lsi"


@dataclass(frozen=True, slots=True)
class Port:
    """A network card and the network that it is plugged into."""

    network: str
    mac: str
    model: str = "virtio-net-pci"


@dataclass(frozen=True, slots=True)
class Direct:
    """A kernel that QEMU starts itself, without a boot loader."""

    kernel: Path
    initrd: Path
    append: str


@dataclass(frozen=True, slots=True)
class Disk:
    """What the machine boots from: a block device as QEMU is told of it, and the bus."""

    blockdev: tuple[str, ...]  # values of -blockdev; the last node is called `disk`
    bus: Bus = Bus.VIRTIO


@dataclass(frozen=True, slots=True)
class Spec:
    """What a machine is made of. Memory is in MiB."""

    name: str
    ports: tuple[Port, ...]
    disk: Disk | None = None
    firmware: Firmware = Firmware.BIOS
    memory: int = 512
    processors: int = 2
    credentials: Mapping[str, bytes] = field(default_factory=dict)
    firmware_files: Mapping[str, Path] = field(default_factory=dict)  # fw_cfg, by their names
    drives: tuple[Path, ...] = ()  # further disks, raw
    channels: tuple[str, ...] = ()  # names of virtio-serial ports; sockets in the folder
    direct: Direct | None = None
    clock: str = "utc"  # -rtc base=
    screen: bool = False


@dataclass(slots=True)
class Machine:
    """A machine in a folder of its own, plugged into the switch of `cloud`."""

    spec: Spec
    folder: Path
    cloud: str
    accelerator: tuple[str, ...]
    started: float = 0.0  # time.monotonic() at power-on
    _process: "Popen[bytes] | None" = None
    _shell: shell.Shell | None = None
    _said_before: int = 0  # characters on its console at power-on
    _stale_traps: int = 0

    # -- power ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Switch it on. Raises ApplianceError if QEMU does not start."""
        if self.running:
            raise ApplianceError(f"{self.spec.name} is running already")
        tools.need(PROGRAM, "setpriv", "nsenter")
        self.folder.mkdir(parents=True, exist_ok=True)
        for number, port in enumerate(self.spec.ports):
            network.tap(self.cloud, self._tap(number), port.network)
        inside = f"--net={network.NETNS / network.namespace(self.cloud, network.SWITCH)}"
        # It is killed with the thread that starts it, should that die: nothing else stops it.
        argv = ["setpriv", "--pdeathsig", "KILL", "nsenter", inside, PROGRAM, *self._arguments()]
        self._log("argv").write_text("\n".join(argv))
        self._said_before = len(self.console)
        self.started = time.monotonic()
        process = spawn(argv, output=self._log("qemu.log"))
        self._process = process

        def up() -> bool:
            if process.poll() is not None:
                raise ApplianceError(
                    f"QEMU did not start: {self._log('qemu.log').read_text().strip()[-2000:]}"
                )
            # It greets when everything else has been set up.
            with contextlib.suppress(OSError, ApplianceError), Monitor(self._log("qmp")):
                return True
            return False

        wait_until(up, _TIMEOUT, f"QEMU of {self.spec.name}")

    @property
    def running(self) -> bool:
        """Whether its QEMU runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """QEMU's process. Raises ApplianceError if it is off."""
        if self._process is None or not self.running:
            raise ApplianceError(f"{self.spec.name} is off")
        return self._process.pid

    def kill(self) -> None:
        """Cut its power: nothing in it, and nothing of QEMU's, gets to run again."""
        if self._process is not None:
            if self.running:
                self._process.send_signal(signal.SIGKILL)
            self._process.wait(_TIMEOUT)
        self._tidy()

    def reset(self) -> None:
        """Press the reset button: memory goes, the disk keeps what it was given."""
        # A QEMU that ends and begins anew tells the guest as little, and the disk keeps as much.
        # Without KVM, a reset of the same one takes three times as long: its translator finds code
        # of the boot before in every page that is written.
        with contextlib.suppress(OSError, ApplianceError):
            self.monitor("quit")
        wait_until(lambda: not self.running, _TIMEOUT, f"QEMU of {self.spec.name} ending")
        self._tidy()
        self.start()

    def power_button(self) -> None:
        """Press the power button (ACPI), as a hypervisor's shutdown does."""
        self.monitor("system_powerdown")

    def wait_off(self, timeout: float = 120) -> None:
        """Wait until it has switched itself off."""
        wait_until(lambda: not self.running, timeout, f"{self.spec.name} being off", every=0.1)
        self._tidy()

    def monitor(self, command: str, **arguments: object) -> object:
        """One command of QEMU's monitor."""
        with Monitor(self._log("qmp")) as monitor:
            return monitor.execute(command, **arguments)

    # -- looking -------------------------------------------------------------------------------

    @property
    def console(self) -> str:
        """What its first serial port has said since it was made."""
        log = self._log("console.log")
        return log.read_bytes().decode(errors="replace") if log.exists() else ""

    def wait_console(self, pattern: str, timeout: float = 120, *, after: int = 0) -> re.Match[str]:
        """Wait for a line on the console, in what came after that many characters."""

        def found() -> re.Match[str] | None:
            self._need_running(f"it was to say {pattern}")
            return re.search(pattern, self.console[after:], re.MULTILINE)

        match = wait_until(
            found, timeout, f"`{pattern}` on the console of {self.spec.name}", every=0.1
        )
        if match is None:
            raise TookTooLong(pattern)
        return match

    def screenshot(self, path: Path) -> None:
        """Write what its screen shows, as PNG."""
        self.monitor("screendump", filename=str(path), format="png")

    def channel(self, name: str) -> Path:
        """The socket of one of its virtio-serial ports."""
        return self._log(f"port-{name}")

    # -- inside --------------------------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str],
        timeout: float = 180,
        *,
        check: bool = True,
        stdin: bytes = b"",
    ) -> Completed:
        """Run a program in it, over its second serial port (appliance.qemu.shell)."""
        try:
            return self._session().run(argv, timeout, check=check, stdin=stdin)
        except ConnectionError as error:
            with contextlib.suppress(TookTooLong):
                wait_until(lambda: not self.running, _DYING, "QEMU ending")
            self._need_running(f"it ran {shlex.join(argv)}")
            raise ApplianceError(f"{self.spec.name}: {error}") from error

    def wait_shell(self, timeout: float = 180) -> None:
        """Wait until the shell on its second serial port answers."""

        def answers() -> bool:
            if not self.running and self._stale_trap():
                self._tidy()
                self.start()
            self._need_running("it was to answer")
            return self._session().answers()

        wait_until(answers, timeout, f"the shell of {self.spec.name}", every=0.2)

    def read(self, path: str) -> bytes:
        """A file in it. Raises CommandFailed if it is not there."""
        return self.run(["cat", path]).stdout

    def wait_success(self, argv: Sequence[str], timeout: float, what: str) -> None:
        """Wait until a program in it ends with success."""
        wait_until(lambda: self.run(argv, check=False).returncode == 0, timeout, what, every=0.5)

    def _stale_trap(self) -> bool:
        """Has the emulator, not the guest, failed it while it booted, and may it try again?"""
        emulated = any(word.startswith("tcg") for word in self.accelerator)
        if not emulated or not is_stale_trap(self.console[self._said_before :]):
            return False
        self._stale_traps += 1
        log.warning("%s: the emulator gave its kernel a stale breakpoint; on again", self.spec.name)
        return self._stale_traps <= _STALE_TRAPS

    def _need_running(self, what: str) -> None:
        if not self.running:
            code = None if self._process is None else self._process.returncode
            said = self._log("qemu.log").read_text(errors="replace").strip()
            # 0: the guest started anew or switched itself off; a signal's number: QEMU died.
            raise ApplianceError(
                f"{self.spec.name} went off while {what}; QEMU's exit code is {code}",
                "\n".join((said[-2000:], self._faults(), self.console[-2000:])).strip(),
            )

    def _faults(self) -> str:
        """What QEMU noted of a processor that gave up, the reason of most resets."""
        log = self._log("cpu.log")
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join(line for line in lines if "Triple fault" in line)

    def _session(self) -> shell.Shell:
        if self._shell is None:
            self._shell = shell.Shell(self._log("shell"))
        return self._shell

    # -- what QEMU is told ----------------------------------------------------------------------

    def _arguments(self) -> list[str]:
        spec = self.spec
        board = "pc" if spec.disk is not None and spec.disk.bus is Bus.IDE else "q35"
        argv = [
            *("-name", f"{self.cloud}-{spec.name}", "-machine", board, *self.accelerator),
            *("-smp", str(spec.processors), "-m", str(spec.memory), "-nodefaults"),
            # One that starts anew by itself has failed: it goes off, and whoever waits is told.
            *("-display", "none", "-rtc", f"base={spec.clock}", "-no-reboot"),
            *("-d", "cpu_reset", "-D", str(self._log("cpu.log"))),
            *("-qmp", f"unix:{self._log('qmp')},server=on,wait=off"),
            *("-chardev", f"file,id=console,path={self._log('console.log')},append=on"),
            *("-device", "isa-serial,chardev=console"),
            *("-chardev", f"socket,id=shell,path={self._log('shell')},server=on,wait=off"),
            *("-device", "isa-serial,chardev=shell"),
            *("-device", "virtio-rng-pci"),
        ]
        if spec.screen:
            argv += ["-vga", "std"]
        if spec.firmware is Firmware.UEFI:
            argv += self._uefi()
        if spec.direct is not None:
            argv += ["-kernel", str(spec.direct.kernel), "-initrd", str(spec.direct.initrd)]
            argv += ["-append", spec.direct.append]
        if spec.disk is not None:
            argv += _disk(spec.disk, "" if spec.direct else ",bootindex=0")
        for number, drive in enumerate(spec.drives):
            node = f"drive{number}"
            file = f"driver=raw,node-name={node},read-only=on,file.driver=file"
            argv += ["-blockdev", f"{file},file.filename={drive}"]
            argv += ["-device", f"{'ide-hd' if board == 'pc' else 'virtio-blk-pci'},drive={node}"]
        for number, port in enumerate(spec.ports):
            tap = f"tap,id=net{number},ifname={self._tap(number)},script=no,downscript=no"
            argv += ["-netdev", tap]
            # No option ROM: a system VM never boots from a network.
            argv += ["-device", f"{port.model},netdev=net{number},mac={port.mac},romfile="]
        argv += self._channels()
        argv += self._credentials()
        for name, path in spec.firmware_files.items():
            argv += ["-fw_cfg", f"name={name},file={path}"]
        return argv

    def _uefi(self) -> list[str]:
        code, variables = _OVMF / "OVMF_CODE_4M.fd", _OVMF / "OVMF_VARS_4M.fd"
        if not code.exists():
            raise ApplianceError("UEFI firmware for QEMU: not on this machine", "install ovmf")
        own = self._log("variables.fd")
        if not own.exists():
            shutil.copyfile(variables, own)
        flash = "if=pflash,format=raw"
        return ["-drive", f"{flash},readonly=on,file={code}", "-drive", f"{flash},file={own}"]

    def _channels(self) -> list[str]:
        argv = ["-device", "virtio-serial-pci"] if self.spec.channels else []
        for number, name in enumerate(self.spec.channels):
            socket = f"socket,id=port{number},path={self.channel(name)},server=on,wait=off"
            argv += ["-chardev", socket]
            argv += ["-device", f"virtserialport,chardev=port{number},name={name}"]
        return argv

    def _credentials(self) -> list[str]:
        """Strings of SMBIOS type 11, each a credential (systemd.system-credentials(7))."""
        argv = []
        for name, content in self.spec.credentials.items():
            encoded = base64.b64encode(content).decode()
            text = f"io.systemd.credential.binary:{name}={encoded}"
            path = self._log(f"credential-{name}")
            path.touch(mode=0o600)
            path.write_text(text)
            argv += ["-smbios", f"type=11,path={path}"]
        return argv

    def _tap(self, number: int) -> str:
        return f"{self.spec.name}-nic{number}"

    def _log(self, name: str) -> Path:
        return self.folder / name

    def _tidy(self) -> None:
        if self._shell is not None:
            self._shell.close()
            self._shell = None
        for name in ("qmp", "shell", *(f"port-{name}" for name in self.spec.channels)):
            self._log(name).unlink(missing_ok=True)
        for number in range(len(self.spec.ports)):
            network.unplug_tap(self.cloud, self._tap(number))


def is_stale_trap(console: str) -> bool:
    """Has a kernel met a breakpoint of its own, after it had taken it out of its code?

    Linux patches running code by way of int3. With several processors, QEMU's translator at times
    still executes that one when it is gone (seen with QEMU 7.2); the kernel knows of none there,
    and panics. No processor does this: it says nothing of the image.
    """
    return (
        re.search(r"Oops: int3: .*^.*Kernel panic", console, re.DOTALL | re.MULTILINE) is not None
    )


def _disk(disk: Disk, first: str) -> list[str]:
    argv = [argument for value in disk.blockdev for argument in ("-blockdev", value)]
    match disk.bus:
        case Bus.VIRTIO:
            return [*argv, "-device", f"virtio-blk-pci,drive=disk{first}"]
        case Bus.IDE | Bus.AHCI:
            return [*argv, "-device", f"ide-hd,drive=disk{first}"]
        case Bus.PVSCSI:
            controller = "pvscsi,id=scsi"
        case Bus.LSI:
            controller = "mptsas1068,id=scsi"
    attached = f"scsi-hd,drive=disk,bus=scsi.0{first}"
    return [*argv, "-device", controller, "-device", attached]
