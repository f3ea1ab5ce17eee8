"""The crowd that opens consoles by the thousand in a proof, before a proxy of its own processes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.lab.wait import wait_until
from tests.unit.console import rig


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[rig.Proxy]:
    with rig.running(rig.make(tmp_path, "tls")) as made:
        yield made


@pytest.fixture
def crowd(proxy: rig.Proxy, tmp_path: Path) -> Iterator["tuple[subprocess.Popen[str], int]"]:
    """The process, and the port of its screens."""
    authority = tmp_path / "browsers.pem"
    authority.write_text(proxy.authority.identity.certificate)
    (port,) = rig.free_ports(1)
    words = ("127.0.0.1", str(proxy.ports["tls"]), "console.example", str(authority))
    with subprocess.Popen(
        [sys.executable, "-m", "appliance.lab.crowd", *words, rig.own_address(), str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process, port
        process.kill()


def _ask(crowd: "subprocess.Popen[str]", line: str) -> dict[str, Any]:
    assert crowd.stdin is not None
    assert crowd.stdout is not None
    crowd.stdin.write(f"{line}\n")
    crowd.stdin.flush()
    answer: dict[str, Any] = json.loads(crowd.stdout.readline())
    return answer


def test_a_crowd_tells_who_is_in_and_whose_keys_are_answered(
    proxy: rig.Proxy, crowd: "tuple[subprocess.Popen[str], int]"
) -> None:
    process, port = crowd
    secrets = [proxy.offer(f"s{n}", port) for n in range(3)]
    told = _ask(process, " ".join(("open", *secrets, "unknown")))
    assert told["opened"] == 3
    assert sum(told["failed"].values()) == 1, "who is turned away is told of"
    assert _ask(process, "keys") == {"answered": 3}
    assert _ask(process, "keys") == {"answered": 3}
    proxy.ask({"op": "delete", "id": "s1"})
    wait_until(lambda: _ask(process, "keys") == {"answered": 2}, 20, "one that is not answered")
