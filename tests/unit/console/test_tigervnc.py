"""A real VNC server: TigerVNC's Xvnc, with each kind of authentication that it has."""

import os
import shlex
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


@pytest.fixture
def with_users(tmp_path: Path, authority: Authority) -> Iterator[int]:
    """One that asks for names and passwords, of which PAM knows alice's; its port."""
    if os.geteuid() != 0:
        pytest.skip("PAM's own folder can be another one only for root")
    (port,) = free_ports(1)
    identity = authority.issue("kvm7.example", addresses=[own_address()])
    certificate, key = identity.write(tmp_path, "kvm7")
    pam, check = tmp_path / "pam.d", tmp_path / "check"
    pam.mkdir()
    check.write_text('#!/bin/sh\n[ "$PAM_USER" = root ] && [ "$(tr -d \'\\0\')" = secret ]\n')
    check.chmod(0o700)
    (pam / "vnc").write_text(
        f"auth required pam_exec.so expose_authtok quiet {check}\naccount required pam_permit.so\n"
    )
    assert XVNC is not None
    server = (
        *(XVNC, f":{port}", "-rfbport", str(port), "-interface", "0.0.0.0"),  # noqa: S104
        *("-SecurityTypes", "X509Plain", "-PlainUsers", "root", "-PAMService", "vnc"),
        *("-X509Cert", str(certificate), "-X509Key", str(key), "-nolisten", "tcp"),
    )
    inside = f"mount --bind {pam} /etc/pam.d && exec {shlex.join(server)}"
    process = subprocess.Popen(
        ("unshare", "--mount", "sh", "-c", inside),
        stderr=(tmp_path / "xvnc").open("wb"),
        stdin=subprocess.DEVNULL,
    )
    try:

        def listens() -> bool:
            assert process.poll() is None, (tmp_path / "xvnc").read_text()
            return f":{port:04X} " in Path("/proc/net/tcp").read_text()

        wait_until(listens, 30, "Xvnc")
        yield port
    finally:
        process.terminate()
        process.wait(20)


def test_a_name_and_a_password_are_shown_within_tls(
    proxy: Proxy, with_users: int, authority: Authority
) -> None:
    given = {"username": "root", "ca": authority.identity.certificate}
    wrong = proxy.offer("s1", with_users, credentials=given | {"password": "other"})
    with pytest.raises(TurnedAway, match="refused the VNC credentials"):
        Browser(proxy, offer=wrong).open()
    stranger = given | {"username": "alice", "password": "secret"}
    with pytest.raises(TurnedAway, match="refused the VNC credentials"):
        Browser(proxy, offer=proxy.offer("s2", with_users, credentials=stranger)).open()
    nameless = {"ca": authority.identity.certificate, "password": "secret"}
    with pytest.raises(TurnedAway, match="asks for credentials that are missing: X509Plain"):
        Browser(proxy, offer=proxy.offer("s3", with_users, credentials=nameless)).open()
    right = proxy.offer("s4", with_users, credentials=given | {"password": "secret"})
    assert Browser(proxy, offer=right).open() == "web 1"
