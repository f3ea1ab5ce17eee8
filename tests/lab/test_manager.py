"""A manager with real VMs: consoles by real proxies, a router that is lost and made anew."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.image import rootfs
from appliance.lab import Lab, consoles
from appliance.lab.http import exchange
from appliance.lab.node import Guest
from appliance.lab.viewer import viewing
from appliance.lab.wait import wait_until
from appliance.manager import access
from appliance.manager.access import Role
from appliance.manager.database import Database
from tests.lab.conftest import Boot
from tests.lab.helpers import VM1, WWW, example

PORT, EVENTS, BEATS = 8080, 8444, 8445
KEY = "5a" * 32
ROOT = Path(__file__).parents[2]
SCREEN = """
import threading
from tests.unit.console.rig import Screen
screen = Screen()
print(screen.port, flush=True)
threading.Event().wait()
"""


class Managed:
    """A manager on the lab's management node."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.address = lab.manager.spec.nics[0].addresses[0].split("/")[0]
        keys, known = lab.manager.keys, lab.manager.keys_folder
        keys.authority.issue("receiver", addresses=[self.address]).write(folder, "receiver")
        url = f"sqlite:///{folder}/manager.db"
        database = Database(url)
        database.migrate()
        made = database.write(lambda c: access.make(c, "cloud", Role.CLOUD, 0.0))
        root = database.write(lambda c: access.make(c, "root", Role.OPERATE, 0.0))
        database.close()
        self.tokens = {"cloud": made.token, "root": root.token}
        self.ca = (known / "ca.pem").read_text()
        argv = [
            sys.executable, "-c",
            f"import os; os.chdir({str(ROOT)!r}); from appliance.cli import main; main()",
            "manager", "serve", "--database", url, "--key", str(folder / "seal.key"),
            "--listen", f"{self.address}:{PORT}", "--agent-ca", str(known / "ca.pem"),
            "--agent-certificate", str(known / "manager.pem"),
            "--agent-key", str(known / "manager.key"), "--name", "m1",
            "--events", f"{self.address}:{EVENTS}",
            "--certificate", str(folder / "receiver.pem"),
            "--certificate-key", str(folder / "receiver.key"),
            "--heartbeats", f"{self.address}:{BEATS}",
        ]  # fmt: skip
        self.process = lab.manager.popen(argv)
        wait_until(lambda: lab.manager.reaches(self.address, PORT), 60, "the manager answers")

    def ask(
        self, method: str, path: str, value: object = None, *, who: str = "cloud",
        data: bytes | None = None,
    ) -> tuple[int, Any]:  # fmt: skip
        sock = self.lab.manager.connect(self.address, PORT, timeout=180)
        headers = {"Authorization": f"Bearer {self.tokens[who]}"}
        body = data if data is not None else json.dumps(value).encode() if value else b""
        answer = exchange(sock, method, path, body=body, headers=headers)
        return answer.status, answer.json()

    def get(self, path: str) -> Any:
        status, value = self.ask("GET", path)
        assert status == 200, value
        return value


@pytest.fixture(scope="module")
def cloud(boot_lab: Boot) -> Lab:
    """A router, a console proxy, guests, a hypervisor."""
    lab = boot_lab("demo")
    for vm in lab.vms.values():
        vm.wait_ready()
    return lab


@pytest.fixture(scope="module")
def managed(cloud: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    made = Managed(cloud, tmp_path_factory.mktemp("manager"))
    yield made
    made.process.terminate()
    made.process.wait(20)


@pytest.fixture(scope="module")
def screen(cloud: Lab) -> Iterator[int]:
    """The port of a guest's screen, at the hypervisor."""
    code = f"import os; os.chdir({str(ROOT)!r})\n{SCREEN}"
    with cloud.hypervisor.popen([sys.executable, "-c", code]) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.terminate()


def agent_of(lab: Lab, node: str) -> str:
    spec = lab.vms[node].spec
    return f"https://{spec.control_address.partition('/')[0]}:{spec.control_port}"


def test_a_console_is_opened_through_a_real_proxy(
    cloud: Lab, managed: Managed, screen: int
) -> None:
    name = cloud.vms["proxy"].spec.hostname
    agent = agent_of(cloud, "proxy")
    vm = {"role": "console-proxy", "zone": "z1", "agent": agent}
    assert managed.ask("PUT", f"/v1/vms/{name}", vm)[0] == 200
    document = consoles.document(cloud, {"console": {"ports": ["1024-65535"]}})
    status, answer = managed.ask("PUT", f"/v1/vms/{name}/document", document)
    assert (status, answer["result"]) == (200, "committed"), answer
    public = consoles.public_address(cloud)
    host = f"{public.replace('.', '-')}.console.example.test"
    given = {"zone": "z1", "agent": agent, "link": f"https://{host}/"}
    assert managed.ask("PUT", f"/v1/proxies/{name}", given)[0] == 200
    wait_until(
        lambda: managed.get("/v1/proxies")[0]["condition"] == "running", 60, "the proxy reports"
    )
    target = {"address": cloud.hypervisor.address, "port": screen}
    asked = {"vm": "i-2-10-VM", "user": "alice", "zone": "z1", "title": "Web 1", "target": target}
    status, opened = managed.ask("POST", "/v1/console-sessions", asked)
    assert status == 200, opened
    path = f"/v1/console-sessions/{opened['id']}"
    with viewing(cloud.internet.connect(public, 443), managed.ca, opened["link"]) as seen:
        assert seen.title == "Web 1"
        wait_until(lambda: managed.get(path)["state"] == "open", 30, "the manager knows")
        assert managed.get(path)["source"] == "203.0.113.1"
        status, row = managed.ask("DELETE", path)
        assert (status, row["why"]) == (200, "ended by management")
    target = {"address": VM1, "port": 5901}  # a guest, not a hypervisor
    status, problem = managed.ask("POST", "/v1/console-sessions", asked | {"target": target})
    assert (status, problem["type"]) == (422, "/v1/problems/invalid")


def router_document(managed: Managed) -> dict[str, Any]:
    url = f"https://{managed.address}:{EVENTS}/v1/events"
    beat = {"address": managed.address, "port": BEATS, "key": KEY, "interval": 1}
    return example() | {"events": {"push": {"url": url, "ca": managed.ca}, "heartbeat": beat}}


def serves(cloud: Lab) -> None:
    """A guest has its lease, reaches the internet and is reached."""
    guest: Guest = cloud.guests["vm1"]
    guest.forget()
    assert guest.dhcp().address.partition("/")[0] == VM1
    assert guest.get(f"http://{WWW}/").text.startswith("internet sees 203.0.113.")
    with guest.serve(80):
        assert cloud.internet.reaches("203.0.113.10", 8080, timeout=5)


def kinds(managed: Managed, name: str) -> list[str]:
    return [one["kind"] for one in managed.get(f"/v1/events?vm={name}&after=0&limit=1000")]


def test_a_router_that_is_lost_comes_back_as_it_was(cloud: Lab, managed: Managed) -> None:
    vm = cloud.vms["vm"]
    document = router_document(managed)
    name = document["site"]["hostname"]
    given = {"role": "router", "zone": "z1", "agent": agent_of(cloud, "vm"), "account": "acme"}
    assert managed.ask("PUT", f"/v1/vms/{name}", given)[0] == 200
    user_data = (ROOT / "examples/user-data.txt").read_bytes()
    blob = document["user_data"]["guests"][VM1]["user_data"]
    assert managed.ask("PUT", f"/v1/blobs/{blob}", data=user_data)[0] == 200
    status, answer = managed.ask("PUT", f"/v1/vms/{name}/document", document)
    assert (status, answer["result"]) == (200, "committed"), answer
    serves(cloud)
    # It is heard, and its events arrive.
    wait_until(lambda: managed.get(f"/v1/vms/{name}")["running"] == 1, 60, "heartbeats")
    wait_until(lambda: "document.committed" in kinds(managed, name), 60, "events")
    assert managed.get(f"/v1/vms/{name}")["agent_version"]
    # It is lost with all that it had, and another one is made in its place.
    vm.destroy()
    wait_until(lambda: managed.get(f"/v1/vms/{name}")["health"] == "silent", 60, "the silence")
    vm.create(rootfs.layers().lowers, cloud.topology.name, cloud.keys)
    vm.start(wait=False)
    status, answer = managed.ask("POST", f"/v1/vms/{name}/recreate?within=150")
    assert (status, answer["result"], answer["revision"]) == (200, "committed", 2), answer
    serves(cloud)
    wait_until(lambda: managed.get(f"/v1/vms/{name}")["health"] != "silent", 60, "heartbeats")
    wait_until(lambda: kinds(managed, name).count("document.committed") == 2, 60, "events")
