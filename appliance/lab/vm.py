"""The system VM of a lab: booted, entered, rebooted, unplugged."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.system.run import CommandFailed, Completed, run
from appliance import data
from appliance.errors import ApplianceError
from appliance.image import base
from appliance.image.agent import install_agent
from appliance.lab import cgroup, network
from appliance.lab.http import Response, exchange, payload
from appliance.lab.pki import MANAGER, Keys
from appliance.lab.process import Popen, spawn
from appliance.lab.state import Container, Settings, Status
from appliance.lab.topologies import SystemVm
from appliance.lab.wait import TookTooLong, wait_until

CONTROL_SOCKET = "run/sysvm/control.sock"
BOOT_CREDENTIAL = "sysvm.boot"
FAULT_CREDENTIAL = "sysvm.fault"
AGENT_UNIT = "sysvm-agent.service"

_TIMEOUT = 30.0
_BOOT_TIMEOUT = 60.0
_ENTER = ("-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w")
# systemd(1): what PID 1 does on these.
_POWER_OFF, _REBOOT = signal.SIGRTMIN + 4, signal.SIGRTMIN + 5


@dataclass(frozen=True, slots=True)
class SystemVM:
    """One system VM in its container. What it wrote to its disk stays until the lab goes down."""

    lab: str
    name: str
    spec: SystemVm
    container: Container

    @property
    def namespace(self) -> str:
        """The name of its network name space; a new one at each boot."""
        return network.namespace(self.lab, self.name)

    @property
    def status(self) -> Status:
        """Its processes, and how often it was booted."""
        return self.container.status()

    @property
    def leader(self) -> int:
        """Its PID 1, as the host numbers it. Raises ApplianceError if it is off."""
        leader = self.status.leader
        if leader is None or not leader.alive:
            raise ApplianceError(f"{self.name} of lab {self.lab} is not running", "start it first")
        return leader.pid

    @property
    def running(self) -> bool:
        """Whether its systemd runs."""
        leader = self.status.leader
        return leader is not None and leader.alive

    @property
    def root(self) -> Path:
        """Its root, seen from the host. An absolute symlink in there leads astray: use `run`."""
        return Path(f"/proc/{self.leader}/root")

    def argv(self, argv: Sequence[str]) -> list[str]:
        """What runs this command in the VM."""
        return ["nsenter", "-t", str(self.leader), *_ENTER, "--", *argv]

    def run(
        self,
        argv: Sequence[str],
        timeout: float = _TIMEOUT,
        *,
        check: bool = True,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a program of the VM in it, to its end. With `check`, raises CommandFailed."""
        return run(self.argv(argv), timeout=timeout, check=check, stdin=stdin, env=env)

    def popen(self, argv: Sequence[str], *, stdin: bool = False) -> "Popen[bytes]":
        """Start a program of the VM in it; its outputs come through pipes."""
        return spawn(self.argv(argv), pipe=True, stdin=stdin)

    def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Write a file in the VM, with the folders that it needs."""
        argv = ["install", "-D", "-m", f"{mode:o}", "/dev/stdin", path]
        if not content:
            argv[-2] = "/dev/null"
        self.run(argv, stdin=content)

    def read(self, path: str) -> bytes:
        """A file of the VM. Raises CommandFailed if it is not there."""
        return self.run(["cat", path]).stdout

    def journal(self, *options: str) -> str:
        """What the VM's journal has of this boot."""
        return self.run(["journalctl", "--no-pager", "-b", *options]).text

    def request(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> Response:
        """One HTTP request over the agent's Unix socket. Raises OSError if nobody listens."""
        content, kind = payload(json, body)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout)
            sock.connect(str(self.root / CONTROL_SOCKET))
            return exchange(sock, method, path, body=content, headers={**kind, **(headers or {})})

    # Power.

    def create(self, lowers: Sequence[Path], topology: str, keys: Keys) -> None:
        """Lay out its disk and what it will be told at boot."""
        container = self.container
        container.path.mkdir(parents=True)
        for folder in (container.upper / "etc", container.path / "work"):
            folder.mkdir(parents=True)
        container.credentials.mkdir(mode=0o700)
        # Without one, systemd would take each lab's first boot for the template's first boot.
        (container.upper / "etc/machine-id").write_text(f"{secrets.token_hex(16)}\n")
        container.configure(Settings(self.lab, self.name, topology, [str(low) for low in lowers]))
        self._credential(BOOT_CREDENTIAL, json.dumps(boot_configuration(self.spec, keys)))

    def set_fault(self, fault: str | None) -> None:
        """Have the agent fail at this step after the next boot; None takes it back."""
        self._credential(FAULT_CREDENTIAL, fault)

    def set_boot(self, configuration: Mapping[str, object]) -> None:
        """Replace the boot configuration, from the next boot on."""
        self._credential(BOOT_CREDENTIAL, json.dumps(configuration))

    def boot_configuration(self) -> dict[str, object]:
        """What the VM is told at boot."""
        path = self.container.credentials / BOOT_CREDENTIAL
        value: dict[str, object] = json.loads(path.read_text())
        return value

    def start(self, *, wait: bool = True, timeout: float = _BOOT_TIMEOUT) -> None:
        """Switch it on; with `wait`, return when its boot is complete."""
        if self.running:
            raise ApplianceError(f"{self.name} of lab {self.lab} is running already")
        boots = self.status.boots
        source = Path(__file__).resolve().parents[2]
        # The container is the supervisor's; whoever starts it may end.
        supervisor = spawn(
            [sys.executable, "-m", "appliance.lab.supervisor", str(self.container.path)],
            output=self.container.console,
            env={"PYTHONPATH": str(source)},
        )
        self._wait_boot(boots, timeout, supervisor)
        if wait:
            self.wait_running(timeout)

    def reboot(self, *, wait: bool = True, timeout: float = _BOOT_TIMEOUT) -> None:
        """Restart it in an orderly way; with `wait`, return when its boot is complete."""
        boots = self.status.boots
        os.kill(self.leader, _REBOOT)
        self._wait_boot(boots, timeout)
        if wait:
            self.wait_running(timeout)

    def wait_reboot(self, boots: int, timeout: float = _BOOT_TIMEOUT) -> None:
        """Wait until it has been booted more often than `boots` times, by whomever."""
        self._wait_boot(boots, timeout)
        self.wait_running(timeout)

    def power_off(self, timeout: float = _BOOT_TIMEOUT) -> None:
        """Stop it in an orderly way."""
        os.kill(self.leader, _POWER_OFF)
        self._wait_off(timeout)

    def pull_plug(self, timeout: float = _TIMEOUT) -> None:
        """Stop it at once: nothing in it gets to run again. Its disk stays as it is."""
        if self.status.leader is not None:
            self.status.leader.send(signal.SIGKILL)
        self._wait_off(timeout)

    def wait_running(self, timeout: float = _BOOT_TIMEOUT) -> str:
        """Wait until systemd has nothing more to start: `running`, or `degraded`."""
        return wait_until(self._settled, timeout, f"complete boot of {self.name}")

    def wait_ready(self, timeout: float = _TIMEOUT) -> None:
        """Wait until the agent answers on its socket."""

        def answers() -> bool:
            try:
                return self.request("GET", "/v1/status", timeout=5).status < 500
            except (OSError, ApplianceError):
                return False

        wait_until(answers, timeout, f"an answer of the agent in {self.name}")

    def reload(self) -> None:
        """Install the agent as it is in the source tree, and start its services anew."""
        install_agent(self.root, self.argv([]))
        self.run(["systemctl", "daemon-reload"])
        self.run(["systemd-tmpfiles", "--create"], check=False)
        presets = data.units() / "presets"
        for unit in base.listed(presets) if presets.exists() else ():
            # What has closed or restored the VM at boot has done its work: only the agent is new.
            self.run(["systemctl", "restart" if unit == AGENT_UNIT else "start", unit])

    def destroy(self) -> None:
        """End everything of it, and remove what it had outside its folder."""
        status = self.status
        for process in (status.supervisor, status.leader, status.nspawn):
            # The supervisor first: it must not boot again what is being ended.
            if process is not None:
                process.send(signal.SIGKILL)
        for process in (status.supervisor, status.leader, status.nspawn):
            if process is not None:
                process.wait(10)
        # Half-made ones are not noted yet; whoever is in its group is of it.
        for pid in cgroup.members(self.namespace):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        cgroup.remove(self.namespace)
        network.unplug(self.lab, self.name, self.spec.nics)
        shutil.rmtree(self.container.path, ignore_errors=True)

    def _settled(self) -> str:
        with contextlib.suppress(CommandFailed, ApplianceError):
            done = self.run(["systemctl", "is-system-running", "--wait"], check=False)
            said = done.text.strip()
            if said in ("running", "degraded"):
                return said
        return ""

    def _wait_boot(
        self, boots: int, timeout: float, supervisor: "Popen[bytes] | None" = None
    ) -> None:
        def booted() -> bool:
            if supervisor is not None and supervisor.poll() is not None:
                said = self.container.console.read_text(errors="replace").strip()[-2000:]
                raise ApplianceError(f"{self.name} did not boot: {said}")
            return self.status.boots > boots and self.running

        try:
            wait_until(booted, timeout, f"boot of {self.name}")
        except TookTooLong as error:
            raise ApplianceError(str(error), f"see {self.container.console}") from error

    def _wait_off(self, timeout: float) -> None:
        wait_until(lambda: self.status.supervisor is None, timeout, f"{self.name} being off")

    def _credential(self, name: str, text: str | None) -> None:
        path = self.container.credentials / name
        path.unlink(missing_ok=True)
        if text is not None:
            path.touch(mode=0o600)
            path.write_text(text)


def boot_configuration(spec: SystemVm, keys: Keys) -> dict[str, object]:
    """What such a VM is told at boot: its control NIC, and whom to believe there."""
    control = next(nic for nic in spec.nics if nic.name == spec.control_nic)
    return {
        "schema": 1,
        "role": spec.role,
        "hostname": spec.hostname,
        "nics": {control.mac: {"role": "control", "addresses": {spec.control_address: {}}}},
        "control": {
            "port": spec.control_port,
            "ca": keys.authority.identity.certificate,
            "crl": keys.crl,
            "certificate": keys.server.certificate,
            "key": keys.server.key,
            "allowed_names": [MANAGER],
        },
    }
