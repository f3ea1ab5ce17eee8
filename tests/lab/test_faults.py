"""Deaths and power cuts at every point of a push: the old revision or the new one, whole."""

import contextlib
import itertools
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.lab import Lab
from appliance.lab.faults import AFTER_COMMIT, FORBIDDEN, POINTS, bare, example
from appliance.lab.wait import wait_until
from tests.lab.conftest import EXAMPLE
from tests.lab.whole import Whole, knocking, whole


def settled(lab: Lab, generation: int) -> bool:
    """Has the agent recovered, and does this generation run?"""
    try:
        status = lab.vm.request("GET", "/v1/status", timeout=5)
    except OSError:
        return False
    return status.status == 200 and status.json()["running"]["generation"] == generation


def test_killed_agent_leaves_the_old_revision_at_every_point(
    boot_lab: Callable[..., Lab],
) -> None:
    wishes = " ".join(f"kill:push:{point}" for point in (*POINTS, AFTER_COMMIT))
    lab = boot_lab(fault=wishes)
    lab.vm.wait_ready()
    upload(lab)
    # The first push passes the points too, and so cannot be the one that is watched.
    old = whole(lab)
    lab.vm.run(["ip", "address", "show"])
    document = example(2)
    for done, point in enumerate(POINTS, 1):
        with pytest.raises(OSError):  # noqa: PT011 - whichever way a connection ends
            lab.vm.request("PUT", "/v1/document", json=document)
        wait_until(lambda: settled(lab, 0), 30, f"recovery after {point}")
        reached = lab.vm.read("/run/sysvm/faults-reached").decode().split()
        assert reached[-1] == f"kill:push:{point}"
        assert len(reached) == done
        assert whole(lab) == old, f"a mixture after {point}"
    with pytest.raises(OSError):  # noqa: PT011
        lab.vm.request("PUT", "/v1/document", json=document)
    wait_until(lambda: settled(lab, 2), 30, "recovery after the commit")
    assert "10.1.1.10:80" in whole(lab).firewall
    again = lab.vm.request("PUT", "/v1/document", json=document)
    assert again.json()["result"] == "unchanged", again.text


@pytest.mark.parametrize(
    "point", ["journaled", "put-table", "add-address", "flip", "kept", AFTER_COMMIT]
)
def test_power_cut_boots_the_old_revision_or_the_new_one(
    power_lab: Lab, point: str, generations: Callable[[], int]
) -> None:
    lab = power_lab
    before, after = generations(), generations()
    assert lab.vm.request("PUT", "/v1/document", json=bare(before)).status < 300
    old = whole(lab)
    lab.vm.set_fault(f"power:push:{point}")
    lab.vm.reboot()
    lab.vm.wait_ready()
    assert whole(lab) == old, "a reboot changed something"
    push = threading.Thread(target=push_into_the_dark, args=(lab, example(after)), daemon=True)
    push.start()
    wait_until(
        lambda: lab.vm.run(["cat", "/run/sysvm/faults-reached"], check=False).returncode == 0,
        20,
        f"the agent to stop at {point}",
    )
    lab.vm.pull_plug()
    push.join(10)
    lab.vm.set_fault(None)
    lab.vm.start()
    lab.vm.wait_ready()
    expected = after if point == AFTER_COMMIT else before
    wait_until(lambda: settled(lab, expected), 10, "the boot to settle")
    if point == AFTER_COMMIT:
        wait_until(lambda: len(whole(lab).units) == 4, 10, "the daemons")
        assert "10.1.1.10:80" in whole(lab).firewall
    else:
        wait_until(lambda: whole(lab).units == old.units, 10, "the daemons")
        assert whole(lab) == old


def push_into_the_dark(lab: Lab, document: dict[str, Any]) -> None:
    """Push to an agent that will not live to answer."""
    with contextlib.suppress(OSError):
        lab.vm.request("PUT", "/v1/document", json=document)


@pytest.fixture(scope="module")
def power_lab(boot_lab: Callable[..., Lab]) -> Lab:
    lab = boot_lab()
    lab.vm.wait_ready()
    upload(lab)
    return lab


@pytest.fixture(scope="module")
def generations() -> Callable[[], int]:
    numbers = iter(range(1, 1000))
    return lambda: next(numbers)


def upload(lab: Lab) -> None:
    from appliance import blobs

    for path in blobs.beside(Path(EXAMPLE)):
        lab.manager.upload(path.read_bytes())


# -- boot --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def router_lab(boot_lab: Callable[..., Lab]) -> Lab:
    """The example runs; its guests have leases."""
    lab = boot_lab()
    lab.vm.wait_ready()
    upload(lab)
    assert lab.vm.request("PUT", "/v1/document", json=example(1)).status < 300
    for guest in lab.guests.values():
        guest.dhcp()
    return lab


def leases(lab: Lab) -> set[str]:
    rows = lab.vm.read("/var/lib/sysvm/leases/dnsmasq.leases").decode().splitlines()
    return {" ".join(row.split()[1:4]) for row in rows if row}


@pytest.mark.parametrize("how", ["reboot", "pull the plug"])
def test_everything_is_back_after_and_nothing_got_in_meanwhile(router_lab: Lab, how: str) -> None:
    lab = router_lab
    old, old_leases = whole(lab), leases(lab)
    assert old_leases
    guest = lab.guests["vm1"]
    with (
        guest.serve(80) as server,
        guest.serve(80, protocol="udp") as datagrams,
        knocking(lab, "203.0.113.10", 9090) as entered,
    ):
        if how == "reboot":
            lab.vm.reboot()
        else:
            lab.vm.pull_plug()
            lab.vm.start()
        lab.vm.wait_ready()
        wait_until(lambda: lab.internet.reaches("203.0.113.10", 8080), 10, "the forward to lead in")
        assert entered == []
        assert datagrams.exchanges() == ()
        assert all(e.get("path") != "/forbidden" for e in server.exchanges())
    wait_until(lambda: whole(lab).units == old.units, 10, "the daemons")
    assert whole(lab) == old
    assert leases(lab) == old_leases
    assert not lab.vm.request("GET", "/v1/drift").json()["plan"]


def stopped_restore(lab: Lab, point: str) -> None:
    """Boot until the restore stops there."""
    lab.vm.set_fault(f"power:boot:{point}")
    lab.vm.pull_plug()
    lab.vm.start(wait=False)
    wait_until(
        lambda: (
            lab.vm.running
            and lab.vm.run(["cat", "/run/sysvm/faults-reached"], check=False).returncode == 0
        ),
        20,
        "the restore to stop",
    )


def booted_whole(lab: Lab, old: Whole) -> None:
    """Boot as it was before."""
    lab.vm.set_fault(None)
    lab.vm.pull_plug()
    lab.vm.start()
    lab.vm.wait_ready()
    wait_until(lambda: whole(lab).units == old.units, 10, "the daemons")
    assert whole(lab) == old


def test_rules_stand_before_the_links_are_up(router_lab: Lab) -> None:
    lab = router_lab
    old = whole(lab)
    lab.vm.run(["rm", "/var/lib/sysvm/firewall/told"])
    stopped_restore(lab, "set-sysctl")
    links = json.loads(lab.vm.run(["ip", "-j", "link"]).text)
    assert [link["ifname"] for link in links if "UP" in link["flags"]] == ["lo"]
    assert whole(lab).firewall == old.firewall
    assert whole(lab).sets == old.sets
    booted_whole(lab, old)


def test_guests_are_served_before_anything_of_ours_has_started(router_lab: Lab) -> None:
    lab = router_lab
    old = whole(lab)
    stopped_restore(lab, "rehearsed")
    now = whole(lab)
    assert (now.firewall, now.sets) == (old.firewall, old.sets)
    assert (now.addresses, now.routes) == (old.addresses, old.routes)
    page = lab.guests["vm1"].get("http://198.51.100.10/")
    assert page.text.strip().endswith("sees 203.0.113.10"), page.text
    assert not lab.internet.reaches("203.0.113.10", 9090)
    guest = lab.guests["vm1"]
    wait_until(lambda: guest.lookup("vm1") == ("10.1.1.10",), 10, "names being told")
    assert guest.dhcp().address == "10.1.1.10"
    booted_whole(lab, old)
    starts = lab.vm.run(["journalctl", "-b", "-u", "dnsmasq", "-o", "cat"]).text
    assert starts.count("Starting dnsmasq") == 1, starts
    booted = lab.vm.run(["journalctl", "-b", "-u", "sysvm-firewall.service", "-o", "cat"]).text
    assert "RTNETLINK" not in booted, booted
    assert not lab.vm.request("GET", "/v1/drift").json()["plan"]


@pytest.mark.parametrize(
    "other", ["another credential", "another firewall", "another revision", "no such NIC"]
)
def test_guests_wait_for_the_restore_where_anything_is_another(router_lab: Lab, other: str) -> None:
    lab = router_lab
    old, told = whole(lab), lab.vm.boot_configuration()
    kept = "/var/lib/sysvm/firewall"
    match other:
        case "another credential":
            lab.vm.set_boot({**told, "domain": "other.example.internal"})
        case "another firewall":
            lab.vm.run(["sh", "-c", f"echo '# by hand' >>{kept}/v6"])
        case "another revision":  # the power was cut before the state was of this one
            lab.vm.run(["sed", "-i", "s/^# revision .*/# revision 999/", f"{kept}/sums"])
        case _:
            change = f"sed -i s/^nic.eth0.*/nic\\ eth0\\ 02:00:00:00:00:09/ {kept}/network"
            sums = f"grep -v /network {kept}/sums >{kept}/s; sha256sum {kept}/network >>{kept}/s"
            lab.vm.run(["sh", "-c", f"{change}; {sums}; mv {kept}/s {kept}/sums"])
    stopped_restore(lab, "rehearsed")
    links = json.loads(lab.vm.run(["ip", "-j", "link"]).text)
    assert [link["ifname"] for link in links if "UP" in link["flags"]] == ["lo"]
    lab.vm.set_boot(told)
    booted_whole(lab, old)


def test_vm_is_closed_by_text_alone_where_python_cannot_start(router_lab: Lab) -> None:
    lab = router_lab
    old = whole(lab)
    lab.vm.run(["mv", "/opt/sysvm/bin/python3", "/opt/sysvm/bin/python3.away"])
    try:
        lab.vm.pull_plug()
        lab.vm.start(wait=False)
        wait_until(
            lambda: (
                lab.vm.running
                and "sysvm-restore" in lab.vm.run(["systemctl", "--failed"], check=False).text
            ),
            30,
            "the restore to fail",
        )
        now = whole(lab)
        assert (now.firewall, now.sets) == (old.firewall, old.sets)
        # Guests have what is kept as text, too: their network, names and addresses.
        assert (now.addresses, now.routes) == (old.addresses, old.routes)
        guest = lab.guests["vm1"]
        wait_until(lambda: guest.lookup("vm1") == ("10.1.1.10",), 10, "names being told")
        assert guest.dhcp().address == "10.1.1.10"
    finally:
        lab.vm.run(["mv", "/opt/sysvm/bin/python3.away", "/opt/sysvm/bin/python3"])
        lab.vm.pull_plug()
        lab.vm.start()
        lab.vm.wait_ready()
    wait_until(lambda: whole(lab).units == old.units, 10, "the daemons")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j NOWHERE\nCOMMIT\n",
        b"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m set --match-set gone src -j ACCEPT\nCOMMIT\n",
        b"*filter\n:INPUT ACCEPT",
        b"\x00" * 512,
    ],
    ids=["empty", "no such chain", "no such set", "cut short", "zeros"],
)
def test_kept_text_that_is_damaged_leaves_the_vm_closed(router_lab: Lab, damage: bytes) -> None:
    lab = router_lab
    old = whole(lab)
    for family in "v4", "v6":
        lab.vm.put(f"/var/lib/sysvm/firewall/{family}", damage, 0o600)
    lab.vm.run(["rm", "/run/sysvm/firewall-done"])
    lab.vm.run(["sh", "/usr/lib/sysvm/firewall"], check=False)
    assert lab.vm.run(["test", "-e", "/run/sysvm/firewall-done"]).returncode == 0
    for family in "iptables", "ip6tables":
        saved = lab.vm.run([f"{family}-nft-save", "-t", "filter"]).text
        assert ":INPUT DROP" in saved, damage
        assert ":FORWARD DROP" in saved, damage
    lab.vm.pull_plug()
    lab.vm.start()
    lab.vm.wait_ready()
    wait_until(lambda: whole(lab) == old, 10, "the revision again")


def test_broken_state_falls_back_and_never_opens(router_lab: Lab) -> None:
    lab = router_lab
    old = whole(lab)
    for content in (b"", b"\x00" * 512, b'{"current": "x"'):
        lab.vm.put("/var/lib/sysvm/state.json", content)
        lab.vm.pull_plug()
        lab.vm.start()
        lab.vm.wait_ready()
        wait_until(lambda: whole(lab).units == old.units, 10, "the daemons")
        assert whole(lab) == old


# -- commit-confirm ----------------------------------------------------------------------------


_GENERATIONS = itertools.count(20)


def running(lab: Lab) -> int:
    """The generation that runs."""
    return int(lab.vm.request("GET", "/v1/status").json()["running"]["generation"])


def provisional(lab: Lab, port: int, seconds: int) -> int:
    document = example(next(_GENERATIONS))
    document["nat"]["forwards"]["more"] = {**FORBIDDEN, "ports": port}
    answer = lab.vm.request("PUT", f"/v1/document?confirm_within={seconds}", json=document)
    assert answer.status == 202, answer.text
    assert str(port) in whole(lab).firewall
    revision: int = answer.json()["revision"]
    return revision


def test_unconfirmed_push_goes_back_without_the_agent(router_lab: Lab) -> None:
    lab = router_lab
    old, before = whole(lab), running(lab)
    provisional(lab, 9997, 10)
    lab.vm.run(["systemctl", "kill", "--signal=KILL", "sysvm-agent"])
    lab.vm.run(["systemctl", "stop", "sysvm-agent"])
    wait_until(lambda: whole(lab) == old, 15, "the timer to roll back")
    lab.vm.run(["systemctl", "start", "sysvm-agent"])
    lab.vm.wait_ready()
    assert running(lab) == before


def test_reboot_before_the_confirm_restores_what_was_confirmed(router_lab: Lab) -> None:
    lab = router_lab
    old = whole(lab)
    provisional(lab, 9998, 600)
    lab.vm.pull_plug()
    lab.vm.start()
    lab.vm.wait_ready()
    wait_until(lambda: whole(lab).units == old.units, 10, "the daemons")
    assert whole(lab) == old


def test_confirmed_push_stays(router_lab: Lab) -> None:
    lab = router_lab
    revision = provisional(lab, 9999, 60)
    assert lab.vm.request("POST", f"/v1/revisions/{revision}/confirm").status == 200
    timers = lab.vm.run(["systemctl", "list-timers", "--all", "--no-legend"]).text
    assert "sysvm-confirm" not in timers
    lab.vm.reboot()
    lab.vm.wait_ready()
    assert "9999" in whole(lab).firewall
