"""A router in a lab with its meter inside: pushes and floors, timed where they happen."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.errors import ApplianceError
from appliance.lab import Lab
from appliance.lab.process import Popen

PROGRAM = "/run/sysvm-bench/meter.py"
AGENT = "sysvm-agent.service"
FULL, MERGE = "application/json", "application/merge-patch+json"

Json = dict[str, Any]


@dataclass(slots=True)
class Router:
    """The VM, and the last document that it was given."""

    lab: Lab
    meter: "Popen[bytes]"
    document: Json = field(default_factory=dict)
    generation: int = 0

    def ask(self, do: str, **arguments: object) -> Json:
        """One command of the meter (tests/bench/meter.py). Raises ApplianceError."""
        if self.meter.stdin is None or self.meter.stdout is None:
            raise RuntimeError("no pipe was asked for")
        self.meter.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self.meter.stdin.flush()
        line = self.meter.stdout.readline()
        if not line:
            raise ApplianceError("the meter in the VM died")
        answer: Json = json.loads(line)
        if "error" in answer:
            raise ApplianceError(f"{do}: {answer['error']}")
        return answer

    def put(self, document: Mapping[str, Any]) -> float:
        """Push a whole document; seconds until the answer. Its generation is set here."""
        self.generation += 1
        self.document = {**document, "generation": self.generation}
        return self._change("PUT", self.document, FULL)

    def patch(self, change: Mapping[str, Any]) -> float:
        """Push a merge patch; seconds until the answer."""
        self.generation += 1
        return self._change("PATCH", {"generation": self.generation, **change}, MERGE)

    def _change(self, method: str, value: Mapping[str, Any], kind: str) -> float:
        answer = self.ask(
            "request", method=method, path="/v1/document", body=json.dumps(value), kind=kind
        )
        if answer["status"] not in (200, 201):
            raise ApplianceError(f"a push was answered with {answer['status']}: {answer['body']}")
        seconds: float = answer["seconds"]
        return seconds

    def metered(self) -> None:
        """Start the meter anew, after the VM was booted again."""
        self.meter = _start(self.lab)


@contextlib.contextmanager
def router(kind: str, before: Callable[[Lab], object] = lambda lab: None) -> Iterator[Router]:
    """Boot a lab of our own, `kind` in its name; it goes down at the end."""
    with Lab.up(name=f"bench{os.getpid()}{kind}") as lab:
        lab.vm.wait_ready()
        before(lab)
        made = Router(lab, _start(lab))
        try:
            yield made
        finally:
            made.meter.kill()
            made.meter.wait()


def _start(lab: Lab) -> "Popen[bytes]":
    lab.vm.put(PROGRAM, Path(__file__).with_name("meter.py").read_bytes())
    return lab.vm.popen(["/opt/sysvm/bin/python3", "-I", "-S", PROGRAM], stdin=True)
