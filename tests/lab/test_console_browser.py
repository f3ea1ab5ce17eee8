"""A guest's screen in Chromium, through a console proxy that is a system VM, from end to end.

All the while what passes the guests' network is captured: nothing of it is the proxy's.
"""

import os
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.services import console
from appliance.lab import Lab, consoles, network
from appliance.lab.hypervisor import Screen
from appliance.lab.process import Popen, spawn
from appliance.lab.topologies import SystemVm
from appliance.lab.wait import wait_until
from tests.lab.conftest import Boot
from tests.lab.test_console_proxy import opens
from tests.unit.console.chromium import PROGRAM, Chromium, browsing

HOST = "203-0-113-20.console.example.test"
GUEST = "10.1.1.10"
ROUTE = {"site": {"routes": {"10.1.0.0/16": {"via": "10.2.0.7"}}}}
NOT_VALID = "This console link is not valid (any more)."
COLOURS = """(() => {
    const canvas = document.querySelector('#screen canvas');
    if (!canvas) return 0;
    const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    const seen = new Set();
    for (let i = 0; i < data.length; i += 28) {
        seen.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
    }
    return seen.size;
})()"""
NAVY = COLOURS.replace("return seen.size", "return seen.has(0x000080) ? seen.size : 0")


class Capture:
    """Every packet in the guests' network since it began, and whose they are."""

    def __init__(self, lab: Lab, file: Path) -> None:
        self._lab, self._file = lab, file
        tcpdump = ["tcpdump", "-i", "br-guest", "-U", "-Z", "root", "-w", str(file)]
        switch = ["ip", "netns", "exec", network.namespace(lab.name, network.SWITCH)]
        self.process: Popen[bytes] = spawn([*switch, *tcpdump], output=file.with_suffix(".log"))
        wait_until(lambda: file.exists() and file.stat().st_size >= 24, 20, "a capture")

    def of(self, what: str) -> list[str]:
        """The packets that such an expression (pcap-filter(7)) matches."""
        listed = self._lab.hypervisor.run(["tcpdump", "-n", "-r", str(self._file), what])
        return listed.text.splitlines()

    def of_the_proxy(self) -> list[str]:
        """Its addresses and its NICs, however the packets came."""
        spec = self._lab.vm.spec
        assert isinstance(spec, SystemVm)
        ends = ["host 10.2.0.2", "host 203.0.113.20", "host 169.254.10.4"]
        ends += [f"ether host {nic.mac}" for nic in spec.nics]
        return self.of(" or ".join(ends))


@pytest.fixture(scope="module")
def lab(boot_lab: Boot) -> Lab:
    """A console proxy whose next hop to the guests' network would carry it there."""
    lab = boot_lab("proxy")
    lab.vm.wait_ready()
    lab.hypervisor.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    guest = lab.guests["vm1"]
    guest.run(["ip", "route", "replace", "default", "via", "10.1.1.254"])
    guest.serve(5901, protocol="tcp")
    consoles.push(lab, consoles.document(lab, ROUTE))
    wait_until(lambda: lab.internet.reaches("203.0.113.20", 443), 20, "the proxy's port")
    return lab


@pytest.fixture(scope="module", autouse=True)
def capture(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Capture]:
    if shutil.which("tcpdump") is None:
        pytest.skip("tcpdump is not installed")
    one = Capture(lab, tmp_path_factory.mktemp("capture") / "guests.pcap")
    yield one
    one.process.terminate()
    one.process.wait(10)


@pytest.fixture(scope="module")
def screen(lab: Lab) -> Screen:
    """The guest's desktop at the hypervisor."""
    return lab.hypervisor.desktop(lab.guests["vm1"])


@pytest.fixture(scope="module")
def browser(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A browser on the internet, with its name server."""
    if PROGRAM is None:
        pytest.skip("chromium is not installed")
    with browsing(tmp_path_factory.mktemp("browser") / "profile", lab.internet.argv([])) as one:
        yield one


def connected(browser: Chromium, link: consoles.Link) -> None:
    browser.go(link.url)
    wait_until(lambda: browser.text("state") == "connected", 60, "a console")


def told(browser: Chromium, link: str, reason: str) -> None:
    browser.go(link)
    wait_until(lambda: reason in browser.text("reason"), 60, f"{reason}")


def done(browser: Chromium, screen: Screen, command: str, there: str = "done") -> str:
    """Type a command into the guest's terminal; what it writes to the file that it names."""
    file = screen.folder / there
    file.unlink(missing_ok=True)
    browser.move(300, 200)
    browser.type(f"{command} > part; mv part {there}\n")
    wait_until(file.exists, 30, f"{command}")
    return file.read_text().strip()


def session(lab: Lab, link: consoles.Link) -> dict[str, Any]:
    path = f"/v1/console/sessions/{link.session}"
    answer = consoles.request(lab, "GET", path, b"")
    found: dict[str, Any] = answer.json() if answer.status == 200 else {"state": "gone"}
    return found


def certificate(lab: Lab) -> bytes | None:
    """What a new connection is shown."""
    context = ssl.create_default_context(cadata=lab.keys.authority.identity.certificate)
    with (
        lab.internet.connect("203.0.113.20", 443) as sock,
        context.wrap_socket(sock, server_hostname=HOST) as secure,
    ):
        return secure.getpeercert(binary_form=True)


def picture(browser: Chromium, name: str) -> None:
    if folder := os.environ.get("SYSVM_PICTURES"):
        browser.picture(Path(folder) / f"{name}.png")


def test_a_guests_desktop_from_end_to_end(lab: Lab, screen: Screen, browser: Chromium) -> None:
    link = consoles.offer(lab, HOST, screen, "vm1", title="web 1")
    connected(browser, link)
    wait_until(lambda: browser.value(NAVY) > 1, 30, "the terminal's colour")
    assert browser.value("document.title") == "web 1"
    assert browser.value("location.href") == f"https://{HOST}/"
    # What is typed arrives in the guest, which has an address of its own.
    assert GUEST in done(browser, screen, "ip -4 -br address show eth0")
    # Both clipboards.
    assert done(browser, screen, "printf from-the-guest | xclip -i -sel c; echo put") == "put"
    browser.press("clipboard-button")
    copied = "document.getElementById('copied').value"
    wait_until(lambda: browser.value(copied) == "from-the-guest", 30, "the guest's clipboard")
    browser.value("document.getElementById('pasted').value = 'to the guest'")
    browser.press("paste")
    browser.press("clipboard-button")
    wait_until(
        lambda: done(browser, screen, "xclip -o -sel c") == "to the guest", 30, "the clipboard"
    )
    picture(browser, "desktop")
    # Other certificates: new connections see them, and this one goes on.
    before = certificate(lab)
    consoles.push(lab, consoles.document(lab, ROUTE))
    assert certificate(lab) != before
    assert done(browser, screen, "echo second") == "second"
    # A drain: told to go (1012), the page comes back by itself.
    consoles.request(lab, "POST", "/v1/console/drain", b'{"within": 0}')
    wait_until(lambda: session(lab, link).get("connections") == 2, 30, "a way back")
    consoles.request(lab, "DELETE", "/v1/console/drain", b"")
    wait_until(lambda: browser.text("state") == "connected", 30, "a console")
    assert done(browser, screen, "echo third") == "third"
    # And the end, by management.
    consoles.request(lab, "DELETE", f"/v1/console/sessions/{link.session}", b"")
    wait_until(lambda: "ended by management" in browser.text("reason"), 30, "the end")
    picture(browser, "ended")


@pytest.mark.parametrize("why", ["wrong", "used", "expired", "of another address", "none"])
def test_a_link_that_opens_nothing_says_why(
    lab: Lab, screen: Screen, browser: Chromium, why: str
) -> None:
    more: dict[str, Any] = {"valid": 1} if why == "expired" else {}
    if why == "of another address":
        more = {"policy": {"source": "192.0.2.7/32"}}
    link = consoles.offer(lab, HOST, screen, "vm1", **more)
    url, secret = link.url, link.url.rpartition("=")[2]
    if why == "wrong":
        url = url.replace(secret, secret[::-1])
    if why == "used":
        connected(browser, link)
    if why == "expired":
        wait_until(lambda: session(lab, link)["state"] == "gone", 20, "the link's end")
    if why == "none":
        url = f"https://{HOST}/"
    told(browser, url, "This console link is not complete." if why == "none" else NOT_VALID)
    picture(browser, f"refused-{why.replace(' ', '-')}")
    assert secret not in lab.vm.journal("-u", console.UNIT)


def test_a_machines_firmware_is_seen_with_the_proxys_certificate(
    lab: Lab, browser: Chromium
) -> None:
    firmware = lab.hypervisor.firmware()
    try:
        connected(browser, consoles.offer(lab, HOST, firmware, "qemu"))
        wait_until(lambda: browser.value(COLOURS) > 1, 60, "a picture of the firmware's")
        picture(browser, "firmware")
        wrong = {"credentials": firmware.credentials | {"password": "wrong"}}
        refused = consoles.offer(lab, HOST, firmware, "qemu", **wrong)
        told(browser, refused.url, "refused the VNC credentials")
        nobody = {name: firmware.credentials[name] for name in ("ca", "password")}
        refused = consoles.offer(lab, HOST, firmware, "qemu", credentials=nobody)
        told(browser, refused.url, "hypervisor")
        picture(browser, "without-a-certificate")
    finally:
        firmware.close()


def test_no_packet_of_the_proxys_was_in_the_guests_network(
    lab: Lab, capture: Capture, screen: Screen
) -> None:
    address = {"address": GUEST, "port": 5901}
    body = b'{"secret_sha256": "%s", "vm": "v", "user": "u", "target": %s}'
    body %= b"00" * 32, str(address).replace("'", '"').encode()
    assert consoles.request(lab, "PUT", "/v1/console/sessions/guest", body).status == 422
    for user in (console.USER, "root"):
        assert not opens(lab, GUEST, 5901, user=user)
    assert opens(lab, "10.2.0.7", screen.port)
    assert capture.of_the_proxy() == []
    # The way there and the eye on it are in order: with a hole in the wall it is another matter.
    hole = ["OUTPUT", "-d", GUEST, "-j", "ACCEPT"]
    lab.vm.run(["iptables", "-I", *hole])
    assert opens(lab, GUEST, 5901, user="root")
    wait_until(capture.of_the_proxy, 10, "the capture")
    lab.vm.run(["iptables", "-D", *hole])
    assert not opens(lab, GUEST, 5901, user="root")
