"""The page in a real browser, with noVNC, in front of a real VNC server and a terminal in it."""

import os
from pathlib import Path

import pytest

from appliance.lab.wait import wait_until
from tests.unit.console.chromium import Chromium
from tests.unit.console.conftest import link, opened, state
from tests.unit.console.rig import Browser as Peer
from tests.unit.console.rig import Proxy, Screen, TurnedAway, free_ports, reloaded, secret

COLOURS = """(() => {
    const canvas = document.querySelector('#screen canvas');
    if (!canvas) return 0;
    const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    const seen = new Set();
    for (let i = 0; i < data.length; i += 28) {
        seen.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
    }
    return seen.has(0x000080) ? seen.size : 0;
})()"""


def typed(browser: Chromium, text: str, there: Path) -> None:
    """Type a command into the terminal, and see that it ran."""
    browser.move(300, 200)
    browser.type(f"echo {text} > {there.name}\n")
    wait_until(lambda: there.exists() and there.read_text().strip() == text, 30, "what was typed")


def test_a_desktop_is_seen_and_typed_into_through_everything(
    page_proxy: Proxy, desktop: int, browser: Chromium, tmp_path: Path
) -> None:
    opened(browser, page_proxy, page_proxy.offer("s1", desktop))
    wait_until(lambda: browser.value(COLOURS) > 1, 30, "the terminal's colour")
    assert browser.value("document.title") == "web 1"
    place = f":{page_proxy.ports['tls']}/"
    assert browser.value("location.href").endswith(place)  # without the secret
    typed(browser, "first", tmp_path / "one")
    if folder := os.environ.get("SYSVM_PICTURES"):
        browser.picture(Path(folder) / "console.png")
    # Another certificate, while it is open.
    page_proxy.certify()
    reloaded(page_proxy, "second")
    typed(browser, "second", tmp_path / "two")
    # A drain: told to go, it comes back by itself.
    page_proxy.ask({"op": "drain", "within": 0.1})

    def back() -> bool:
        live = page_proxy.session("s1")
        return live is not None and live["connections"] == 2 and live["state"] == "open"

    wait_until(back, 30, "a way back")
    wait_until(lambda: state(browser) == "connected", 30, "a console")
    typed(browser, "third", tmp_path / "three")
    # And the end, by management.
    assert page_proxy.ask({"op": "delete", "id": "s1"}) == {"result": "ended"}
    wait_until(lambda: "ended by management" in state(browser), 30, "the end")


NOT_VALID = "This console link is not valid (any more)."


@pytest.mark.parametrize(
    ("why", "told", "logged"),
    [
        ("unknown", NOT_VALID, "unknown secret"),
        ("used", NOT_VALID, "secret used before"),
        ("expired", NOT_VALID, "secret expired"),
        ("foreign address", NOT_VALID, "foreign address"),
        ("foreign proxy", NOT_VALID, "unknown secret"),
        ("too many", "Too many attempts.", "too many wrong secrets"),
        ("full", "This console proxy is full.", "proxy is full"),
        ("none", "This console link is not complete.", None),
    ],
)
def test_a_link_that_opens_nothing_says_why(
    page_proxy: Proxy,
    screen: Screen,
    browser: Chromium,
    tmp_path: Path,
    why: str,
    told: str,
    logged: str | None,
) -> None:
    policy = {"source": "192.0.2.7/32"} if why == "foreign address" else {}
    valid = 0.0 if why == "expired" else 60.0
    offered = page_proxy.offer("s1", screen.port, policy=policy, valid=valid)
    if why == "unknown":
        offered = offered[::-1]
    if why == "used":
        opened(browser, page_proxy, offered)
    if why == "foreign proxy":
        offered = secret("pushed to another proxy")
    if why == "too many":
        for number in range(10):
            with pytest.raises(TurnedAway):
                Peer(page_proxy, offer=secret(f"guess {number}")).open()
    if why == "full":
        page_proxy.write(cap=0)
        reloaded(page_proxy, "full")
    browser.go(link(page_proxy, "" if why == "none" else offered))
    wait_until(lambda: told in state(browser), 60, "a reason")
    assert browser.value("document.getElementById('reason').textContent").startswith(told)
    assert logged is None or f"is refused: {logged}" in page_proxy.log
    assert offered not in page_proxy.log
    if folder := os.environ.get("SYSVM_PICTURES"):
        browser.picture(Path(folder) / f"refused-{why.replace(' ', '-')}.png")


def test_a_hypervisor_that_is_not_there_is_told(page_proxy: Proxy, browser: Chromium) -> None:
    (port,) = free_ports(1)
    browser.go(link(page_proxy, page_proxy.offer("s1", port)))
    wait_until(lambda: "cannot be reached: Connection refused" in state(browser), 60, "a reason")


def test_a_page_that_is_loaded_again_comes_back(
    page_proxy: Proxy, desktop: int, browser: Chromium, tmp_path: Path
) -> None:
    offered = page_proxy.offer("s1", desktop, policy={"resume": 60.0})
    opened(browser, page_proxy, offered)
    for times in (2, 3):
        browser.ask("Page.reload")
        came_back(browser, page_proxy, times)
    wait_until(lambda: browser.value(COLOURS) > 1, 30, "the terminal's colour")
    assert browser.value("document.title") == "web 1"
    typed(browser, "again", tmp_path / "again")
    # What is over does not come back, whoever asks.
    page_proxy.ask({"op": "delete", "id": "s1"})
    wait_until(lambda: "ended by management" in state(browser), 30, "the end")
    assert browser.value("sessionStorage.length") == 0
    browser.ask("Page.reload")
    wait_until(lambda: "not complete" in state(browser), 60, "a reason")


def came_back(browser: Chromium, proxy: Proxy, connections: int, name: str = "s1") -> None:
    def back() -> bool:
        live = proxy.session(name)
        return live is not None and live["connections"] == connections and live["state"] == "open"

    wait_until(back, 60, "a way back")
    wait_until(lambda: state(browser) == "connected", 60, "a console")


def test_a_page_that_may_not_come_back_does_not_when_it_is_left(
    page_proxy: Proxy, screen: Screen, browser: Chromium
) -> None:
    opened(browser, page_proxy, page_proxy.offer("s1", screen.port, policy={"resume": 0.0}))
    browser.go("about:blank")
    wait_until(lambda: page_proxy.session("s1") is None, 60, "the end")
    browser.go(link(page_proxy, "").partition("#")[0])
    wait_until(lambda: NOT_VALID in state(browser), 60, "a reason")
    assert browser.value("sessionStorage.length") == 0


def test_a_new_link_counts_more_than_what_a_tab_has_kept(
    page_proxy: Proxy, screen: Screen, browser: Chromium
) -> None:
    opened(browser, page_proxy, page_proxy.offer("s1", screen.port, policy={"resume": 60.0}))
    other = link(page_proxy, page_proxy.offer("s2", screen.port, policy={"resume": 60.0}))
    browser.value(f"location.assign({other!r})")  # as one who puts it into the address bar
    came_back(browser, page_proxy, 1, "s2")
    browser.ask("Page.reload")
    came_back(browser, page_proxy, 2, "s2")
    assert browser.value("location.hash") == ""


def test_a_tab_whose_console_was_taken_along_by_another_says_so(
    page_proxy: Proxy, screen: Screen, browser: Chromium
) -> None:
    opened(browser, page_proxy, page_proxy.offer("s1", screen.port, policy={"resume": 60.0}))
    kept = browser.value("sessionStorage.getItem(sessionStorage.key(0))")
    Peer(page_proxy, offer=kept).open()  # a tab that is duplicated has the same
    wait_until(lambda: "opened elsewhere" in state(browser), 60, "a reason")
    with pytest.raises(TurnedAway):
        Peer(page_proxy, offer=kept).open()
