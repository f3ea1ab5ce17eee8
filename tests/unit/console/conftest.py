"""A real browser, a real VNC server with a terminal in it, and a proxy between the two."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.lab.wait import wait_until
from tests.unit.console.chromium import PROGRAM, Chromium, browsing
from tests.unit.console.rig import Proxy, Screen, free_ports, make, own_address, running

NOVNC = Path(__file__).parents[3] / ".make/novnc/usr/share/novnc"
XVNC, XTERM = shutil.which("Xtigervnc"), shutil.which("xterm")
VIOLATIONS = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""


NO_ADDRESS = "the machine has no address but loopback's, which is never a target"


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy for a whole module, with a port of each kind."""
    if not own_address():
        pytest.skip(NO_ADDRESS)
    services = ("tls", "plain", "redirect", "status")
    with running(make(tmp_path_factory.mktemp("proxy"), *services)) as one:
        yield one


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A session's id of the test's own."""
    return str(request.node.name).replace("[", "-").replace("]", "")[:60]


@pytest.fixture
def page_proxy(tmp_path: Path) -> Iterator[Proxy]:
    """A proxy with noVNC, which a browser knows by its port."""
    if not NOVNC.exists():
        pytest.skip("noVNC is not there: make test-browser")
    if not own_address():
        pytest.skip(NO_ADDRESS)
    proxy = make(tmp_path, "tls", novnc=str(NOVNC))
    place = f"console.example:{proxy.ports['tls']}"
    names = [place, "console.example"]  # as a browser calls it, and as the rig does
    proxy.write(hosts=names, origins=[f"https://{name}" for name in names])
    with running(proxy):
        yield proxy


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    if PROGRAM is None:
        pytest.skip("chromium is not installed")
    with browsing(tmp_path / "profile") as one:
        one.ask("Page.addScriptToEvaluateOnNewDocument", source=VIOLATIONS)
        yield one


@pytest.fixture
def desktop(tmp_path: Path) -> Iterator[int]:
    """A screen with a terminal that has the focus wherever the pointer is; its port.

    The display has the port's number. There is no window manager, which would take the focus.
    """
    if XVNC is None or XTERM is None:
        pytest.skip("Xtigervnc or xterm is not installed")
    (port,) = free_ports(1)
    server = subprocess.Popen(
        (
            *(XVNC, f":{port}", "-rfbport", str(port), "-interface", "0.0.0.0"),  # noqa: S104
            *("-geometry", "640x400", "-depth", "24", "-SecurityTypes", "None"),
            *("-nolisten", "tcp", "-RawKeyboard"),  # keys count, as for QEMU, and not symbols
        ),
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    wait_until(lambda: f":{port:04X} " in Path("/proc/net/tcp").read_text(), 30, "Xvnc")
    wait_until(Path(f"/tmp/.X11-unix/X{port}").exists, 30, "its display")
    environment = {"DISPLAY": f":{port}", "PS1": "guest$ ", "HOME": str(tmp_path)}
    terminal = subprocess.Popen(
        (
            *(XTERM, "-geometry", "100x30+0+0", "-bg", "navy", "-fg", "white", "-u8"),
            *("-xrm", "*disallowedWindowOps: none", "-xrm", "*allowWindowOps: true", "-e", "sh"),
        ),
        env={**os.environ, **environment, "LC_ALL": "C.UTF-8"},
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
def screen() -> Iterator[Screen]:
    """A hypervisor that asks for nothing and keeps what it is told."""
    if not own_address():
        pytest.skip(NO_ADDRESS)
    one = Screen()
    yield one
    one.close()


def link(proxy: Proxy, secret: str) -> str:
    return f"https://console.example:{proxy.ports['tls']}/#s={secret}"


def state(browser: Chromium) -> str:
    return str(browser.value("document.getElementById('state')?.textContent"))


def opened(browser: Chromium, proxy: Proxy, secret: str) -> None:
    """Open a console in the browser, and wait for it."""
    browser.go(link(proxy, secret))
    wait_until(lambda: state(browser) == "connected", 60, f"a console rather than {state(browser)}")
