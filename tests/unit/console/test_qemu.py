"""A real QEMU's screen: VNC passwords, VeNCrypt with certificates, and a guest that hears keys.

The guest is a boot sector of seventeen bytes, which asks the BIOS for keys and says each on the
serial port. No operating system is needed, and next to no CPU.
"""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.lab.pki import Authority
from appliance.lab.wait import wait_until
from tests.unit.console.chromium import Chromium
from tests.unit.console.conftest import link, opened, state
from tests.unit.console.rig import (
    Browser,
    Proxy,
    TurnedAway,
    free_ports,
    make,
    own_address,
    running,
    take,
    version,
)

QEMU = shutil.which("qemu-system-x86_64")
pytestmark = [
    pytest.mark.skipif(QEMU is None, reason="qemu-system-x86 is not installed"),
    pytest.mark.skipif(not own_address(), reason="the machine has no address but loopback's"),
]
# mov ah,0; int 16h; mov dx,3f8h; out dx,al; mov ah,0eh; mov bx,7; int 10h; and again
GUEST = bytes.fromhex("b400 cd16 baf803 ee b40e bb0700 cd10 ebef")
CA, OTHER = Authority.create("hypervisors"), Authority.create("others")


@contextmanager
def qemu(folder: Path, *, tls: bool, password: str) -> Iterator[int]:
    """A machine that runs GUEST, what it hears in `folder`/heard; its screen's port."""
    (port,) = free_ports(1)
    assert QEMU is not None
    disk = folder / "disk"
    disk.write_bytes(GUEST.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 16))
    vnc = f"0.0.0.0:{port - 5900}"
    objects: list[str] = []
    if tls:
        certificate, key = CA.issue("kvm7.example", addresses=[own_address()]).write(folder, "kvm7")
        creds = folder / "creds"
        creds.mkdir()
        (creds / "ca-cert.pem").write_text(CA.identity.certificate)
        shutil.copy(certificate, creds / "server-cert.pem")
        shutil.copy(key, creds / "server-key.pem")
        objects += ("-object", f"tls-creds-x509,id=tls,endpoint=server,dir={creds},verify-peer=on")
        vnc += ",tls-creds=tls"
    if password:
        (folder / "password").write_text(password)
        objects += ("-object", f"secret,id=password,file={folder / 'password'}")
        vnc += ",password-secret=password"
    process = subprocess.Popen(
        (
            *(QEMU, "-machine", "pc,accel=tcg", "-m", "16", "-net", "none", "-display", "none"),
            *("-drive", f"file={disk},format=raw,if=ide", "-serial", f"file:{folder / 'heard'}"),
            *("-monitor", "none", *objects, "-vnc", vnc),
        ),
        stderr=(folder / "qemu").open("wb"),
        stdin=subprocess.DEVNULL,
    )
    try:

        def listens() -> bool:
            assert process.poll() is None, (folder / "qemu").read_text()
            return f":{port:04X} " in Path("/proc/net/tcp").read_text()

        wait_until(listens, 30, "QEMU")
        yield port
    finally:
        process.terminate()
        process.wait(20)


def credentials(*, tls: bool, password: str) -> dict[str, str]:
    """What fits."""
    given = {"password": password} if password else {}
    if tls:
        client = CA.issue("console-proxy")
        given |= {"ca": CA.identity.certificate}
        given |= {"certificate": client.certificate, "key": client.key}
    return given


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running(make(tmp_path_factory.mktemp("proxy"), "plain")) as one:
        yield one


@pytest.mark.parametrize(("tls", "password"), [(False, ""), (False, "secret"), (True, "")])
def test_qemus_ways_in(proxy: Proxy, tmp_path: Path, tls: bool, password: str) -> None:
    with qemu(tmp_path, tls=tls, password=password) as port:
        given = credentials(tls=tls, password=password)
        name = f"way-{tls}-{password}"
        browser = Browser(proxy, "plain", offer=proxy.offer(name, port, credentials=given))
        assert browser.open() == "web 1"
        browser.close()


def without(given: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in given.items() if name not in names}


def test_who_is_not_let_in_by_qemu_reads_why(proxy: Proxy, tmp_path: Path) -> None:
    with qemu(tmp_path, tls=True, password="secret") as port:
        good = credentials(tls=True, password="secret")
        stranger = OTHER.issue("console-proxy")
        cases: dict[str, tuple[dict[str, Any], str]] = {
            "password": (good | {"password": "other"}, "refused the VNC credentials"),
            "no password": (without(good, "password"), "asks for credentials that are missing"),
            "no CA": (without(good, "ca", "certificate", "key"), "wants TLS"),
            "another CA": (good | {"ca": OTHER.identity.certificate}, "is not believed"),
            "no certificate": (
                without(good, "certificate", "key"),
                "TLS with the hypervisor failed|closed the connection",
            ),
            "another's certificate": (
                good | {"certificate": stranger.certificate, "key": stranger.key},
                "TLS with the hypervisor failed|closed the connection",
            ),
        }
        for name, (given, why) in cases.items():
            offered = proxy.offer(name.replace(" ", "-").replace("'", ""), port, credentials=given)
            with pytest.raises(TurnedAway, match=why):
                Browser(proxy, "plain", offer=offered).open()
        target = {"name": "kvm8.example"}
        offered = proxy.offer("name", port, credentials=good, target=target)
        with pytest.raises(TurnedAway, match="is not believed: it is for another name"):
            Browser(proxy, "plain", offer=offered).open()
        named = proxy.offer("right", port, credentials=good, target={"name": "kvm7.example"})
        assert Browser(proxy, "plain", offer=named).open() == "web 1"


def test_what_is_typed_reaches_a_guest_through_tls_and_certificates(
    page_proxy: Proxy, browser: Chromium, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        password = "secret"
        port = stack.enter_context(qemu(tmp_path, tls=True, password=password))
        given = credentials(tls=True, password=password)
        opened(browser, page_proxy, page_proxy.offer("s1", port, credentials=given))
        heard = tmp_path / "heard"
        wait_until(lambda: seen(browser) > 1, 60, "the BIOS's words")
        # The guest asks for keys once its BIOS has started it.
        wait_until(lambda: typed(browser, "x", heard), 60, "a guest", every=0.5)
        heard_before = heard.read_bytes()
        browser.press("text-button")
        text = "Hello, World! @#$%^&*(){}|:<>?~ [yz]"
        browser.value(f"document.getElementById('typed').value = {json.dumps(text)}")
        browser.press("type")
        wait_until(
            lambda: heard.read_bytes()[len(heard_before) :].lstrip(b"x") == text.encode(),
            60,
            "the text",
        )
        browser.go(link(page_proxy, page_proxy.offer("s2", port, credentials={"password": "x"})))
        wait_until(lambda: "wants TLS, and the session has no CA" in state(browser), 60, "a reason")


def typed(browser: Chromium, key: str, heard: Path) -> bool:
    browser.value("document.querySelector('#screen canvas').focus()")
    browser.type(key, {"x": "KeyX"})
    return key.encode() in heard.read_bytes()


def seen(browser: Chromium) -> int:
    """How many colours there are on the screen."""
    return int(
        browser.value("""(() => {
        const canvas = document.querySelector('#screen canvas');
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        const seen = new Set();
        for (let i = 0; i < data.length; i += 4) {
            seen.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
        }
        return seen.size;
    })()""")
    )


def test_this_qemu_offers_nothing_but_vencrypt(tmp_path: Path) -> None:
    """So that what the others find is no password that went in the clear."""
    with (
        qemu(tmp_path, tls=True, password="secret") as port,
        socket.create_connection(("127.0.0.1", port), 10) as sock,
    ):
        version(sock)
        assert take(sock, 2) == b"\x01\x13"
