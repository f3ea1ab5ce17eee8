"""Runs in the VM: kills and stops daemons, and takes the time until they answer again.

A program of its own, standard library only; a JSON line in is a command, a JSON line out its
answer. Times are of the monotonic clock, which the VM shares with who measures outside.
"""

import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SOCKET = "/run/sysvm/control.sock"
WORKER = "/run/haproxy/admin.sock"
GUEST_ADDRESS = "10.1.0.1"
CONTROL_ADDRESS = "169.254.10.2"
PATIENCE = 30.0  # seconds
SCHEDULED = "5eb03494b6584870a536b337290809b3"  # systemd's message: a restart has been scheduled


def dnsmasq() -> bool:
    question = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0)
    question += b"\x06r-1-vm\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(0.05)
        peer.connect((GUEST_ADDRESS, 53))
        peer.send(question)
        return len(peer.recv(512)) > 12


def haproxy() -> bool:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(0.5)
        peer.connect(WORKER)
        peer.sendall(b"show info\n")
        return peer.recv(64).startswith(b"Name")


def apache2() -> bool:
    connection = http.client.HTTPConnection(GUEST_ADDRESS, timeout=0.5)
    try:
        connection.request("GET", "/latest/")
        return connection.getresponse().status > 0
    finally:
        connection.close()


def sshd() -> bool:
    with socket.create_connection((CONTROL_ADDRESS, 3922), 0.5) as peer:
        return peer.recv(64).startswith(b"SSH-")


ANSWERS: Mapping[str, Callable[[], bool]] = {
    "dnsmasq.service": dnsmasq,
    "haproxy.service": haproxy,
    "apache2.service": apache2,
    "sysvm-ssh.service": sshd,
}


def answers(unit: str) -> bool:
    try:
        return ANSWERS[unit]()
    except (OSError, http.client.HTTPException):
        return False


def tool(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, check=True, text=True).stdout


def main_pid(unit: str) -> int:
    return int(tool("systemctl", "show", "-P", "MainPID", unit))


def until(true: Callable[[], bool], pause: float = 0.002) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError("took too long")
        time.sleep(pause)


def procs(unit: str) -> set[str]:
    try:
        return set(Path(f"/sys/fs/cgroup/system.slice/{unit}/cgroup.procs").read_text().split())
    except OSError:
        return set()


class Victims:
    """What is asked for, by name."""

    def kill(self, unit: str) -> dict[str, Any]:
        """Kill a daemon: when, and in how many seconds it answers again."""
        pid, old = main_pid(unit), procs(unit)
        if unit == "sysvm-ssh.service":
            old = {str(pid)}  # sessions stay
        at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        until(lambda: not old & procs(unit) and answers(unit))
        return {"at": at, "answers": time.monotonic() - at}

    def stop(self, unit: str) -> dict[str, Any]:
        """Stop a daemon, so that it hangs: when."""
        pid = main_pid(unit)
        at = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        return {"at": at}

    def well(self, unit: str) -> dict[str, Any]:
        """Wait until it answers, and the monitor says so; then forget its deaths."""
        until(lambda: self._row(unit)["state"] == "running" and answers(unit), 0.1)
        name = self._row(unit)["unit"]
        self._request("POST", f"/v1/services/{name}/release")
        return {}

    def requested(self, unit: str, since: float) -> dict[str, Any]:
        """When systemd scheduled restarts of a unit since then."""
        argv = ["journalctl", "-b", "-o", "json", "--no-pager", f"MESSAGE_ID={SCHEDULED}"]
        lines = tool(*argv, f"UNIT={unit}").splitlines()
        times = [int(json.loads(line)["__MONOTONIC_TIMESTAMP"]) / 1e6 for line in lines]
        return {"at": [at for at in times if at >= since]}

    def threads(self) -> dict[str, Any]:
        """Seconds of CPU of the agent's threads, by name."""
        tasks = Path(f"/proc/{main_pid('sysvm-agent.service')}/task")
        used: dict[str, float] = {}
        for task in tasks.iterdir():
            name = (task / "comm").read_text().strip()
            used[name] = (
                used.get(name, 0.0) + int((task / "schedstat").read_text().split()[0]) / 1e9
            )
        return {"seconds": used}

    def _row(self, unit: str) -> dict[str, Any]:
        unit = "sysvm-ssh.target" if unit == "sysvm-ssh.service" else unit
        rows = json.loads(self._request("GET", "/v1/services"))
        return dict(next(row for row in rows if row["unit"] == unit))

    def _request(self, method: str, path: str) -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(60)
            sock.connect(SOCKET)
            connection = http.client.HTTPConnection("localhost")
            connection.sock = sock
            connection.request(method, path, headers={"Connection": "close"})
            return connection.getresponse().read()


def main() -> None:
    victims = Victims()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(victims, command.pop("do"))(**command)
        except (RuntimeError, OSError, KeyError, ValueError, subprocess.SubprocessError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
