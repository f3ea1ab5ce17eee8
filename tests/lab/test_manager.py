"""A manager with real VMs: consoles by real proxies, a router that is lost and made anew."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.image import rootfs
from appliance.lab import Lab, consoles
from appliance.lab.managed import EVENTS, HEARTBEATS, ZONE, Managed
from appliance.lab.managed import start as manage
from appliance.lab.node import Guest
from appliance.lab.viewer import viewing
from appliance.lab.wait import wait_until
from appliance.manager.client import Client
from tests.lab.conftest import Boot
from tests.lab.helpers import VM1, WWW, example

KEY = "5a" * 32
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


def kinds(managed: Managed, name: str) -> list[str]:
    return [one["kind"] for one in get(managed, f"/v1/events?vm={name}&after=0&limit=1000")]


def test_a_router_that_is_lost_comes_back_as_it_was(cloud: Lab, managed: Managed) -> None:
    vm = cloud.vms["vm"]
    document = router_document(cloud, managed)
    name = document["site"]["hostname"]
    user_data = (ROOT / "examples/user-data.txt").read_bytes()
    blob = document["user_data"]["guests"][VM1]["user_data"]
    assert managed.ask("PUT", f"/v1/blobs/{blob}", data=user_data)[0] == 200
    status, answer = managed.ask("PUT", f"/v1/vms/{name}/document", document)
    assert (status, answer["result"]) == (200, "committed"), answer
    serves(cloud)
    # It is heard, and its events arrive.
    wait_until(lambda: get(managed, f"/v1/vms/{name}")["running"] == 1, 60, "heartbeats")
    wait_until(lambda: "document.committed" in kinds(managed, name), 60, "events")
    assert get(managed, f"/v1/vms/{name}")["agent_version"]
    # It is lost with all that it had, and another one is made in its place.
    vm.destroy()
    wait_until(lambda: get(managed, f"/v1/vms/{name}")["health"] == "silent", 60, "the silence")
    vm.create(rootfs.layers().lowers, cloud.topology.name, cloud.keys)
    vm.start(wait=False)
    status, answer = managed.ask("POST", f"/v1/vms/{name}/recreate?within=150")
    assert (status, answer["result"], answer["revision"]) == (200, "committed", 2), answer
    serves(cloud)
    wait_until(lambda: get(managed, f"/v1/vms/{name}")["health"] != "silent", 60, "heartbeats")
    wait_until(lambda: kinds(managed, name).count("document.committed") == 2, 60, "events")


def test_the_lab_leads_to_its_manager_from_here(managed: Managed) -> None:
    """For a person's browser and command line; what is there already is found again."""
    asked = Client(f"http://127.0.0.1:{managed.port}", managed.tokens["operate"])
    assert {one["role"] for one in asked.ask("GET", "/v1/vms")} == {"router", "console-proxy"}
    assert manage(managed.lab) == managed
