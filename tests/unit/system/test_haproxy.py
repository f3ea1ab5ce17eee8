import threading
from pathlib import Path

import pytest

from agent.engine.host import StepFailed
from agent.system import haproxy
from tests.unit.system.server import serving, unix

STAT = b"""\
# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,status,weight,check_status,
web,FRONTEND,,,2,5,100,7,10,20,OPEN,,,
web,one,0,0,1,3,,4,5,6,DRAIN,50,L4OK,

"""


def test_reload_that_went_well_says_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "master")
    with serving(unix(path), lambda _: b"Success=1\n--\n[NOTICE] hello\n") as asked:
        haproxy.reload(path)
    assert asked == [b"reload\n"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"Success=0\n--\n[ALERT] cannot bind\n  [10.0.0.9:80]\n", r"cannot bind \[10\.0\.0\.9:80"),
        (b"Success=0\n", "Success=0"),
        (b"", "did not say how it went"),
    ],
)
def test_reload_that_failed_says_why(tmp_path: Path, answer: bytes, words: str) -> None:
    path = str(tmp_path / "master")
    with serving(unix(path), lambda _: answer), pytest.raises(StepFailed, match=words):
        haproxy.reload(path)


def test_master_that_is_not_there_is_a_failed_step(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="master"):
        haproxy.reload(str(tmp_path / "master"))


def test_info_is_read_by_name(tmp_path: Path) -> None:
    path = str(tmp_path / "stats")
    said = b"Name: HAProxy\nVersion: 3.0.11\nnode: router\nDescription: sysvm 1a:2b\n\n"
    with serving(unix(path), lambda _: said):
        info = haproxy.info(path)
    assert info["description"] == "sysvm 1a:2b"
    assert info["version"] == "3.0.11"


def test_statistics_are_rows(tmp_path: Path) -> None:
    path = str(tmp_path / "stats")
    with serving(unix(path), lambda _: STAT):
        listener, server = haproxy.servers(path)
    assert (listener.proxy, listener.name, listener.sessions_total) == ("web", "FRONTEND", 7)
    assert server == haproxy.Server("web", "one", "DRAIN", 50, 1, 4, 5, 6, "L4OK")


HEALTH = b"""\
# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,status,weight,check_status,
web,one,0,0,1,3,,4,5,6,DOWN 1/2,50,* L4TOUT,
web,two,0,0,1,3,,4,5,6,UP,50,L7OK,

"""


def test_health_is_read_of_servers_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "stats")
    with serving(unix(path), lambda _: HEALTH) as asked:
        rows = list(haproxy.health(path))
    assert asked == [b"show stat -1 4 -1\n"]
    assert rows == [
        haproxy.Health("web", "one", "DOWN 1/2", "L4TOUT"),
        haproxy.Health("web", "two", "UP", "L7OK"),
    ]


class Ear:
    """Follows a ring, and stops after so many lines."""

    def __init__(self, stop: threading.Event, enough: int) -> None:
        self.begins = 0
        self.lines: list[str] = []
        self._stop = stop
        self._enough = enough

    def begun(self) -> None:
        self.begins += 1

    def heard(self, line: str) -> None:
        self.lines.append(line)
        if len(self.lines) == self._enough:
            self._stop.set()

    def idle(self) -> None:
        pass


def test_ring_is_followed_from_worker_to_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has been replaced says so, and is let go."""
    monkeypatch.setattr(haproxy, "_AGAIN", 0.01)
    path, stop = str(tmp_path / "stats"), threading.Event()
    said = [
        b"Server web/one is DOWN\nServer web/two is",
        b" UP\nProxy web stopped (cumulated conns: FE: 0, BE: 0).\nnot heard any more\n",
        b"Server web/one is UP\n",
    ]
    answers = iter((said[0] + said[1], said[2]))
    ear = Ear(stop, 3)
    with serving(unix(path), lambda _: next(answers)) as asked:
        haproxy.follow(path, "notices", ear, stop)
    assert ear.lines == ["Server web/one is DOWN", "Server web/two is UP", "Server web/one is UP"]
    assert ear.begins == 2
    assert asked == [b"show events notices -w -n\n"] * 2
