"""What the tests of the monitor share: a router all of whose daemons run, and what it tells."""

import re
import time
from collections.abc import Mapping
from typing import Any

from agent.document.document import merge
from appliance.lab import Lab
from appliance.lab.wait import wait_until
from tests.lab.helpers import Router

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDmYwjQ5hG9S2h6WpuEwcH0YB1oWnI0wcZ9Qm0vPzZqf operator"
LOG = "/var/log/routerServiceMonitor.log"
# Units that are wanted, the unit of each one's process, and what operators know that by.
DAEMONS = {
    "dnsmasq.service": ("dnsmasq.service", "dnsmasq"),
    "haproxy.service": ("haproxy.service", "haproxy"),
    "apache2.service": ("apache2.service", "apache2"),
    "sysvm-ssh.target": ("sysvm-ssh.service", "sshd"),
    "sysvm-front.service": ("sysvm-front.service", "front"),
    "sysvm-passwords.service": ("sysvm-passwords.service", "passwords"),
}


class Watched:
    """A router, and what its monitor tells."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.vm = lab.vm
        self.router = Router(lab)
        self.router.document = merge(
            self.router.document,
            {
                "ssh": {"authorized_keys": [KEY]},
                "passwords": {
                    "guests": {"10.1.1.10": {"mac": "02:00:0a:01:01:0a", "password": "Kp7xQ2mZ"}}
                },
            },
        )

    def sh(self, script: str, *, timeout: float = 30) -> str:
        return self.vm.run(["sh", "-c", script], timeout=timeout).text

    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        answer = self.vm.request("GET", "/v1/services")
        return {row["unit"]: row for row in answer.json()}

    def state(self, unit: str) -> str:
        return str(self.rows()[unit]["state"])

    def settle(self, *units: str) -> None:
        """Wait until these run and answer; all, where none is named."""

        def well() -> bool:
            rows = self.rows()
            return all(
                rows[unit]["state"] == "running" and rows[unit]["ready"]
                for unit in units or DAEMONS
            )

        wait_until(well, 30, "daemons that answer")

    def release(self, unit: str) -> None:
        """Forget what was the matter before, such as many deaths of tests."""
        assert self.vm.request("POST", f"/v1/services/{unit}/release").status == 200

    def mark(self) -> "Mark":
        """From here on."""
        page = self.vm.request("GET", "/v1/events?limit=1000").json()
        while page["events"]:
            last = page["next"]
            path = f"/v1/events?limit=1000&after={last}&stream={page['stream']}"
            page = self.vm.request("GET", path).json()
        lines = len(self.log())
        return Mark(self, int(page["next"]), str(page["stream"]), lines)

    def log(self) -> list[str]:
        return self.sh(f"cat {LOG} 2>/dev/null || true").splitlines()


class Mark:
    """A point in time, and what has been told since."""

    def __init__(self, watched: Watched, after: int, stream: str, lines: int) -> None:
        self._watched = watched
        self._after, self._stream, self._lines = after, stream, lines
        self.at = time.monotonic()

    def events(self, *prefixes: str) -> list[dict[str, Any]]:
        path = f"/v1/events?limit=1000&after={self._after}&stream={self._stream}"
        found: list[dict[str, Any]] = self._watched.vm.request("GET", path).json()["events"]
        return [event for event in found if event["kind"].startswith(prefixes or ("service.",))]

    def kinds(self, subject: str) -> list[str]:
        return [event["kind"] for event in self.events() if event["subject"] == subject]

    def lines(self) -> list[str]:
        """Those about daemons: resources and checks have lines of their own."""
        new = self._watched.log()[self._lines :]
        return [line for line in new if "The process" in line or "The files of" in line]


LINE = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d) (?P<clock>\d\d:\d\d:\d\d),(?P<milliseconds>\d{3}) "
    r"\[(?P<level>INFO|ALERT|CRIT|NOTIF)\] \[(?P<subject>[^\]]+)\] (?P<text>\S.*)"
)
