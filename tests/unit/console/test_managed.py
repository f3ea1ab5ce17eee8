"""From a manager's link to a guest's screen in a real browser, and on when the proxy is killed.

Everything on the way is real: the manager, the agents' endpoints over mutual TLS, the proxies, the
page. Between browsers and proxies stands a balancer, so that proxies have one name.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.api.ports import MachineFailed
from agent.system import consoles
from appliance.lab.wait import wait_until
from appliance.manager import follow
from appliance.manager.access import Role
from appliance.manager.database import Database
from tests.unit.console.chromium import Chromium
from tests.unit.console.conftest import NO_ADDRESS, NOVNC, state
from tests.unit.console.rig import Proxy, make, own_address
from tests.unit.console.test_browser import COLOURS
from tests.unit.manager import rig as rigs
from tests.unit.manager.agent import Agent, Keys, ProxyEngine, ProxyMachine


class KeptMachine(ProxyMachine):
    """A machine whose console proxy is a process of its own."""

    def __init__(self, control: Path) -> None:
        super().__init__(0)
        self.control = control

    def console(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return consoles.ask(message, self.control)
        except (OSError, ValueError) as error:
            raise MachineFailed("ask the console proxy", str(error)) from error

    def console_reports(self) -> Iterator[Mapping[str, Any] | None]:
        try:
            for report in consoles.watch(self.control):
                if self.mute:
                    break
                yield report
        except (OSError, ValueError) as error:
            raise MachineFailed("watch the console proxy", str(error)) from error
        raise MachineFailed("watch the console proxy", "it ended")


class Balancer:
    """One address for all proxies: a connection goes to the first that accepts it."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                browser, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(browser,), daemon=True).start()

    def _serve(self, browser: socket.socket) -> None:
        with browser:
            for port in self.ports:
                with contextlib.suppress(ConnectionRefusedError):
                    with socket.create_connection(("127.0.0.1", port)) as proxy:
                        back = threading.Thread(target=_pump, args=(proxy, browser), daemon=True)
                        back.start()
                        _pump(browser, proxy)
                        back.join()
                    return

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _pump(given: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := given.recv(65536):
            to.sendall(data)
    for one in (given, to):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def balancer() -> Iterator[Balancer]:
    one = Balancer()
    yield one
    one.close()


@pytest.fixture
def proxies(balancer: Balancer, tmp_path: Path) -> Iterator[dict[str, Proxy]]:
    if not NOVNC.exists():
        pytest.skip("noVNC is not there: make test-browser")
    if not own_address():
        pytest.skip(NO_ADDRESS)
    place = f"console.example:{balancer.port}"
    made: dict[str, Proxy] = {}
    with contextlib.ExitStack() as stack:
        for name in ("p1", "p2"):
            folder = tmp_path / name
            folder.mkdir()
            proxy = make(folder, "tls", novnc=str(NOVNC))
            proxy.write(hosts=[place], origins=[f"https://{place}"])
            stack.callback(proxy.stop)
            made[name] = proxy.start()
        yield made


def test_a_page_comes_back_at_another_proxy_when_its_own_is_killed(
    proxies: dict[str, Proxy],
    balancer: Balancer,
    desktop: int,
    browser: Chromium,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow, "SILENT", 3.0)
    keys_folder = tmp_path / "keys"
    keys_folder.mkdir()
    keys = Keys(keys_folder)
    agents = {
        name: Agent(keys, KeptMachine(proxy.control), ProxyEngine())
        for name, proxy in proxies.items()
    }
    database = Database(f"sqlite:///{tmp_path}/manager.db")
    try:
        with rigs.manager(database, keys) as rig:
            for name, agent in agents.items():
                rig.register(name, agent, link=f"https://console.example:{balancer.port}/")
                rig.wait_for(name, "running")
            cloud = rig.person(Role.CLOUD, "cloud")
            target = {"address": own_address(), "port": desktop}
            asked = {"vm": "i-2-10-VM", "user": "alice", "zone": "z1", "target": target}
            status, opened = cloud.ask("POST", "/v1/console-sessions", asked | {"title": "Web 1"})
            assert status == 200, opened
            path = f"/v1/console-sessions/{opened['id']}"
            first = opened["proxy"]
            (other,) = set(proxies) - {first}
            balancer.ports = [proxies[name].ports["tls"] for name in (first, other)]
            browser.go(opened["link"])
            wait_until(lambda: (browser.value(COLOURS) or 0) > 1, 60, "the guest's screen")
            assert browser.value("document.title") == "Web 1"
            wait_until(lambda: cloud.get(path)["state"] == "open", 60, "the manager knows")
            # The proxy is killed, with its machine.
            process = proxies[first].process
            assert process is not None
            process.kill()
            agents[first].down()
            wait_until(lambda: cloud.get(path)["proxy"] == other, 60, "another place")
            wait_until(lambda: cloud.get(path)["state"] == "open", 90, "the page is back")
            wait_until(lambda: state(browser) == "connected", 60, "a console")
            wait_until(lambda: (browser.value(COLOURS) or 0) > 1, 60, "the guest's screen")
            # A second viewer finds the VM where it is now.
            status, again = cloud.ask("POST", "/v1/console-sessions", asked | {"user": "bob"})
            assert (status, again["proxy"], again["again"]) == (200, other, True)
            cloud.ask("DELETE", path)
            wait_until(lambda: "ended by management" in state(browser), 60, "the end")
    finally:
        for agent in agents.values():
            agent.down()
        database.close()
