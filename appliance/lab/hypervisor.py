"""A hypervisor's screens: VNC servers, as real as a console proxy has them before it.

A desktop is TigerVNC's X server with a terminal; the terminal lives in a guest's network, the
screen at the hypervisor, as with a real guest. A firmware's screen is QEMU's own VNC server, which
demands the proxy's certificate and a password. Nothing of either runs as root.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from appliance import tools
from appliance.errors import ApplianceError
from appliance.lab.node import Node
from appliance.lab.pki import Identity, Keys
from appliance.lab.process import Identity as Process
from appliance.lab.process import spawn
from appliance.lab.topologies import Kvm
from appliance.lab.wait import wait_until

_NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--no-new-privs")
_SOCKETS = Path("/tmp/.X11-unix")  # noqa: S108 - where X servers and their clients meet
_GEOMETRY = "640x400"
_DISPLAYS = range(100, 200)
_TERMINAL = (
    "-fa",
    "Monospace",
    "-fs",
    "10",
    "-geometry",
    "80x25+0+0",
    "-bg",
    "navy",
    "-fg",
    "white",
)


@dataclass(frozen=True, slots=True)
class Screen:
    """A guest's screen: where it is in the private network, and what the proxy has to show."""

    address: str
    port: int
    credentials: dict[str, str]
    folder: Path  # the terminal's, where what was typed can leave a trace
    processes: tuple[Process, ...]
    display: str = ""

    def close(self) -> None:
        """End it."""
        for process in self.processes:
            process.send(9)
        for process in self.processes:
            process.wait(5)


@dataclass(frozen=True, slots=True)
class Hypervisor(Node):
    """A host with guests' screens."""

    spec: Kvm = field(default_factory=lambda: Kvm(()))
    keys_folder: Path = Path()

    @property
    def address(self) -> str:
        """Its address in the private network."""
        return self.spec.nics[0].addresses[0].partition("/")[0]

    def desktop(self, guest: Node, port: int = 5901) -> Screen:
        """A desktop with a terminal in that guest's network. VeNCrypt, with the lab's CA."""
        tools.need("Xtigervnc", "xterm", "setpriv")
        folder = self._folder(f"desktop-{port}")
        certificate, key = self._certified(folder, "kvm")
        if not _SOCKETS.exists():
            _SOCKETS.mkdir()
            _SOCKETS.chmod(stat.S_ISVTX | 0o777)
        server = ["-rfbport", str(port), "-interface", self.address]
        server += ["-geometry", _GEOMETRY, "-depth", "24", "-nolisten", "tcp"]
        server += ["-desktop", guest.name, "-SecurityTypes", "X509None"]
        server += ["-X509Cert", certificate.name, "-X509Key", key.name]
        display, screen = self._display(folder, server, port)
        env = [f"DISPLAY={display}", f"PS1={guest.name}$ ", "TERM=xterm", f"HOME={folder}"]
        shell = ["env", *env, "xterm", *_TERMINAL, "-title", guest.name]
        ready = folder / "ready"
        ready.unlink(missing_ok=True)
        terminal = self._run(folder, [*shell, "-e", "sh", "-c", "touch ready; exec sh"], guest)
        wait_until(ready.exists, 20, f"a terminal of {guest.name}")
        ca = Keys.load(self.keys_folder).authority.identity.certificate
        return Screen(self.address, port, {"ca": ca}, folder, (screen, terminal), display)

    def _display(self, folder: Path, arguments: Sequence[str], port: int) -> tuple[str, Process]:
        """Start an X server at the first number that nobody on this machine has (its lock)."""
        for number in _DISPLAYS:
            if (_SOCKETS.parent / f".X{number}-lock").exists():
                continue
            process = self._run(folder, ["Xtigervnc", f":{number}", *arguments], self)
            wait_until(partial(self._settled, process, port), 20, f"a screen of {self.name}")
            if process.alive:
                (folder / "display").write_text(str(number))
                return f":{number}", process
        raise ApplianceError(f"{self.name} has no screen at port {port}", f"see {folder / 'log'}")

    def _settled(self, process: Process, port: int) -> bool:
        """Has this server begun, or ended?"""
        return not process.alive or self.reaches(self.address, port)

    def firmware(self, port: int = 5907, password: str = "firmware") -> Screen:  # noqa: S107
        """A machine without a disk: its firmware's screen. X509VNC, with the proxy's certificate.

        The password has eight characters that count (RFC 6143, 7.2.2).
        """
        tools.need("qemu-system-x86_64", "setpriv")
        folder = self._folder(f"firmware-{port}")
        keys = Keys.load(self.keys_folder)
        certificate, key = self._certified(folder, "server")
        certificate.rename(folder / "server-cert.pem")
        key.rename(folder / "server-key.pem")
        (folder / "ca-cert.pem").write_text(keys.authority.identity.certificate)
        (folder / "password").write_text(password)
        creds = "tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir=."
        argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "16", "-nodefaults", "-vga", "std"]
        argv += ["-object", creds, "-object", "secret,id=vnc,file=password"]
        number = port - 5900
        argv += ["-vnc", f"{self.address}:{number},tls-creds=tls,password-secret=vnc"]
        process = self._run(folder, argv, self)
        wait_until(lambda: self.reaches(self.address, port), 30, f"a screen of {self.name}")
        client = keys.authority.issue("v-2-vm")
        credentials = {
            "password": password,
            "ca": keys.authority.identity.certificate,
            "certificate": client.certificate,
            "key": client.key,
        }
        return Screen(self.address, port, credentials, folder, (process,))

    def _folder(self, name: str) -> Path:
        """A folder that nobody can write to, and nobody but nobody can reach."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        os.chown(folder, 65534, 65534)
        return folder

    def _certified(self, folder: Path, name: str) -> tuple[Path, Path]:
        authority = Keys.load(self.keys_folder).authority
        identity: Identity = authority.issue("kvm7.example.test", addresses=[self.address])
        paths = identity.write(folder, name)
        for path in paths:
            os.chown(path, 65534, 65534)
        return paths

    def _run(self, folder: Path, argv: Sequence[str], node: Node) -> Process:
        """Start a program as nobody in this folder, in a node's network."""
        # The folder is entered before root is given up, which alone can reach it.
        inside = ["env", f"--chdir={folder}", *_NOBODY, "sh", "-c", 'exec "$@" 2>>log', "sh", *argv]
        process = Process.of(spawn(node.argv(inside)).pid)
        if process is None:
            raise ApplianceError(f"{argv[0]} on {node.name} ended", f"see {folder / 'log'}")
        return process

    def tidy(self) -> None:
        """Remove what X servers that were killed have left beside the lab."""
        tidy(self.folder)


def tidy(folder: Path) -> None:
    """Remove what the X servers of a hypervisor with this folder have left beside the lab."""
    for display in folder.glob("desktop-*/display"):
        number = display.read_text()
        for path in (_SOCKETS / f"X{number}", _SOCKETS.parent / f".X{number}-lock"):
            path.unlink(missing_ok=True)
