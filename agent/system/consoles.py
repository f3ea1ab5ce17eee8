"""The console proxy's control socket: one question, one answer, as lines of JSON."""

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONTROL = Path("/run/sysvm-console-proxy/control")
_TIMEOUT = 10.0  # seconds
_LONGEST = 64 * 1024 * 1024  # bytes of an answer


def ask(message: Mapping[str, Any], control: Path = CONTROL) -> dict[str, Any]:
    """The answer. Raises OSError, or ValueError where it is none."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(_TIMEOUT)
        peer.connect(str(control))
        peer.sendall(json.dumps(message).encode() + b"\n")
        with peer.makefile("rb") as lines:
            answer = json.loads(lines.readline(_LONGEST))
    return dict(answer)
