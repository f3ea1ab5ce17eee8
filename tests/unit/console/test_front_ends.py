"""XenServer's CONNECT and VMware's ticket: the way in, and what the user reads without one."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from appliance.lab.pki import Authority
from appliance.lab.wait import wait_until
from tests.unit.console.chromium import Chromium
from tests.unit.console.conftest import link, state
from tests.unit.console.hypervisors import SESSION, TICKET, UUID, Esxi, Xapi, silent
from tests.unit.console.rig import (
    KEY,
    Browser,
    Proxy,
    Screen,
    TurnedAway,
    make,
    own_address,
    running,
    tls_context,
)

pytestmark = pytest.mark.skipif(
    not own_address(), reason="the machine has no address but loopback's, which is never a target"
)
CA = Authority.create("hypervisors")
OTHER = Authority.create("others")
CONSOLE = f"/console?uuid={UUID}"


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running(make(tmp_path_factory.mktemp("proxy"), "plain")) as one:
        yield one


@pytest.fixture
def xapi(tmp_path: Path) -> Xapi:
    return Xapi(tls_context(CA.issue("xen3.example", addresses=[own_address()]), tmp_path))


@pytest.fixture
def esxi(tmp_path: Path) -> Esxi:
    return Esxi(tls_context(CA.issue("esx1.example", addresses=[own_address()]), tmp_path))


def of_xen(**changed: Any) -> dict[str, Any]:
    credentials = {"password": SESSION, "ca": CA.identity.certificate}
    target = {"kind": "connect", "path": CONSOLE}
    return _changed({"target": target, "credentials": credentials}, changed)


def of_esxi(**changed: Any) -> dict[str, Any]:
    target = {"kind": "websocket", "path": f"/ticket/{TICKET}"}
    credentials = {"ca": CA.identity.certificate}
    return _changed({"target": target, "credentials": credentials}, changed)


def _changed(value: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    for name, one in changed.items():
        part = "target" if name in {"path", "name"} else "credentials"
        value[part][name] = one
    return value


def name_of(request: pytest.FixtureRequest) -> str:
    return str(abs(hash(request.node.name)))


def passes_both_ways(browser: Browser, screen: Screen) -> None:
    browser.say(KEY)
    wait_until(lambda: screen.heard == KEY, 10, "a key at the screen")
    for size in (100, 1000, 1 << 18):
        data = os.urandom(size)
        screen.say(data)
        assert browser.take(size) == data


@pytest.mark.parametrize("where", ["cookie", "query"])
def test_xenservers_console_opens_by_connect(
    proxy: Proxy, xapi: Xapi, request: pytest.FixtureRequest, where: str
) -> None:
    screen = xapi.screen()
    given = of_xen()
    if where == "query":
        given = of_xen(path=f"{CONSOLE}&session_id={SESSION}", password="")
    browser = Browser(proxy, "plain", offer=proxy.offer(name_of(request), screen.port, **given))
    assert browser.open() == "web 1"
    passes_both_ways(browser, screen)
    assert xapi.asked[0].startswith(f"CONNECT {CONSOLE}")
    assert SESSION not in proxy.log
    browser.close()
    wait_until(lambda: screen.open == 0, 10, "the screen's end")


def test_vmwares_console_opens_once_with_its_ticket(
    proxy: Proxy, esxi: Esxi, request: pytest.FixtureRequest
) -> None:
    screen = esxi.screen()
    name = name_of(request)
    browser = Browser(proxy, "plain", offer=proxy.offer(name, screen.port, **of_esxi()))
    assert browser.open() == "web 1"
    assert esxi.protocols == ["binary"]
    passes_both_ways(browser, screen)
    with pytest.raises(TurnedAway, match=r"ticket is not valid \(any more\): 404 Not Found"):
        Browser(proxy, "plain", offer=proxy.offer(f"{name}2", screen.port, **of_esxi())).open()
    browser.close()
    assert TICKET not in proxy.log


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("session", "does not accept the session: 401 Unauthorised"),
        ("console", "has no such console: 404 Not Found"),
        ("limit", "refuses the console: 503 Connection Limit Exceeded"),
        ("CA", "certificate is not believed: self-signed certificate in|not believed: unable to"),
        ("name", "certificate is not believed: it is for another name"),
        ("no CA", "no CA to know the hypervisor by"),
        ("tls", "closed the connection"),
        ("head", "closed the connection"),
        ("rfb", "closed the connection"),
    ],
)
def test_why_xenservers_console_does_not_open(
    proxy: Proxy, xapi: Xapi, request: pytest.FixtureRequest, case: str, why: str
) -> None:
    changed: dict[str, Any] = {
        "session": {"password": "OpaqueRef:old"},
        "console": {"path": "/console?uuid=another"},
        "CA": {"ca": OTHER.identity.certificate},
        "name": {"name": "xen4.example"},
        "no CA": {"ca": ""},
    }.get(case, {})
    xapi.limited = case == "limit"
    xapi.cut = case
    screen = xapi.screen()
    name = name_of(request)
    offered = proxy.offer(name, screen.port, **of_xen(**changed))
    with pytest.raises(TurnedAway, match=why):
        Browser(proxy, "plain", offer=offered).open()
    wait_until(lambda: proxy.session(name) is None, 10, "the end")
    assert f"session {name}: The " in proxy.log  # with the same words
    assert screen.heard == b""
    if case in {"CA", "name", "no CA"}:
        assert xapi.asked == []  # who it is was not known, so nothing was said to it


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("ticket", r"ticket is not valid \(any more\): 404 Not Found"),
        ("CA", "certificate is not believed"),
        ("name", "certificate is not believed: it is for another name"),
        ("accept", "what answers at the hypervisor is no WebSocket"),
        ("middle", "closed the connection"),
    ],
)
def test_why_vmwares_console_does_not_open(
    proxy: Proxy, esxi: Esxi, request: pytest.FixtureRequest, case: str, why: str
) -> None:
    changed: dict[str, Any] = {
        "ticket": {"path": "/ticket/another"},
        "CA": {"ca": OTHER.identity.certificate},
        "name": {"name": "esx2.example"},
    }.get(case, {})
    esxi.cut = case
    screen = esxi.screen()
    offered = proxy.offer(name_of(request), screen.port, **of_esxi(**changed))
    with pytest.raises(TurnedAway, match=f"(?i){why}"):
        Browser(proxy, "plain", offer=offered).open()
    if case in {"CA", "name"}:
        assert esxi.protocols == []
        assert esxi.tickets == {TICKET}


def test_hypervisors_that_do_not_answer_are_not_waited_for(
    proxy: Proxy, request: pytest.FixtureRequest
) -> None:
    screens = [Screen(silent) for _ in range(3)]
    offers = [
        proxy.offer(f"{name_of(request)}-{number}", one.port, **given)
        for number, (one, given) in enumerate(zip(screens, (of_xen(), of_esxi(), {}), strict=True))
    ]

    def told(offered: str) -> str:
        with pytest.raises(TurnedAway) as refused:
            Browser(proxy, "plain", offer=offered).open()
        return str(refused.value)

    begun = time.monotonic()
    with ThreadPoolExecutor(3) as threads:
        assert set(threads.map(told, offers)) == {"The hypervisor does not answer in time."}
    assert 5 < time.monotonic() - begun < 19  # within the time that a browser waits for each part
    wait_until(lambda: not any(one.open for one in screens), 10, "the end")


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("session", "The hypervisor does not accept the session: 401 Unauthorised."),
        ("CA", "The hypervisor's certificate is not believed:"),
        ("rfb", "The hypervisor closed the connection:"),
    ],
)
def test_the_page_says_why(
    page_proxy: Proxy, xapi: Xapi, browser: Chromium, case: str, told: str
) -> None:
    changed = {
        "session": {"password": "OpaqueRef:old"},
        "CA": {"ca": OTHER.identity.certificate},
    }.get(case, {})
    xapi.cut = case
    screen = xapi.screen()
    browser.go(link(page_proxy, page_proxy.offer("s1", screen.port, **of_xen(**changed))))
    wait_until(lambda: told in state(browser), 60, "a reason")
