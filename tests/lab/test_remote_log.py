"""The journal on another machine: it arrives over TLS, at whom the document names and no other."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.lab import Lab
from appliance.lab.pki import Authority
from appliance.lab.wait import wait_until
from tests.lab.helpers import Router

UNIT = "sysvm-remote-log"
NAME = "log.example"


class Receiver:
    """Syslog over TLS, on the lab's management node."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.address = lab.manager.spec.nics[0].addresses[0].split("/")[0]
        self._process: Any = None

    def start(self, name: str = NAME, *, client: bool = False) -> None:
        self.lab.manager.keys.authority.issue(name).write(self.folder, "receiver")
        argv = [
            "python3", "-m", "appliance.lab.syslog", str(self.folder / "log"),
            "--address", self.address,
            "--certificate", str(self.folder / "receiver.pem"),
            "--key", str(self.folder / "receiver.key"),
        ]  # fmt: skip
        if client:
            argv += ["--ca", str(self.lab.manager.keys_folder / "ca.pem")]
        self._process = self.lab.manager.popen(argv)
        assert self._process.stdout.readline() == b"ready\n", self._process.stderr.read()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def numbers(self) -> list[int]:
        """Of the test's own lines."""
        return [int(number) for number in re.findall(r"number (\d+) of the test", self.log())]


def say(lab: Lab, first: int, end: int) -> None:
    """Have lines in the journal."""
    script = f'for n in $(seq {first} {end - 1}); do echo "number $n of the test"; done | logger'
    lab.vm.run(["sh", "-c", script], timeout=60)


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    router = Router(lab)
    router.push(router.document)
    return router


@pytest.fixture
def receiver(lab: Lab, tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(lab, tmp_path)
    yield receiver
    receiver.stop()


@contextmanager
def sending(
    lab: Lab, router: Router, receiver: Receiver, ca: str = "", **more: Any
) -> Iterator[None]:
    ca = ca or (lab.manager.keys_folder / "ca.pem").read_text()
    section = {"name": NAME, "address": receiver.address, "ca": ca, **more}
    with router.changed({"remote_log": section}):
        yield


def test_journal_and_events_arrive(lab: Lab, router: Router, receiver: Receiver) -> None:
    receiver.start()
    assert lab.vm.run(["systemctl", "is-active", UNIT], check=False).text.strip() == "inactive"
    with sending(lab, router, receiver):
        say(lab, 1, 3)
        wait_until(lambda: receiver.numbers() == [1, 2], 20, "what was logged has arrived")
        line = next(line for line in receiver.log().splitlines() if "number 1 of" in line)
        assert re.match(r"<13>1 \d{4}-\d\d-\d\dT\S+ r-1-vm root \S+ - - number 1 of the test", line)
        router.change({"dhcp_dns": {"dns": {"records": {"x": {"addresses": ["10.1.1.77"]}}}}})
        wait_until(lambda: "document.committed: revision" in receiver.log(), 20, "so have events")
    assert lab.vm.run(["systemctl", "is-active", UNIT], check=False).text.strip() == "inactive"
    assert not lab.vm.run(["sh", "-c", "ls /var/log/syslog /var/log/messages"], check=False).text


def test_only_what_was_asked_for_is_sent(lab: Lab, router: Router, receiver: Receiver) -> None:
    receiver.start()
    with sending(lab, router, receiver, severity="error", facilities=["local0"]):
        for priority in ("local0.info", "daemon.err", "local0.err"):
            lab.vm.run(["logger", "-p", priority, f"said by {priority}"])
        wait_until(lambda: "said by local0.err" in receiver.log(), 20, "what was asked for arrives")
        assert receiver.log().count("said by") == 1


@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_receiver_that_is_another_gets_nothing(
    lab: Lab, router: Router, receiver: Receiver, wrong: str
) -> None:
    ca = Authority.create("another").identity.certificate if wrong == "authority" else ""
    receiver.start("somebody.else" if wrong == "name" else NAME)
    with sending(lab, router, receiver, ca=ca):
        say(lab, 100, 101)
        since = lab.vm.run(["date", "+%s"]).text.strip()
        wait_until(
            lambda: "suspended" in lab.vm.journal("-u", UNIT, f"--since=@{int(since) - 10}"),
            20,
            "it is refused",
        )
        assert receiver.log() == ""


def test_receiver_that_asks_for_a_certificate_gets_it(
    lab: Lab, router: Router, receiver: Receiver
) -> None:
    receiver.start(client=True)
    identity = lab.manager.keys.authority.issue("r-1-vm")
    pair = {"certificate": identity.certificate, "key": identity.key}
    with sending(lab, router, receiver, **pair):
        say(lab, 200, 201)
        wait_until(lambda: 200 in receiver.numbers(), 20, "it arrives")
        key = "/run/sysvm/current/remote_log/client.key"
        assert lab.vm.run(["stat", "-c", "%a %U", key]).text.strip() == "600 sysvm-log"


def test_minute_without_a_link_loses_nothing(lab: Lab, router: Router, receiver: Receiver) -> None:
    """Nor does a receiver that comes late: what memory does not take waits on the disk."""
    receiver.start()
    with sending(lab, router, receiver):
        say(lab, 1000, 1010)
        wait_until(lambda: receiver.numbers()[-1:] == [1009], 20, "it arrives")
        lab.manager.run(["ip", "link", "set", "eth0", "down"])
        try:
            for first in range(1010, 7010, 1000):
                say(lab, first, first + 1000)
                lab.vm.run(["sleep", "10"], timeout=30)
            memory = lab.vm.run(["systemctl", "show", "-P", "MainPID", UNIT]).text.strip()
            status = lab.vm.read(f"/proc/{memory}/smaps_rollup").decode()
            own = re.findall(r"^Private_\w+: +(\d+) kB", status, re.MULTILINE)
            assert sum(map(int, own)) < 24 * 1024
        finally:
            lab.manager.run(["ip", "link", "set", "eth0", "up"])
        wanted = set(range(1000, 7010))
        wait_until(lambda: wanted <= set(receiver.numbers()), 120, "all of it arrives")


def test_queue_outlives_a_stop(lab: Lab, router: Router, receiver: Receiver) -> None:
    with sending(lab, router, receiver):
        say(lab, 8000, 8500)
        lab.vm.run(["sleep", "3"])
        lab.vm.run(["systemctl", "restart", UNIT], timeout=60)
        receiver.start()
        wanted = set(range(8000, 8500))
        wait_until(lambda: wanted <= set(receiver.numbers()), 60, "all of it arrives")
