"""A manager in a lab: on the management node, knowing the lab's VMs, and reached from this machine.

What an operator does once, in small: certificates, a key, a first token, the VMs and the console
proxies registered.
"""

import hashlib
import json
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import ApplianceError
from appliance.lab.cloud import Lab
from appliance.lab.consoles import ROLE, public_address
from appliance.lab.http import exchange
from appliance.lab.process import spawn
from appliance.lab.vm import SystemVM
from appliance.lab.wait import wait_until

PORT, EVENTS, HEARTBEATS = 8080, 8444, 8445  # on the management node
HERE = 8080  # of this machine, where it is free
ZONE = "lab"
SUFFIX = ".console.example.test"  # of proxies' names on the lab's internet
_NOTE = "managed.json"
_START = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Managed:
    """A lab's manager. `tokens` are by role; `port` is this machine's way to it."""

    lab: Lab
    address: str
    port: int
    tokens: Mapping[str, str]

    def ask(
        self, method: str, path: str, value: object = None, *, role: str = "cloud",
        data: bytes | None = None, token: str | None = None,
    ) -> tuple[int, Any]:  # fmt: skip
        """A call to it, with a role's token or another one; the status, and the answer."""
        sock = self.lab.manager.connect(self.address, PORT, timeout=240)
        body = data if data is not None else json.dumps(value).encode() if value else b""
        headers = {"Authorization": f"Bearer {token or self.tokens[role]}"}
        answer = exchange(sock, method, path, body=body, headers=headers)
        return answer.status, answer.json()

    def upload(self, content: bytes) -> str:
        """Leave a blob with it; its SHA-256, by which documents name it. Raises ApplianceError."""
        name = hashlib.sha256(content).hexdigest()
        status, answer = self.ask("PUT", f"/v1/blobs/{name}", data=content)
        if status != 200:
            raise ApplianceError(f"the manager refuses the blob: {answer}")
        return name

    def must(self, method: str, path: str, value: object = None, *, role: str = "cloud") -> Any:
        """A call that has to succeed. Raises ApplianceError."""
        status, answer = self.ask(method, path, value, role=role)
        if status != 200:
            raise ApplianceError(f"the manager refuses {method} {path}: {answer}")
        return answer


def find(lab: Lab) -> Managed | None:
    """The lab's manager, if one was started."""
    note = lab.folder / "manager" / _NOTE
    if not note.exists():
        return None
    known = json.loads(note.read_text())
    return Managed(lab, known["address"], known["port"], known["tokens"])


def start(lab: Lab, *, proxies: bool = True) -> Managed:
    """Start a manager in a lab, or find the one that is there. Raises ApplianceError.

    It is told of the lab's VMs, and of console proxies unless those register themselves.
    """
    if (known := find(lab)) is not None:
        return known
    folder = lab.folder / "manager"
    folder.mkdir(mode=0o700)
    address = lab.manager.spec.nics[0].addresses[0].partition("/")[0]
    tokens = _prepare(lab, folder, address)
    spawn(lab.manager.argv(_argv(lab, folder, address)), output=folder / "log")
    wait_until(lambda: lab.manager.reaches(address, PORT), _START, "the manager answers")
    made = Managed(lab, address, _forward(lab, address), tokens)
    for vm in lab.vms.values():
        _register(made, vm, proxy=proxies and vm.spec.role == ROLE)
    value = {"address": address, "port": made.port, "tokens": dict(tokens)}
    note = folder / _NOTE
    note.touch(mode=0o600)
    note.write_text(json.dumps(value))
    return made


def _prepare(lab: Lab, folder: Path, address: str) -> Mapping[str, str]:
    """A certificate for VMs that push events, and a token for each role that acts."""
    from appliance.manager import access
    from appliance.manager.database import Database

    lab.keys.authority.issue("events", addresses=[address]).write(folder, "events")
    database = Database(_url(folder))
    database.migrate()
    roles = (access.Role.CLOUD, access.Role.OPERATE)
    made = {
        role.value: database.write(
            lambda c, role=role: access.make(c, role.value, role, 0.0)  # type: ignore[misc]  # the default binds
        ).token
        for role in roles
    }
    database.close()
    return made


def _url(folder: Path) -> str:
    return f"sqlite:///{folder}/manager.db"


def _argv(lab: Lab, folder: Path, address: str) -> list[str]:
    keys = lab.folder / "keys"
    source = Path(__file__).resolve().parents[2]
    program = f"import sys; sys.path.insert(0, {str(source)!r}); "
    program += "from appliance.cli import main; main()"
    return [
        sys.executable, "-c", program, "manager", "serve",
        "--database", _url(folder), "--key", str(folder / "seal.key"),
        "--listen", f"{address}:{PORT}", "--name", lab.name,
        "--agent-ca", str(keys / "ca.pem"), "--agent-certificate", str(keys / "manager.pem"),
        "--agent-key", str(keys / "manager.key"), "--events", f"{address}:{EVENTS}",
        "--certificate", str(folder / "events.pem"),
        "--certificate-key", str(folder / "events.key"),
        "--heartbeats", f"{address}:{HEARTBEATS}",
    ]  # fmt: skip


def link(lab: Lab, vm: SystemVM, suffix: str = SUFFIX) -> str:
    """What links to this proxy begin with: its address as a name, and this suffix."""
    return f"https://{public_address(lab, vm).replace('.', '-')}{suffix}/"


def _register(made: Managed, vm: SystemVM, *, proxy: bool) -> None:
    name = vm.spec.hostname
    agent = f"https://{vm.spec.control_address.partition('/')[0]}:{vm.spec.control_port}"
    value = {"role": vm.spec.role, "zone": ZONE, "agent": agent, "account": made.lab.name}
    made.must("PUT", f"/v1/vms/{name}", value)
    if proxy:
        given = {"zone": ZONE, "agent": agent, "link": link(made.lab, vm)}
        made.must("PUT", f"/v1/proxies/{name}", given)


def _forward(lab: Lab, address: str) -> int:
    """A port of this machine that leads to the manager."""
    for wanted in (HERE, 0):
        try:
            listener = socket.create_server(("127.0.0.1", wanted), backlog=64)
        except OSError:
            continue
        with listener:
            handle = listener.fileno()
            program = str(Path(__file__).with_name("forward.py"))
            argv = [sys.executable, "-I", "-S", program, str(handle), str(PORT), address]
            spawn(lab.manager.argv(argv), keep=(handle,))
            return int(listener.getsockname()[1])
    raise ApplianceError("this machine has no free port")
