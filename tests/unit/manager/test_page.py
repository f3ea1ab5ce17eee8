"""The manager's page in Chromium: it shows what is, and its buttons do as they say."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.lab.wait import wait_until
from appliance.manager import access, fleet, happenings
from appliance.manager.access import Role
from appliance.manager.database import Database
from tests.unit.console.chromium import PROGRAM, Chromium, browsing
from tests.unit.manager.agent import Agent, Keys, agents
from tests.unit.manager.process import Process, running
from tests.unit.manager.test_killed import TARGET, Cloud
from tests.unit.manager.test_vms import event

HEALTH = ("ok", "ok", "warning", "silent")


@pytest.fixture
def two(keys: Keys) -> Iterator[list[Agent]]:
    with agents(keys, 2, cap=50) as made:
        yield made


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path}/manager.db")
    made.migrate()
    yield made
    made.close()


@pytest.fixture
def manager(keys: Keys, tmp_path: Path, database: Database) -> Iterator[Process]:
    url = f"sqlite:///{tmp_path}/manager.db"
    with running(url, keys, tmp_path, "m1", "--least-agent", "0.1.0") as made:
        yield made


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    if PROGRAM is None:
        pytest.skip("chromium is not installed")
    with browsing(tmp_path / "profile") as one:
        one.size(1360, 900)
        yield one


def populate(manager: Process, database: Database, proxies: list[Agent]) -> Cloud:
    made = database.write(lambda c: access.make(c, "cloud", Role.CLOUD, 0.0))
    cloud = Cloud([manager, manager], made.token)
    for number, proxy in enumerate(proxies, 1):
        link = f"https://203-0-113-{number + 6}.console.example/"
        given = {"zone": "zone1", "agent": proxy.url, "link": link}
        assert cloud.ask(0, "PUT", f"/v1/proxies/v-{number}-vm", given)[0] == 200
    wait_until(
        lambda: {one["condition"] for one in cloud.ask(0, "GET", "/v1/proxies")[1]} == {"running"},
        60,
        "the proxies report",
    )
    for number, health in enumerate(HEALTH, 10):
        name = f"r-{number}-vm"
        agent = f"https://169.254.10.{number}:8443"
        known = {"role": "router", "zone": "zone1", "agent": agent, "account": "acme"}
        assert cloud.ask(0, "PUT", f"/v1/vms/{name}", known | {"template": "0.1.0"})[0] == 200
        heard = fleet.Heard(
            name=name, beat=1.0, health=health, running=number, revision=3, boots="{}"
        )
        version = "0.0.9" if number == 12 else "0.1.0"
        database.write(lambda c, heard=heard: fleet.hear(c, [heard]))  # type: ignore[misc]  # the default binds
        database.write(
            lambda c, name=name, version=version: fleet.note_version(c, name, version)  # type: ignore[misc]  # as above
        )
    for user, vm in (("alice", "i-2-10-VM"), ("bob", "i-3-11-VM"), ("carol", "i-4-12-VM")):
        body: dict[str, object] = {"vm": vm, "user": user, "zone": "zone1", "target": TARGET}
        status, value = cloud.ask(0, "POST", "/v1/console-sessions", body)
        assert status == 200, value
        machine = proxies[int(value["proxy"].split("-")[1]) - 1].machine
        assert machine.open(value["link"].partition("#s=")[2])
        machine.table.count(value["id"], 20_114, 8_113_052, 0.0)
    return cloud


def say(database: Database, kind: str, severity: str, message: str) -> None:
    """A VM has an event."""
    words = {"kind": kind, "severity": severity, "message": message}
    one = happenings.PushedEvent(**(event(time.monotonic_ns()) | words))
    batch = happenings.Batch(vm="r-10-vm", boot="b", stream="s", events=(one,))
    database.write(lambda c: happenings.take(c, batch, 1.0))


def rows(browser: Chromium, name: str) -> list[str]:
    script = f"[...document.querySelectorAll('#{name} tr')].map(r => r.innerText)"
    return list(browser.value(script) or [])


def test_the_page_shows_what_there_is_and_disconnects(
    manager: Process, database: Database, two: list[Agent], browser: Chromium, tmp_path: Path
) -> None:
    populate(manager, database, two)
    root = database.write(lambda c: access.make(c, "root", Role.OPERATE, 0.0))
    browser.go(manager.url + "/")
    ready = f"location.href === '{manager.url}/' && document.readyState === 'complete'"
    wait_until(lambda: browser.value(ready), 60, "the page is there")
    assert browser.seen("token")
    browser.value("document.getElementById('token').value = 'sysvm_' + 'x'.repeat(43)")
    browser.value("document.getElementById('enter').requestSubmit()")
    wait_until(lambda: "valid" in browser.text("state"), 60, "a stranger is refused")
    assert not browser.seen("all")
    browser.value(f"document.getElementById('token').value = '{root.token}'")
    browser.value("document.getElementById('enter').requestSubmit()")
    wait_until(lambda: browser.seen("all"), 60, "it shows what there is")
    wait_until(lambda: "7.7 MiB" in str(rows(browser, "sessions")), 60, "bytes are counted")
    assert len(rows(browser, "proxies")) == 2
    assert ["requires upgrade" in row for row in rows(browser, "vms")] == [
        False, False, True, False,
    ]  # fmt: skip
    # Events come by themselves, as text whatever they say.
    say(database, "document.committed", "info", "revision 3 (generation 10) runs, by push")
    say(database, "service.died", "warning", "dnsmasq ended: killed (SIGKILL)")
    say(database, "service.recovered", "info", "dnsmasq answers again after 0.051 s")
    wait_until(lambda: "0.051" in str(rows(browser, "events")), 60, "the events are shown")
    browser.picture(tmp_path / "manager.png")
    say(database, "service.died", "alert", "<img src=x onerror=alert(1)>")
    wait_until(lambda: "<img" in str(rows(browser, "events")), 60, "the event is shown")
    assert browser.value("document.images.length") == 0
    browser.value("document.querySelector('[aria-label^=\"Disconnect bob\"]').click()")
    wait_until(lambda: "bob" not in str(rows(browser, "sessions")), 60, "bob is gone")
    assert sum(len(one.machine.table) for one in two) == 2
    browser.value("document.querySelector('[aria-label=\"Drain v-1-vm\"]').click()")
    wait_until(lambda: "draining" in rows(browser, "proxies")[0], 60, "it is drained")
    browser.press("leave")
    assert not browser.seen("all")
    assert browser.value("sessionStorage.length") == 0
