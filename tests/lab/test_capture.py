"""Captures in the VM: what passes and only that, within bounds, and never themselves."""

import json
import time
from typing import Any

import pytest

from appliance.lab import Lab
from appliance.lab.http import Response
from appliance.lab.wait import wait_until
from tests.lab.helpers import INTERNET, VM1, Router, example

HEADER = 24  # bytes (pcap-savefile(5))


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    router = Router(lab)
    router.push(example())
    lab.guests["vm1"].dhcp()
    return router


def running(lab: Lab) -> bool:
    return lab.vm.run(["pidof", "tcpdump"], check=False).returncode == 0


def captured(lab: Lab, **wanted: Any) -> Response:
    return lab.vm.request("POST", "/v1/diagnostics/capture", json=wanted)


def packets(lab: Lab, content: bytes) -> list[str]:
    """As tcpdump in the VM reads them; a file that is cut short is an error."""
    lab.vm.put("/run/read.pcap", content)
    done = lab.vm.run(["tcpdump", "-n", "-t", "-r", "/run/read.pcap"])
    assert "truncated" not in done.stderr.decode()
    return done.text.splitlines()


def test_what_passes_and_nothing_else(lab: Lab, router: Router) -> None:
    guest = lab.guests["vm1"]
    with (
        guest.popen(["ping", "-i", "0.3", INTERNET]) as one,
        guest.popen(["ping", "-i", "0.3", "10.1.1.1"]) as two,
    ):
        answer = captured(lab, nic="eth2", hosts=[INTERNET], protocol="icmp", packets=4)
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/vnd.tcpdump.pcap"
        found = packets(lab, answer.body)
        one_way = captured(lab, nic="eth2", protocol="icmp", direction="in", packets=2)
        none = captured(lab, nic="eth2", hosts=["203.0.113.99"], seconds=1)
        one.kill()
        two.kill()
    assert len(found) == 4
    assert all(f" {INTERNET}" in line and "ICMP echo" in line for line in found)
    assert all("echo reply" in line for line in packets(lab, one_way.body))
    assert len(none.body) == HEADER
    assert not running(lab)


def test_bounds_hold(lab: Lab, router: Router) -> None:
    began = time.monotonic()
    answer = captured(lab, nic="any", seconds=2)
    assert 1 < time.monotonic() - began < 15
    assert len(answer.body) >= HEADER
    flood = ["ping", "-i", "0.002", "-s", "1000", "-c", "3000", "10.1.1.1"]
    with lab.guests["vm1"].popen(flood) as client:
        answer = captured(lab, nic="eth0", seconds=60, bytes=20_000, snaplen=1500)
        client.kill()
    assert HEADER < len(answer.body) <= 20_000
    assert len(packets(lab, answer.body)) > 5
    assert not running(lab)


def test_capture_of_the_control_nic_over_tls_does_not_see_itself(lab: Lab, router: Router) -> None:
    request = {"nic": "eth1", "seconds": 3}
    answer = lab.manager.request("POST", "/v1/diagnostics/capture", json=request)
    assert answer.status == 200
    assert not [line for line in packets(lab, answer.body) if ".8443" in line]
    assert len(answer.body) < 20_000


def test_client_that_leaves_ends_the_capture(lab: Lab, router: Router) -> None:
    manager, folder = lab.manager, lab.manager.keys_folder
    identity = ("--cert", f"{folder}/manager.pem", "--key", f"{folder}/manager.key")
    url = f"https://{manager.vm_address}:{manager.vm_port}/v1/diagnostics/capture"
    data = json.dumps({"nic": "eth0", "seconds": 200})
    curl = ["curl", "-sSN", "--cacert", f"{folder}/ca.pem", *identity, "--data", data, url]
    with (
        lab.guests["vm1"].popen(["ping", "-i", "0.2", "-c", "200", "10.1.1.1"]) as ping,
        manager.popen(curl) as client,
    ):
        assert client.stdout is not None
        assert len(client.stdout.read(HEADER)) == HEADER
        assert running(lab)
        client.kill()
        wait_until(lambda: not running(lab), 20, "tcpdump has gone with its client")
        ping.kill()


def test_command_line(lab: Lab, router: Router) -> None:
    words = ["sysvmctl", "diag", "capture", "--nic", "eth2", "--seconds", "1"]
    done = lab.vm.run([*words, "-w", "/root/eth2.pcap"])
    assert done.text.startswith("/root/eth2.pcap: ")
    lab.vm.run(["tcpdump", "-nr", "/root/eth2.pcap"])
    refused = lab.vm.run([*words, "-w", "-", "--host", f"{VM1} or port 22"], check=False)
    assert refused.returncode == 1
    assert b"/hosts/0: is not an IP address" in refused.stderr
