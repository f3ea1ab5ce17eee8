"""Daemons that only some documents want: each is watched, by its own service's probe."""

from typing import Any

import pytest

from appliance.lab import Lab
from appliance.lab.wait import wait_until
from tests.lab.monitored import Watched
from tests.lab.sites import prepared
from tests.lab.test_console_proxy import document as console_proxy

TUNNEL = {
    "local_address": "203.0.113.10",
    "peer_address": "203.0.113.77",
    "psk": "correct-horse-battery-staple",
    "local_subnets": ["10.1.1.0/24"],
    "remote_subnets": ["10.77.0.0/24"],
    "start": "passive",
}


@pytest.fixture(scope="module")
def watched(lab: Lab) -> Watched:
    prepared(lab.vm)
    watched = Watched(lab)
    watched.router.push(watched.router.document)
    return watched


def dies_and_hangs(watched: Watched, unit: str, *, hangs: bool) -> None:
    """Killed, and stopped where it stands: each is told once, and it serves again."""
    subject = unit.removesuffix(".service")
    watched.settle(unit)
    mark = watched.mark()
    watched.sh(f"systemctl kill -s KILL --kill-whom=main {unit}")
    wait_until(lambda: mark.kinds(subject)[-1:] == ["service.recovered"], 20, "the recovery")
    assert mark.kinds(subject) == ["service.died", "service.recovered"]
    watched.release(unit)
    if not hangs:
        return
    mark = watched.mark()
    watched.sh(f"systemctl kill -s STOP --kill-whom=main {unit}")
    wait_until(lambda: mark.kinds(subject)[-1:] == ["service.recovered"], 30, "the recovery")
    assert mark.kinds(subject) == ["service.hung", "service.recovered"]
    watched.release(unit)


def test_charon(watched: Watched) -> None:
    with watched.router.changed({"ipsec": {"connections": {"branch": TUNNEL}}}):
        dies_and_hangs(watched, "strongswan.service", hangs=True)
        rows: Any = watched.vm.request("GET", "/v1/vpn").json()
        assert [row["connection"] for row in rows] == ["branch"]  # it was loaded again
    assert watched.rows()["strongswan.service"]["state"] == "not-wanted"


def test_the_remote_log(watched: Watched) -> None:
    ca = (watched.lab.manager.keys_folder / "ca.pem").read_text()
    section = {"name": "log.example", "address": "169.254.0.1", "ca": ca}
    with watched.router.changed({"remote_log": section}):
        dies_and_hangs(watched, "sysvm-remote-log.service", hangs=False)


def test_the_console_proxy(watched: Watched) -> None:
    watched.router.push(console_proxy())
    dies_and_hangs(watched, "sysvm-console-proxy.service", hangs=True)
