"""Guests' passwords in the lab: once, to the guest alone, and not again after whatever happens."""

import pytest

from appliance.lab import Lab
from appliance.lab.node import Node
from appliance.lab.wait import wait_until
from tests.lab.helpers import VM1, VM1_MAC, VM2, Router, example, settle, with_mac

GATEWAY, PORT = "10.1.1.1", 8080
UNIT = "sysvm-passwords.service"
WAITING = {"passwords": {"guests": {VM1: {"mac": VM1_MAC, "password": "first-One"}}}}


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    """The example's router with a password for vm1; both guests have their addresses."""
    router = Router(lab)
    router.push({**example(), **WAITING})
    settle(lab.guests["vm1"], VM1)
    settle(lab.guests["vm2"], VM2)
    return router


def ask(node: Node, wanted: str = "send_my_password") -> str:
    headers = {"DomU_Request": wanted}
    return node.get(f"http://{GATEWAY}:{PORT}/", headers=headers).text


def test_a_guest_gets_its_password_and_no_other_guest_does(router: Router, lab: Lab) -> None:
    assert ask(lab.guests["vm1"]) == "first-One"
    assert ask(lab.guests["vm2"]) == "saved_password"
    assert ask(lab.guests["vm1"]) == "first-One"  # not acknowledged yet


def test_somebody_with_its_address_does_not(router: Router, lab: Lab) -> None:
    guest = lab.guests["vm1"]
    with with_mac(guest, "02:00:0a:01:01:ee"):
        settle(guest, VM1)
        assert not guest.reaches(GATEWAY, PORT, timeout=0.7)
    settle(guest, VM1)
    wait_until(lambda: guest.reaches(GATEWAY, PORT, timeout=0.7), 15, "the guest itself")


def test_nobody_else_reaches_it(router: Router, lab: Lab) -> None:
    assert not lab.internet.reaches("203.0.113.10", PORT + 1, timeout=0.5)
    for node, address in ((lab.manager, "169.254.10.2"), (lab.internet, "203.0.113.11")):
        assert not node.reaches(address, PORT, timeout=0.5), node.name


def test_a_taken_password_does_not_come_back(router: Router, lab: Lab) -> None:
    guest = lab.guests["vm1"]
    assert ask(guest, "saved_password") == "saved_password"
    assert ask(guest) == "saved_password"
    lab.vm.run(["systemctl", "restart", UNIT])
    assert ask(guest) == "saved_password"
    answer = router.put(router.document)  # the very same document
    assert answer.json()["result"] == "unchanged"
    router.push(router.document)  # and in another generation
    assert ask(guest) == "saved_password"
    lab.vm.reboot()
    lab.vm.wait_ready()
    wait_until(lambda: guest.reaches(GATEWAY, PORT, timeout=0.5), 20, "the password server")
    assert ask(guest) == "saved_password"


def test_another_password_is_handed_out_without_a_restart(router: Router, lab: Lab) -> None:
    def process() -> str:
        return lab.vm.run(["systemctl", "show", "--property=MainPID", "--value", UNIT]).text

    before = process()
    plan = router.change({"passwords": {"guests": {VM1: {"password": "second-One"}}}})
    assert ask(lab.guests["vm1"]) == "second-One"
    assert process() == before
    assert not any("second" in line for line in plan)
    assert router.drift() == []


def test_the_server_is_nobody_and_sees_nothing_else(router: Router, lab: Lab) -> None:
    argv = ["systemctl", "show", "--property=MainPID", "--value", UNIT]
    pid = lab.vm.run(argv).text.strip()
    status = lab.vm.read(f"/proc/{pid}/status").decode()
    owner = lab.vm.run(["id", "-u", "sysvm-passwords"]).text.strip()
    assert f"Uid:\t{owner}\t{owner}\t{owner}\t{owner}\n" in status
    assert "CapEff:\t0000000000000000\n" in status
    assert "second-One" not in lab.vm.journal()


def test_without_the_section_it_is_gone_and_closed(router: Router, lab: Lab) -> None:
    with router.changed({"passwords": None}):
        assert not lab.guests["vm1"].reaches(GATEWAY, PORT, timeout=0.7)
        shown = lab.vm.run(["systemctl", "is-active", UNIT], check=False)
        assert shown.text.strip() == "inactive"
    assert ask(lab.guests["vm2"]) == "saved_password"
