"""A real VNC server: TigerVNC's Xvnc, with each kind of authentication that it has."""

import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.console.rfb.des import encrypt
from appliance.lab.pki import Authority
from appliance.lab.wait import wait_until
from tests.unit.console.rig import (
    Browser,
    Proxy,
    TurnedAway,
    free_ports,
    make,
    own_address,
    running,
)

XVNC = shutil.which("Xtigervnc")
pytestmark = [
    pytest.mark.skipif(XVNC is None, reason="tigervnc-standalone-server is not installed"),
    pytest.mark.skipif(not own_address(), reason="the machine has no address but loopback's"),
]
_FIXED = bytes.fromhex("e84ad660c4721ae0")  # the key that vncpasswd obfuscates with (mirrored)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    with running(make(tmp_path, "tls")) as one:
        yield one


@pytest.fixture
def authority() -> Authority:
    return Authority.create("hypervisors")


@pytest.fixture(params=["None", "VncAuth", "X509None", "X509Vnc"])
def server(
    request: pytest.FixtureRequest, tmp_path: Path, authority: Authority
) -> Iterator[tuple[str, int]]:
    kind = request.param
    (port,) = free_ports(1)
    identity = authority.issue("kvm7.example", addresses=[own_address()])
    certificate, key = identity.write(tmp_path, "kvm7")
    password = tmp_path / "passwd"
    password.write_bytes(encrypt(_FIXED, b"secret\0\0"))
    assert XVNC is not None
    process = subprocess.Popen(
        (
            *(XVNC, f":{port}", "-rfbport", str(port), "-interface", "0.0.0.0"),  # noqa: S104
            *("-geometry", "320x200", "-depth", "24", "-SecurityTypes", kind),
            *("-X509Cert", str(certificate), "-X509Key", str(key)),
            *("-PasswordFile", str(password), "-nolisten", "tcp", "-desktop", "hypervisor's name"),
        ),
        stderr=(tmp_path / "xvnc").open("wb"),
        stdin=subprocess.DEVNULL,
    )
    try:

        def listens() -> bool:
            return f":{port:04X} " in Path("/proc/net/tcp").read_text()

        wait_until(listens, 30, "Xvnc")
        yield kind, port
    finally:
        process.terminate()
        process.wait(20)


def credentials(kind: str, authority: Authority, password: str = "") -> dict[str, str]:
    given = {"password": password or "secret"} if "Vnc" in kind else {}
    return given | ({"ca": authority.identity.certificate} if "X509" in kind else {})


def test_a_desktop_is_seen(proxy: Proxy, server: tuple[str, int], authority: Authority) -> None:
    kind, port = server
    offered = proxy.offer("s1", port, credentials=credentials(kind, authority))
    browser = Browser(proxy, offer=offered)
    assert browser.open() == "web 1"
    browser.say(struct.pack(">BxHi", 2, 1, 0))  # raw pixels
    browser.say(struct.pack(">BBHHHH", 3, 0, 0, 0, 320, 200))
    seen = 0
    while seen < 320 * 200:
        kind_, count = struct.unpack(">BxH", browser.take(4))
        assert kind_ == 0
        for _ in range(count):
            _, _, width, height, encoding = struct.unpack(">HHHHi", browser.take(12))
            assert encoding == 0
            browser.take(width * height * 4)
            seen += width * height
    browser.close()


@pytest.mark.parametrize("server", ["VncAuth", "X509Vnc"], indirect=True)
def test_a_wrong_password_is_told(
    proxy: Proxy, server: tuple[str, int], authority: Authority
) -> None:
    kind, port = server
    offered = proxy.offer("s1", port, credentials=credentials(kind, authority, "wrong"))
    with pytest.raises(TurnedAway, match="refused the VNC credentials: Authentication failure"):
        Browser(proxy, offer=offered).open()
