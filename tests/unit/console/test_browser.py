"""The page in a real browser, with noVNC, in front of a real VNC server and a terminal in it."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.lab.wait import wait_until
from tests.unit.console.chromium import PROGRAM, Chromium, browsing
from tests.unit.console.rig import Proxy, free_ports, make, own_address, running

NOVNC = Path(__file__).parents[3] / ".make/novnc/usr/share/novnc"
XVNC, XTERM = shutil.which("Xtigervnc"), shutil.which("xterm")

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed"),
    pytest.mark.skipif(XVNC is None or XTERM is None, reason="Xtigervnc or xterm is not installed"),
    pytest.mark.skipif(not NOVNC.exists(), reason="noVNC is not there: make test-browser"),
    pytest.mark.skipif(not own_address(), reason="the machine has no address but loopback's"),
]


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    proxy = make(tmp_path, "tls", novnc=str(NOVNC))
    port = proxy.ports["tls"]
    place = f"console.example:{port}"
    proxy.write(hosts=[place], origins=[f"https://{place}"])
    with running(proxy):
        yield proxy


@pytest.fixture
def desktop(tmp_path: Path) -> Iterator[int]:
    """A screen with a terminal that has the focus wherever the pointer is; its port."""
    (port,) = free_ports(1)
    number = port
    assert XVNC is not None
    assert XTERM is not None
    server = subprocess.Popen(
        (
            *(XVNC, f":{number}", "-rfbport", str(port), "-interface", "0.0.0.0"),  # noqa: S104
            *("-geometry", "640x400", "-depth", "24", "-SecurityTypes", "None"),
            *("-nolisten", "tcp"),
        ),
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    wait_until(lambda: f":{port:04X} " in Path("/proc/net/tcp").read_text(), 30, "Xvnc")
    terminal = subprocess.Popen(
        (XTERM, "-geometry", "100x30+0+0", "-bg", "navy", "-fg", "white", "-e", "sh"),
        env={**os.environ, "DISPLAY": f":{number}", "PS1": "guest$ ", "HOME": str(tmp_path)},
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    try:
        yield port
    finally:
        for process in (terminal, server):
            process.terminate()
            process.wait(20)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    with browsing(tmp_path / "profile") as one:
        yield one


def link(proxy: Proxy, secret: str) -> str:
    return f"https://console.example:{proxy.ports['tls']}/#s={secret}"


def state(browser: Chromium) -> str:
    return str(browser.value("document.getElementById('state')?.textContent"))


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
    proxy: Proxy, desktop: int, browser: Chromium, tmp_path: Path
) -> None:
    browser.go(link(proxy, proxy.offer("s1", desktop)))
    wait_until(lambda: state(browser) == "connected", 60, "a console")
    wait_until(lambda: browser.value(COLOURS) > 1, 30, "the terminal's colour")
    assert browser.value("document.title") == "web 1"
    assert browser.value("location.href").endswith(f":{proxy.ports['tls']}/")  # without the secret
    typed(browser, "first", tmp_path / "one")
    if folder := os.environ.get("SYSVM_PICTURES"):
        browser.picture(Path(folder) / "console.png")
    # Another certificate, while it is open.
    proxy.certify()
    proxy.write(witness="second")
    assert proxy.process is not None
    proxy.process.send_signal(signal.SIGHUP)
    wait_until(lambda: proxy.ask({"op": "state"})["witnesses"] == ["second"], 20, "a reload")
    typed(browser, "second", tmp_path / "two")
    # A drain: told to go, it comes back by itself.
    proxy.ask({"op": "drain", "within": 0.1})

    def back() -> bool:
        live = proxy.session("s1")
        return live is not None and live["connections"] == 2 and live["state"] == "open"

    wait_until(back, 30, "a way back")
    wait_until(lambda: state(browser) == "connected", 30, "a console")
    typed(browser, "third", tmp_path / "three")
    # And the end, by management.
    assert proxy.ask({"op": "delete", "id": "s1"}) == {"result": "ended"}
    wait_until(lambda: "ended by management" in state(browser), 30, "the end")


@pytest.mark.parametrize("why", ["unknown", "used", "none"])
def test_a_link_that_opens_nothing_says_why(
    proxy: Proxy, desktop: int, browser: Chromium, why: str
) -> None:
    secret = proxy.offer("s1", desktop)
    if why == "used":
        browser.go(link(proxy, secret))
        wait_until(lambda: state(browser) == "connected", 60, "a console")
    if why == "unknown":
        secret = secret[::-1]
    browser.go(link(proxy, "" if why == "none" else secret))
    expected = "not complete" if why == "none" else "not valid (any more)"
    wait_until(lambda: expected in state(browser), 60, "a reason")
    if folder := os.environ.get("SYSVM_PICTURES"):
        browser.picture(Path(folder) / f"refused-{why}.png")


def test_a_hypervisor_that_is_not_there_is_told(proxy: Proxy, browser: Chromium) -> None:
    (port,) = free_ports(1)
    browser.go(link(proxy, proxy.offer("s1", port)))
    wait_until(lambda: "cannot be reached: Connection refused" in state(browser), 60, "a reason")


def test_a_page_that_is_loaded_again_has_forgotten_its_secret(
    proxy: Proxy, desktop: int, browser: Chromium
) -> None:
    browser.go(link(proxy, proxy.offer("s1", desktop)))
    wait_until(lambda: state(browser) == "connected", 60, "a console")
    browser.ask("Page.reload")
    wait_until(lambda: "not complete" in state(browser), 60, "a reason")
