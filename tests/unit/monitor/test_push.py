"""The push, against a real receiver over TLS: all of it, once, in order, whatever happens."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.monitor import push
from agent.monitor.events import Cursor, Event, Kind
from agent.monitor.outbox import Outbox
from agent.monitor.push import Push, Settings, pauses
from agent.services.events import SETTINGS
from agent.system.clock import SystemClock
from appliance.lab import receiver
from appliance.lab.pki import Authority
from appliance.lab.wait import wait_until

AUTHORITY = Authority.create("test")
OTHER = Authority.create("another")


class End:
    """A receiver on loopback that can be stopped, and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.port = 0
        self.requests = 0
        self.answer: Callable[[dict[str, Any]], tuple[int, bytes] | None] = lambda _: None
        ca = folder / "ca.pem"
        ca.write_text(AUTHORITY.identity.certificate)
        pair = AUTHORITY.issue("receiver", addresses=["127.0.0.1"]).write(folder, "server")
        self._context = receiver.context(ca, *pair)
        self._server: receiver.Server | None = None
        self.start()

    def start(self) -> None:
        end = self

        class Handler(receiver.Handler):
            inbox = receiver.Inbox(end.folder)

            def do_POST(self) -> None:  # noqa: N802 - its name there
                end.requests += 1
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = end.answer(json.loads(body))
                if answer is None:
                    answer = 200, json.dumps(self.inbox.take(json.loads(body))).encode()
                self.send_response(answer[0])
                self.send_header("Content-Length", str(len(answer[1])))
                self.end_headers()
                self.wfile.write(answer[1])

        self._server = receiver.Server(("127.0.0.1", self.port), Handler, self._context)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def numbers(self) -> list[int]:
        return [event["data"]["number"] for event in receiver.Inbox(self.folder).events()]


class Vm:
    """An outbox with its sender."""

    def __init__(self, folder: Path, end: End) -> None:
        self.current = folder / "current"
        (self.current / "events").mkdir(parents=True)
        self.end = end
        identity = AUTHORITY.issue("vm")
        self.certificate = folder / "client.pem"
        self.certificate.write_text(identity.certificate + identity.key)
        self.outbox = Outbox(folder / "outbox", boot="b1", clock=SystemClock())
        self.outbox.start()
        self.stop = threading.Event()
        self.sender = Push(self.outbox, Settings(self.current), "b1")
        self.thread = threading.Thread(target=self.sender.run, args=(self.stop,))
        self.thread.start()

    def send_to(self, **change: Any) -> None:
        target = {
            "host": "127.0.0.1",
            "port": self.end.port,
            "path": "/v1/events",
            "ca": AUTHORITY.identity.certificate,
            "server_name": "127.0.0.1",
            "certificate": str(self.certificate),
            "batch": 100,
            "nic": "",
            **change,
        }
        value = {"vm": "r-1-vm", "role": "router", "push": target, "heartbeat": None}
        new = self.current / "new"
        new.write_text(json.dumps(value))
        new.replace(self.current / SETTINGS)

    def say(self, *numbers: int) -> None:
        for number in numbers:
            self.outbox.record(
                Event(kind=Kind.DRIFT_OVER, subject="s", message="m", data={"number": number})
            )

    def down(self) -> None:
        self.stop.set()
        self.thread.join(10)
        self.outbox.close()
        assert not self.thread.is_alive()


@pytest.fixture
def end(tmp_path: Path) -> Iterator[End]:
    end = End(tmp_path / "end")
    yield end
    end.stop()


@pytest.fixture
def vm(tmp_path: Path, end: End, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vm]:
    monkeypatch.setattr(push, "SHORTEST_PAUSE", 0.05)
    monkeypatch.setattr(push, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(push, "LOOK", 0.1)
    vm = Vm(tmp_path, end)
    yield vm
    vm.down()


def test_events_arrive_and_are_acknowledged(vm: Vm, end: End) -> None:
    vm.say(*range(250))
    vm.send_to()
    wait_until(lambda: end.numbers() == list(range(250)), 10, "all have arrived")
    wait_until(lambda: vm.outbox.acknowledged().seq == 250, 5, "all are acknowledged")
    assert end.requests == 3
    first = receiver.Inbox(end.folder).events()[0]
    assert (first["vm"], first["seq"], first["kind"]) == ("r-1-vm", 1, "drift.over")
    vm.say(250)
    wait_until(lambda: end.numbers()[-1] == 250, 5, "and what comes later")


def test_receiver_that_is_gone_for_a_while_loses_nothing(vm: Vm, end: End) -> None:
    vm.send_to()
    vm.say(0)
    wait_until(lambda: end.numbers() == [0], 10, "the first has arrived")
    end.stop()
    vm.say(*range(1, 120))
    end.start()
    wait_until(lambda: end.numbers() == list(range(120)), 10, "all have arrived")


def test_answer_that_is_lost_sends_a_batch_again(vm: Vm, end: End) -> None:
    lost: list[int] = []

    def lose(batch: dict[str, Any]) -> tuple[int, bytes] | None:
        if len(lost) < 3:
            lost.append(batch["events"][0]["seq"])
            receiver.Inbox(end.folder).take(batch)  # it has arrived all the same
            return 500, b""
        return None

    end.answer = lose
    vm.say(*range(10))
    vm.send_to()
    wait_until(lambda: vm.outbox.acknowledged().seq == 10, 10, "all are acknowledged")
    assert lost == [1, 1, 1]


def test_part_that_is_acknowledged_is_not_sent_again(vm: Vm, end: End) -> None:
    seen: list[list[int]] = []

    def half(batch: dict[str, Any]) -> tuple[int, bytes]:
        numbers = [event["seq"] for event in batch["events"]]
        seen.append(numbers)
        last = numbers[(len(numbers) - 1) // 2]
        return 200, json.dumps({"stream": batch["stream"], "acknowledged": last}).encode()

    end.answer = half
    vm.say(*range(4))
    vm.send_to()
    wait_until(lambda: vm.outbox.acknowledged().seq == 4, 10, "all are acknowledged")
    assert seen == [[1, 2, 3, 4], [3, 4], [4]]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"{}",
        b'{"stream": "x", "acknowledged": 1}',
        b'{"stream": 1, "acknowledged": 99}',
    ],
)
def test_answer_that_acknowledges_nothing_of_ours_is_none(vm: Vm, end: End, answer: bytes) -> None:
    end.answer = lambda _: (200, answer)
    vm.say(0)
    vm.send_to()
    wait_until(lambda: end.requests >= 3, 10, "it is tried again")
    assert vm.outbox.acknowledged().seq == 0
    end.answer = lambda _: None
    wait_until(lambda: vm.outbox.acknowledged().seq == 1, 5, "it is acknowledged")


def test_batches_become_smaller_for_a_receiver_that_finds_them_too_large(vm: Vm, end: End) -> None:
    end.answer = lambda batch: (413, b"") if len(batch["events"]) > 10 else None
    vm.say(*range(100))
    vm.send_to()
    wait_until(lambda: end.numbers() == list(range(100)), 10, "all have arrived")


def test_receiver_that_is_another_is_refused(vm: Vm, end: End) -> None:
    vm.say(0)
    vm.send_to(ca=OTHER.identity.certificate)
    wait_until(lambda: "push" in Settings(vm.current).read(), 5, "it is configured")
    vm.stop.wait(0.5)
    assert end.requests == 0
    vm.send_to(server_name="somebody-else")
    vm.stop.wait(0.5)
    assert end.requests == 0
    vm.send_to()
    wait_until(lambda: end.numbers() == [0], 5, "the right one is told")


def test_nothing_is_sent_where_nobody_is_named(vm: Vm, end: End) -> None:
    vm.say(0)
    vm.send_to()
    wait_until(lambda: end.numbers() == [0], 5, "it is sent")
    (vm.current / SETTINGS).unlink()
    vm.stop.wait(0.4)
    vm.say(1)
    vm.stop.wait(0.4)
    assert end.numbers() == [0]
    assert vm.outbox.wait(vm.outbox.acknowledged(), 0)
    assert vm.outbox.read(Cursor()).last == 2


def test_pauses_grow_to_a_minute_and_differ() -> None:
    whole, none = pauses(lambda: 1.0), pauses(lambda: 0.0)
    assert [whole() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [none() for _ in range(3)] == [0.5, 1, 2]
