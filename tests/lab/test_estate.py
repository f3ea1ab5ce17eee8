"""Consoles from the manager's link to a guest's desktop, and back after each kind of loss.

Real proxies, a real manager, Chromium on the lab's internet. A proxy that is lost is replaced as an
operator does it: its address is moved to the other one, by a push.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.services import console
from appliance.lab import Lab, consoles, estate
from appliance.lab.estate import Estate
from appliance.lab.managed import SUFFIX
from appliance.lab.vm import SystemVM
from appliance.lab.wait import wait_until
from tests.lab.conftest import Boot
from tests.lab.test_console_browser import NAVY
from tests.unit.console.chromium import PROGRAM, Chromium, browsing

LONG = 120  # seconds; a lost proxy is silent after twenty
# What the page says below its state, from now on; the reason of the connection's end is there.
HINTS = """(() => {
    const hint = document.getElementById("hint");
    window.hints = [];
    new MutationObserver(() => window.hints.push(hint.textContent))
        .observe(hint, {childList: true, characterData: true, subtree: true});
})()"""


@pytest.fixture(scope="module")
def made(boot_lab: Boot) -> Estate:
    lab = boot_lab("console")
    for vm in lab.vms.values():
        vm.wait_ready()
    return estate.start(lab)


@pytest.fixture(scope="module")
def chromium(made: Estate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A browser on the internet, with its name server."""
    if PROGRAM is None:
        pytest.skip("chromium is not installed")
    prefix = made.managed.lab.internet.argv([])
    with browsing(tmp_path_factory.mktemp("browser") / "profile", prefix) as one:
        yield one


@pytest.fixture
def browser(made: Estate, chromium: Chromium) -> Iterator[Chromium]:
    """Its page; no session is left afterwards."""
    yield chromium
    chromium.go("about:blank")
    for one in ask(made, "GET", "/v1/console-sessions"):
        ask(made, "DELETE", f"/v1/console-sessions/{one['id']}")


def ask(made: Estate, method: str, path: str, value: object = None) -> Any:
    return made.managed.must(method, path, value, role="operate")


def opened(made: Estate, vm: str) -> dict[str, Any]:
    answer: dict[str, Any] = ask(made, "POST", "/v1/console-sessions", {"vm": vm})
    return answer


def session(made: Estate, identity: str) -> dict[str, Any]:
    row: dict[str, Any] = ask(made, "GET", f"/v1/console-sessions/{identity}")
    return row


def proxies(made: Estate, name: str) -> tuple[SystemVM, SystemVM]:
    """The proxy of this name, and the other one."""
    one, other = consoles.proxies_of(made.managed.lab)
    return (one, other) if one.spec.hostname == name else (other, one)


def condition(made: Estate, vm: SystemVM) -> str:
    rows = ask(made, "GET", "/v1/proxies")
    return next(str(row["condition"]) for row in rows if row["name"] == vm.spec.hostname)


def host_of(made: Estate, vm: SystemVM) -> str:
    return f"{consoles.public_address(made.managed.lab, vm).replace('.', '-')}{SUFFIX}"


def held(made: Estate, vm: SystemVM) -> list[str]:
    """The sessions that a proxy has, as its own agent says."""
    rows = vm.request("GET", "/v1/console/sessions").json()["sessions"]
    return [row["id"] for row in rows]


def connected(browser: Chromium, *, nudge: bool = False) -> bool:
    """Is there a screen? With `nudge`, the mouse is moved, as one does whose screen stands."""
    if nudge:
        browser.move(200, 150)
    return bool(browser.text("state") == "connected")


def seen(made: Estate, browser: Chromium, value: dict[str, Any]) -> None:
    """A link is opened; the guest's terminal is seen."""
    browser.go(value["link"])
    wait_until(lambda: connected(browser), 60, "a console")
    wait_until(lambda: browser.value(NAVY) > 1, 60, "the terminal's colour")
    wait_until(lambda: session(made, value["id"])["state"] == "open", 60, "the manager knows")


def typed(made: Estate, browser: Chromium, vm: str, words: str) -> str:
    """What a command says in the guest, typed through the page."""
    lab = made.managed.lab
    port = 5901 + sorted(lab.guests).index(vm)
    file = lab.hypervisor.folder / f"desktop-{port}" / "said"
    file.unlink(missing_ok=True)
    browser.move(300, 200)
    browser.type(f"{words} > part; mv part said\n")
    wait_until(file.exists, 60, words)
    return file.read_text().strip()


def picture(browser: Chromium, name: str) -> None:
    if folder := os.environ.get("SYSVM_PICTURES"):
        browser.picture(Path(folder) / f"{name}.png")


def certificate(made: Estate, vm: SystemVM) -> bytes | None:
    """What a new connection to a proxy is shown."""
    lab = made.managed.lab
    context = ssl.create_default_context(cadata=lab.keys.authority.identity.certificate)
    with (
        lab.internet.connect(consoles.public_address(lab, vm), 443) as sock,
        context.wrap_socket(sock, server_hostname=host_of(made, vm)) as secure,
    ):
        return secure.getpeercert(binary_form=True)


def again(made: Estate, browser: Chromium, value: dict[str, Any], at: SystemVM) -> None:
    """The page is back by itself, and the manager knows where."""
    wait_until(lambda: connected(browser, nudge=True), LONG, "the page is back")
    assert browser.value("location.href") == value["link"].partition("#")[0]

    def known() -> bool:
        row = session(made, value["id"])
        return (row["state"], row["proxy"]) == ("open", at.spec.hostname)

    wait_until(known, 60, "the manager knows where it is")
    assert value["id"] in held(made, at)


@contextmanager
def replaced(made: Estate, lost: SystemVM, by: SystemVM) -> Iterator[None]:
    """A proxy's address is moved to another one, and given back before the first comes up."""
    estate.take_over(made, lost, by)
    try:
        yield
    finally:
        estate.push(made, by)
        if not lost.running:
            lost.start()
            lost.wait_ready(120)
        wait_until(lambda: condition(made, lost) != "silent", LONG, "it reports again")


def test_a_link_from_the_manager_shows_the_guest(made: Estate, browser: Chromium) -> None:
    value = opened(made, "vm1")
    at, _ = proxies(made, value["proxy"])
    seen(made, browser, value)
    assert browser.value("document.title") == "vm1"
    assert browser.value("location.href") == f"https://{host_of(made, at)}/"
    assert "10.1.1.10" in typed(made, browser, "vm1", "ip -4 -br address show eth0")
    assert held(made, at) == [value["id"]]
    # And ends by an operator's hand.
    ended = ask(made, "DELETE", f"/v1/console-sessions/{value['id']}")
    assert ended["state"] == "ended"
    wait_until(lambda: "ended by management" in browser.text("reason"), 60, "the page says why")
    picture(browser, "disconnected")
    assert held(made, at) == []


def test_a_stranger_gets_neither_link_nor_session(made: Estate, browser: Chromium) -> None:
    managed = made.managed
    tokens = {
        name: managed.must("POST", "/v1/tokens", {"name": name, "role": "user"}, role="operate")
        for name in ("mallory", estate.OWNER)
    }

    def asked(name: str, vm: str) -> tuple[int, Any]:
        value = {"vm": vm}
        return managed.ask("POST", "/v1/console-sessions", value, token=tokens[name]["token"])

    status, refused = asked("mallory", "vm2")
    assert (status, refused.get("link")) == (404, None)
    assert (
        asked("mallory", "nothing-of-the-kind")[1]["detail"].replace("nothing-of-the-kind", "vm2")
        == refused["detail"]
    )
    assert ask(made, "GET", "/v1/console-sessions") == []
    assert [held(made, vm) for vm in consoles.proxies_of(managed.lab)] == [[], []]
    status, value = asked(estate.OWNER, "vm2")
    assert status == 200, value
    seen(made, browser, value)
    # Nor does he see or end that one.
    path = f"/v1/console-sessions/{value['id']}"
    for method in ("GET", "DELETE"):
        assert managed.ask(method, path, token=tokens["mallory"]["token"])[0] == 404
    assert managed.ask("GET", path, token=tokens[estate.OWNER]["token"])[0] == 200
    for one in tokens.values():
        managed.must("DELETE", f"/v1/tokens/{one['id']}", role="operate")
    assert asked(estate.OWNER, "vm2")[0] == 401


def test_certificates_go_to_all_proxies_and_end_no_session(made: Estate, browser: Chromium) -> None:
    lab = made.managed.lab
    value = opened(made, "vm1")
    seen(made, browser, value)
    both = consoles.proxies_of(lab)
    before = [certificate(made, vm) for vm in both]
    authority = lab.keys.authority
    issued = authority.issue(f"*{SUFFIX}")
    given = {
        "certificates": {"server": issued.certificate, "root": authority.identity.certificate},
        "key": issued.key,
    }
    pushed = ask(made, "PUT", "/v1/certificates", given)
    assert {(one["vm"], one["result"]) for one in pushed} == {
        (vm.spec.hostname, "committed") for vm in both
    }
    new = ssl.PEM_cert_to_DER_cert(issued.certificate)
    assert [certificate(made, vm) for vm in both] == [new, new]
    assert new not in before
    assert typed(made, browser, "vm1", "echo still there") == "still there"
    assert session(made, value["id"])["connections"] == 1


def test_a_killed_service_has_its_pages_back(made: Estate, browser: Chromium) -> None:
    value = opened(made, "vm1")
    at, other = proxies(made, value["proxy"])
    seen(made, browser, value)
    at.run(["systemctl", "kill", "--signal=KILL", console.UNIT])
    wait_until(lambda: not connected(browser), 60, "the page notices")
    again(made, browser, value, at)
    assert typed(made, browser, "vm1", "echo again") == "again"
    assert held(made, other) == []


def test_a_proxy_whose_plug_is_pulled_is_replaced_by_the_other(
    made: Estate, browser: Chromium
) -> None:
    value = opened(made, "vm2")
    at, other = proxies(made, value["proxy"])
    seen(made, browser, value)
    last = max((one["id"] for one in events(made)), default=0)
    at.pull_plug()
    wait_until(
        lambda: any(
            one["kind"] == "manager.proxy-silent" and at.spec.hostname in one["message"]
            for one in events(made, last)
        ),
        LONG, "an event says so",
    )  # fmt: skip
    with replaced(made, at, other):
        again(made, browser, value, other)
        picture(browser, "replaced")
        assert "10.1.1.11" in typed(made, browser, "vm2", "ip -4 -br address show eth0")
        # The VM has one place, so another viewer comes there as well.
        assert opened(made, "vm2")["proxy"] == other.spec.hostname
    assert held(made, at) == []


def test_a_drained_proxy_sends_its_pages_to_the_other(made: Estate, browser: Chromium) -> None:
    value = opened(made, "vm3")
    at, other = proxies(made, value["proxy"])
    name = at.spec.hostname
    seen(made, browser, value)
    ending = ask(made, "POST", f"/v1/proxies/{name}/drain", {"within": 600})
    try:
        assert [one["id"] for one in ending["sessions"]] == [value["id"]]
        assert typed(made, browser, "vm3", "echo not yet") == "not yet"
        assert opened(made, "vm1")["proxy"] == other.spec.hostname
        # What is to be replaced is switched off in an orderly way: it tells pages to come back.
        browser.value(HINTS)
        at.power_off()
        wait_until(lambda: not connected(browser), 60, "the page is told")
        assert browser.value("window.hints[0]") == "This console proxy is restarting."
        with replaced(made, at, other):
            again(made, browser, value, other)
            assert "10.1.1.12" in typed(made, browser, "vm3", "ip -4 -br address show eth0")
    finally:
        ask(made, "DELETE", f"/v1/proxies/{name}/drain")
    wait_until(lambda: condition(made, at) == "running", LONG, "it takes sessions again")


def events(made: Estate, after: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(made, "GET", f"/v1/events?after={after}&limit=1000")
    return found


def test_what_the_lab_has_is_what_the_manager_knows(made: Estate) -> None:
    lab: Lab = made.managed.lab
    names = {vm.spec.hostname for vm in lab.vms.values()}
    wait_until(lambda: {one["vm"] for one in events(made)} >= names, LONG, "events of all VMs")
    known = ask(made, "GET", "/v1/vms")
    assert {one["name"] for one in known} == names
    assert all(one["running"] and one["agent_version"] for one in known)
    assert {guest.run(["hostname", "-I"]).text.split()[0] for guest in lab.guests.values()} == {
        "10.1.1.10", "10.1.1.11", "10.1.1.12",
    }  # fmt: skip
