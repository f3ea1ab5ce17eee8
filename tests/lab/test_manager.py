"""A manager with real VMs: consoles by real proxies, a router that is lost and made anew."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from appliance.image import rootfs
from appliance.lab import Lab, consoles, network
from appliance.lab.managed import EVENTS, HEARTBEATS, ZONE, Managed
from appliance.lab.managed import start as manage
from appliance.lab.node import Guest
from appliance.lab.process import Popen
from appliance.lab.viewer import viewing
from appliance.lab.wait import wait_until
from appliance.manager.client import Client
from tests.lab.conftest import Boot
from tests.lab.helpers import VM1, VM2, WWW, example, settle, with_mac

KEY = "5a" * 32
VISITOR, OTHER_VISITOR = "02:00:0a:01:01:77", "02:00:0a:01:01:78"
ROOT = Path(__file__).parents[2]
SCREEN = """
import threading
from tests.unit.console.rig import Screen
screen = Screen()
print(screen.port, flush=True)
threading.Event().wait()
"""


@pytest.fixture(scope="module")
def cloud(boot_lab: Boot) -> Lab:
    """A router, a console proxy, guests, a hypervisor."""
    lab = boot_lab("demo")
    for vm in lab.vms.values():
        vm.wait_ready()
    return lab


@pytest.fixture(scope="module")
def managed(cloud: Lab) -> Managed:
    """The lab's manager; it ends with the lab."""
    return manage(cloud)


@pytest.fixture(scope="module")
def screen(cloud: Lab) -> Iterator[int]:
    """The port of a guest's screen, at the hypervisor."""
    code = f"import os; os.chdir({str(ROOT)!r})\n{SCREEN}"
    with cloud.hypervisor.popen([sys.executable, "-c", code]) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.terminate()


def get(managed: Managed, path: str) -> Any:
    return managed.must("GET", path)


def ca(lab: Lab) -> str:
    return lab.keys.authority.identity.certificate


def agent_of(lab: Lab, node: str) -> str:
    spec = lab.vms[node].spec
    return f"https://{spec.control_address.partition('/')[0]}:{spec.control_port}"


def test_a_console_is_opened_through_a_real_proxy(
    cloud: Lab, managed: Managed, screen: int
) -> None:
    name = cloud.vms["proxy"].spec.hostname
    agent = agent_of(cloud, "proxy")
    document = consoles.document(cloud, {"console": {"ports": ["1024-65535"]}})
    status, answer = managed.ask("PUT", f"/v1/vms/{name}/document", document)
    assert (status, answer["result"]) == (200, "committed"), answer
    public = consoles.public_address(cloud)
    host = f"{public.replace('.', '-')}.console.example.test"
    (row,) = get(managed, "/v1/proxies")
    assert (row["name"], row["link"], row["agent"]) == (name, f"https://{host}/", agent)
    wait_until(
        lambda: get(managed, "/v1/proxies")[0]["condition"] == "running", 60, "the proxy reports"
    )
    target = {"address": cloud.hypervisor.address, "port": screen}
    asked = {"vm": "i-2-10-VM", "user": "alice", "zone": ZONE, "title": "Web 1", "target": target}
    status, opened = managed.ask("POST", "/v1/console-sessions", asked)
    assert status == 200, opened
    path = f"/v1/console-sessions/{opened['id']}"
    with viewing(cloud.internet.connect(public, 443), ca(cloud), opened["link"]) as seen:
        assert seen.title == "Web 1"
        wait_until(lambda: get(managed, path)["state"] == "open", 30, "the manager knows")
        assert get(managed, path)["source"] == "203.0.113.1"
        status, row = managed.ask("DELETE", path)
        assert (status, row["why"]) == (200, "ended by management")
    target = {"address": VM1, "port": 5901}  # a guest, not a hypervisor
    status, problem = managed.ask("POST", "/v1/console-sessions", asked | {"target": target})
    assert (status, problem["type"]) == (422, "/v1/problems/invalid")


def router_document(cloud: Lab, managed: Managed) -> dict[str, Any]:
    url = f"https://{managed.address}:{EVENTS}/v1/events"
    beat = {"address": managed.address, "port": HEARTBEATS, "key": KEY, "interval": 1}
    return example() | {"events": {"push": {"url": url, "ca": ca(cloud)}, "heartbeat": beat}}


def serves(cloud: Lab) -> None:
    """A guest has its lease, reaches the internet and is reached."""
    guest: Guest = cloud.guests["vm1"]
    guest.forget()
    assert guest.dhcp().address.partition("/")[0] == VM1
    assert guest.get(f"http://{WWW}/").text.startswith("internet sees 203.0.113.")
    with guest.serve(80):
        assert cloud.internet.reaches("203.0.113.10", 8080, timeout=5)


@dataclass(frozen=True, slots=True)
class Visitor:
    """A guest whose DHCP client goes on running."""

    address: str
    client: Popen[bytes]
    note: Path

    def renewed(self) -> tuple[str, str]:
        """What the server says when the client would like to keep its lease; and the address."""
        self.note.unlink()
        self.client.send_signal(signal.SIGUSR1)  # udhcpc(8): renew now
        return noted(self.note)


def noted(note: Path) -> tuple[str, str]:
    """What the DHCP client was told: the event, and its address."""

    def read() -> dict[str, str]:
        with suppress(FileNotFoundError, ValueError):  # not yet, or half of it
            return dict(json.loads(note.read_text()))
        return {}

    said = wait_until(read, 60, "an answer to the DHCP client")
    return said["event"], said.get("ip", "")


@contextmanager
def visiting(guest: Guest) -> Iterator[Visitor]:
    """A guest with what DHCP has for strangers, and a client that keeps it."""
    guest.dhcp()
    guest.forget()
    note = guest.folder / "lease.json"
    note.unlink()
    argv = ["busybox", "udhcpc", "-f", "-i", guest.nic.name, "-s", str(guest.folder / "lease-note")]
    with guest.popen(argv) as client:
        event, address = noted(note)
        assert event == "bound"
        assert address not in {VM1, VM2}
        settle(guest, address)
        try:
            yield Visitor(address, client, note)
        finally:
            client.kill()


def kinds(managed: Managed, name: str) -> list[str]:
    return [one["kind"] for one in get(managed, f"/v1/events?vm={name}&after=0&limit=1000")]


def test_a_router_that_is_lost_comes_back_as_it_was(cloud: Lab, managed: Managed) -> None:
    document = router_document(cloud, managed)
    name = document["site"]["hostname"]
    user_data = (ROOT / "examples/user-data.txt").read_bytes()
    blob = document["user_data"]["guests"][VM1]["user_data"]
    assert managed.ask("PUT", f"/v1/blobs/{blob}", data=user_data)[0] == 200
    status, answer = managed.ask("PUT", f"/v1/vms/{name}/document", document)
    assert (status, answer["result"]) == (200, "committed"), answer
    serves(cloud)
    # Beside it there is one whom no document names: of his lease the router alone knows.
    with with_mac(cloud.guests["vm2"], VISITOR), visiting(cloud.guests["vm2"]) as visitor:
        _lost_and_made_anew(cloud, managed, name)
        # Nobody asks for a lease: what they have is as good as before.
        for guest in (cloud.guests["vm1"], cloud.guests["vm2"]):
            assert guest.get(f"http://{WWW}/").text.startswith("internet sees 203.0.113.")
        # Nobody else is given the visitor's address, and he may keep it.
        with with_mac(cloud.guests["vm1"], OTHER_VISITOR):
            assert cloud.guests["vm1"].dhcp().address != visitor.address
        assert visitor.renewed() == ("renew", visitor.address)
    serves(cloud)
    wait_until(lambda: get(managed, f"/v1/vms/{name}")["health"] != "silent", 60, "heartbeats")
    wait_until(lambda: kinds(managed, name).count("document.committed") == 2, 60, "events")


def _lost_and_made_anew(cloud: Lab, managed: Managed, name: str) -> None:
    """It is lost with all that it had, and another one, that has nothing, takes its place."""
    vm = cloud.vms["vm"]
    # It is heard, and its events arrive.
    wait_until(lambda: get(managed, f"/v1/vms/{name}")["running"] == 1, 60, "heartbeats")
    wait_until(lambda: "document.committed" in kinds(managed, name), 60, "events")
    assert get(managed, f"/v1/vms/{name}")["agent_version"]
    machine = vm.read("/etc/machine-id")
    vm.destroy()
    assert not vm.container.path.exists()
    assert not (network.NETNS / vm.namespace).exists()
    wait_until(lambda: get(managed, f"/v1/vms/{name}")["health"] == "silent", 60, "the silence")
    assert not cloud.guests["vm1"].reaches(WWW, 80, timeout=0.5)
    vm.create(rootfs.layers().lowers, cloud.topology.name, cloud.keys)
    vm.start(wait=False)
    vm.wait_ready(120)
    assert vm.read("/etc/machine-id") != machine
    assert vm.request("GET", "/v1/revisions").json()["current"] == 1  # closed, as each at first
    assert not cloud.guests["vm1"].reaches(WWW, 80, timeout=0.5)
    status, answer = managed.ask("POST", f"/v1/vms/{name}/recreate?within=150")
    assert (status, answer["result"], answer["revision"]) == (200, "committed", 2), answer


def test_the_lab_leads_to_its_manager_from_here(managed: Managed) -> None:
    """For a person's browser and command line; what is there already is found again."""
    asked = Client(f"http://127.0.0.1:{managed.port}", managed.tokens["operate"])
    assert {one["role"] for one in asked.ask("GET", "/v1/vms")} == {"router", "console-proxy"}
    assert manage(managed.lab) == managed
