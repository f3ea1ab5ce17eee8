"""Disks that are full, read-only or rotten: refused in words, and what runs goes on running."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.document.document import merge
from appliance.lab import Lab
from appliance.lab.wait import wait_until
from tests.lab.helpers import VM1, WWW, Document, Router, settle

STATE = "/var/lib/sysvm"


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    """The example runs."""
    router = Router(lab)
    router.push(router.document)
    settle(lab.guests["vm1"], VM1)
    return router


def record(number: int) -> Document:
    return {"dhcp_dns": {"dns": {"records": {"n": {"addresses": [f"10.1.1.{number}"]}}}}}


def serves(lab: Lab) -> bool:
    """Do guests get out, names, user data?"""
    vm1 = lab.guests["vm1"]
    return bool(
        vm1.reaches(WWW, 80)
        and vm1.query("vm2", server="10.1.1.1").answer
        and vm1.get("http://10.1.1.1/latest/local-hostname").text == "vm1"
    )


@contextmanager
def small_disk(lab: Lab, folder: str) -> Iterator[None]:
    """The folder on a file system of its own, with all that is in it and little room besides.

    What the agent writes and deletes while it is copied makes `cp` complain; it is copied again.
    """
    copy = "cp -a {0}/. {1}/ || cp -a {0}/. {1}/"
    script = (
        "set -e; mkdir -p /tmp/small; mount -t tmpfs -o size=16m,mode=0755 tmpfs /tmp/small; "
        f"{copy.format(folder, '/tmp/small')}; "
        f"mount --bind /tmp/small {folder}; umount /tmp/small"
    )
    lab.vm.run(["sh", "-c", script])
    try:
        yield
    finally:
        # What was written meanwhile goes back to where it belongs.
        script = (
            "set -e; mkdir -p /tmp/back; mount -t tmpfs tmpfs /tmp/back; "
            f"{copy.format(folder, '/tmp/back')}; umount {folder}; "
            f"cp -a /tmp/back/. {folder}/; umount /tmp/back"
        )
        lab.vm.run(["sh", "-c", script])


def fill(lab: Lab, folder: str) -> None:
    """Leave no room at all."""
    script = f"dd if=/dev/zero of={folder}/ballast bs=64k 2>/dev/null; df --output=avail {folder}"
    left = lab.vm.run(["sh", "-c", script]).text.split()[-1]
    assert int(left) < 64


def test_full_disk_refuses_pushes_and_nothing_else(lab: Lab, router: Router) -> None:
    """Case 22, before the change."""
    with small_disk(lab, STATE):
        router.change(record(20))
        before, seen = router.everything(), router.current()
        fill(lab, STATE)
        document = router.next(merge(router.document, record(21)))
        for _ in range(2):
            answer = router.put(document)
            assert answer.status == 507, answer.text
            assert answer.json()["retryable"]
            assert router.everything() == before
            assert serves(lab)
        assert lab.vm.request("GET", "/v1/status").status == 200
        blob = lab.vm.request("PUT", f"/v1/blobs/{'0' * 64}", body=b"x")
        assert blob.status in {422, 507}
        # Looking needs no room.
        assert router.drift() == []
        assert router.current() == seen
        # As soon as there is room, the same push goes through.
        lab.vm.run(["rm", f"{STATE}/ballast"])
        assert router.put(document).status == 200
        router.document = document
    assert router.change(record(22))
    assert serves(lab)


def test_disk_that_fills_up_during_changes_leaves_whole_revisions(lab: Lab, router: Router) -> None:
    """Case 22, during the change: wherever it runs out, a whole document runs."""
    with small_disk(lab, STATE):
        fill(lab, STATE)
        statuses = []
        for step in range(12):
            # A little more room each time, so that it runs out somewhere else.
            lab.vm.run(
                ["truncate", "-s", f"-{4096 * 2**step // 4}", f"{STATE}/ballast"], check=False
            )
            document = router.next(merge(router.document, record(30 + step)))
            answer = router.put(document)
            statuses.append(answer.status)
            assert answer.status in {200, 507}, answer.text
            running = lab.vm.request("GET", "/v1/document").json()
            assert running == (document if answer.status == 200 else router.document)
            router.document = running
            assert router.drift() == []
            assert serves(lab)
        assert {200, 507} == set(statuses)
        lab.vm.run(["rm", f"{STATE}/ballast"])
    router.change(record(50))


def test_full_memory_disk_refuses_pushes_too(lab: Lab, router: Router) -> None:
    with small_disk(lab, "/run/sysvm/revisions"):
        before = router.everything()
        fill(lab, "/run/sysvm/revisions")
        document = router.next(merge(router.document, record(60)))
        answer = router.put(document)
        assert answer.status == 507, answer.text
        assert router.everything() == before
        assert serves(lab)
        lab.vm.run(["rm", "/run/sysvm/revisions/ballast"])
        assert router.put(document).status == 200
        router.document = document
    assert router.drift() == []


def test_read_only_disk_keeps_the_data_plane(lab: Lab, router: Router) -> None:
    """Case 23: a file system that turned read-only, as one with errors does, for everybody."""
    with small_disk(lab, STATE):
        before = router.everything()
        lab.vm.run(["mount", "-o", "remount,ro", STATE])
        try:
            document = router.next(merge(router.document, record(70)))
            answer = router.put(document)
            assert answer.status == 507, answer.text
            assert "read-only" in answer.text.lower()
            assert lab.vm.request("POST", "/v1/rollback").status == 507
            assert router.everything() == before
            assert serves(lab)
            # The agent itself may even die and come back.
            lab.vm.run(["systemctl", "kill", "--signal=KILL", "sysvm-agent"])
            wait_until(lambda: _answers(lab), 15, "the agent")
            assert serves(lab)
        finally:
            lab.vm.run(["mount", "-o", "remount,rw", STATE])
    # It was started while the other disk lay there, and its sandbox keeps that one.
    lab.vm.run(["systemctl", "restart", "sysvm-agent"])
    assert router.put(document).status == 200
    router.document = document


def _answers(lab: Lab) -> bool:
    try:
        return lab.vm.request("GET", "/v1/status", timeout=5).status == 200
    except OSError:
        return False


ROT = {
    "empty": ": > {}",
    "cut": "truncate -s 40 {}",
    "a bit": "printf '\\377' | dd of={} bs=1 seek=20 conv=notrunc 2>/dev/null",
    "other": "echo '[1,2,3]' > {}",
    "newer": """printf '{{"current":1,"surprise":true}}' > {}""",
}


@pytest.mark.parametrize("how", ROT)
def test_rotten_state_is_survived(lab: Lab, router: Router, how: str) -> None:
    """Case 26: the newest whole revision stands in, and the firewall is never empty."""
    router.change(record(80 + list(ROT).index(how)))
    firewall, running = router.firewall(), router.document
    lab.vm.run(["sh", "-c", ROT[how].format(f"{STATE}/state.json")])
    lab.vm.run(["systemctl", "restart", "sysvm-agent"])
    wait_until(lambda: _asked(lab), 15, "the agent")
    assert router.firewall() == firewall
    assert serves(lab)
    assert router.put(router.next(running)).status in {200, 201}
    assert router.drift() == []
    assert serves(lab)


def _asked(lab: Lab) -> bool:
    try:
        return lab.vm.request("GET", "/v1/status", timeout=5).status in {200, 500}
    except OSError:
        return False


def test_rotten_revision_is_passed_over_at_boot(lab: Lab, router: Router) -> None:
    """Case 26, over a reboot: the revision before runs, and nothing is open that it closes."""
    router.change(record(90))
    older = router.document
    router.change(record(91))
    number = router.current()
    lab.vm.run(["truncate", "-s", "100", f"{STATE}/revisions/{number}.json"])
    lab.vm.reboot()
    lab.vm.wait_ready()
    wait_until(lambda: serves(lab), 15, "the services")
    running = lab.vm.request("GET", "/v1/document").json()
    assert running == older
    assert ":INPUT DROP" in lab.vm.run(["iptables-save", "-t", "filter"]).text
    router.change(record(92))
    assert router.drift() == []
