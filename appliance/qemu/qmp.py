"""QEMU's monitor: JSON lines over a Unix socket (QEMU's docs/interop/qmp-spec)."""

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from appliance.errors import ApplianceError


class Monitor:
    """One connection to the monitor of a running QEMU, for as long as a `with` lasts."""

    def __init__(self, path: Path, timeout: float = 30) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(timeout)
        self._sock.connect(str(path))
        self._lines = self._sock.makefile("rb")
        self._read()  # the greeting
        self.execute("qmp_capabilities")

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lines.close()
        self._sock.close()

    def execute(self, command: str, **arguments: object) -> Any:
        """Run one command; what it returns. Raises ApplianceError where QEMU refuses it."""
        self._sock.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            answer = self._read()
            if "error" in answer:
                raise ApplianceError(f"QEMU: {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def _read(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise ApplianceError("QEMU closed its monitor")
        answer: dict[str, Any] = json.loads(line)
        return answer
