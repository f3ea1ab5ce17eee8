"""The password server, asked over a socket."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from agent.passwords import Passwords, Server, listen

ME = "127.0.0.1"


class House:
    """A server on loopback, with revisions whose symlink flips as the agent flips it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.taken = root / "taken"
        self.taken.mkdir()
        self.number = 0
        self.put({})
        self.restart()

    def put(self, guests: Mapping[str, tuple[str, str]]) -> None:
        """Have other passwords wait, each with its identity."""
        self.number += 1
        folder = self.root / f"{self.number}/passwords"
        folder.mkdir(parents=True)
        value = {a: {"password": p, "id": i} for a, (p, i) in guests.items()}
        text = json.dumps({"witness": f"w{self.number}", "guests": value})
        (folder / "guests").write_text(f"# From a template\n{text}\n")
        fresh = self.root / "fresh"
        fresh.symlink_to(str(self.number))
        fresh.replace(self.root / "current")

    def restart(self) -> None:
        """Another process, which knows what is on the disk."""
        if self.number > 1:
            self.close()
        passwords = Passwords(self.root / "current/passwords/guests", self.taken)
        self.server = Server((ME, 0), passwords)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def ask(self, wanted: str | None, path: str = "/", method: str = "GET") -> tuple[int, str]:
        """Status and body."""
        port = self.server.server_address[1]
        connection = http.client.HTTPConnection(ME, port, timeout=5)
        with contextlib.closing(connection):
            headers = {} if wanted is None else {"DomU_Request": wanted}
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def test_a_password_is_handed_out_until_it_is_acknowledged(house: House) -> None:
    house.put({ME: ("secret", "one"), "10.1.1.11": ("other", "two")})
    assert house.ask("send_my_password") == (200, "secret")
    assert house.ask("send_my_password") == (200, "secret")
    assert house.ask("saved_password") == (200, "saved_password")
    assert house.ask("send_my_password") == (200, "saved_password")


def test_who_has_none_hears_the_same_as_who_has_taken_it(house: House) -> None:
    house.put({"10.1.1.11": ("other", "two")})
    assert house.ask("send_my_password") == (200, "saved_password")
    assert house.ask("saved_password") == (200, "saved_password")
    assert list(house.taken.iterdir()) == []


def test_a_taken_password_comes_back_neither_by_a_restart_nor_by_another_push(
    house: House,
) -> None:
    house.put({ME: ("secret", "one")})
    house.ask("saved_password")
    house.put({ME: ("secret", "one")})
    house.restart()
    assert house.ask("send_my_password") == (200, "saved_password")
    house.put({ME: ("reset", "two")})
    assert house.ask("send_my_password") == (200, "reset")


@pytest.mark.parametrize("wanted", [None, "", "save_password", "send_my_password, saved_password"])
def test_other_requests_are_bad(house: House, wanted: str | None) -> None:
    house.put({ME: ("secret", "one")})
    assert house.ask(wanted) == (400, "bad_request")
    assert house.ask("send_my_password") == (200, "secret")


def test_nobody_can_store_a_password(house: House) -> None:
    assert house.ask("save_password", method="POST")[0] == 501


def test_the_witness_names_the_file_that_runs(house: House) -> None:
    assert house.ask(None, "/witness/w1")[0] == 204
    house.put({})
    assert house.ask(None, "/witness/w1")[0] == 404
    assert house.ask(None, "/witness/w2")[0] == 204


def test_where_taking_cannot_be_noted_it_is_not_acknowledged(house: House) -> None:
    house.put({ME: ("secret", "one")})
    house.taken.rmdir()
    assert house.ask("saved_password") == (503, "bad_request")
    house.taken.mkdir()
    assert house.ask("send_my_password") == (200, "secret")


def test_a_file_that_is_rotten_is_no_password(house: House) -> None:
    (house.root / "current/passwords/guests").write_text("{")
    assert house.ask("send_my_password") == (503, "bad_request")


def test_one_guest_does_not_hold_all_connections(house: House) -> None:
    address = (ME, int(house.server.server_address[1]))
    with contextlib.ExitStack() as held:
        for _ in range(4):
            held.enter_context(socket.create_connection(address, 5)).sendall(b"GET ")
        refused = held.enter_context(socket.create_connection(address, 5))
        with contextlib.suppress(ConnectionError):
            refused.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert refused.recv(100) == b""


def test_listening_addresses_are_read() -> None:
    assert list(listen("# from\n10.1.1.1 8080\n10.1.2.1 8080\n")) == [
        ("10.1.1.1", 8080),
        ("10.1.2.1", 8080),
    ]
