"""The console proxy's control socket: one question, one answer, as lines of JSON."""

import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CONTROL = Path("/run/sysvm-console-proxy/control")
_TIMEOUT = 10.0  # seconds
_TURN = 0.5  # seconds
_LONGEST = 64 * 1024 * 1024  # bytes of an answer


def ask(
    message: Mapping[str, Any], control: Path = CONTROL, timeout: float = _TIMEOUT
) -> dict[str, Any]:
    """The answer. Raises OSError, or ValueError where it is none."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(timeout)
        peer.connect(str(control))
        peer.sendall(json.dumps(message).encode() + b"\n")
        with peer.makefile("rb") as lines:
            answer = json.loads(lines.readline(_LONGEST))
    return dict(answer)


def watch(control: Path = CONTROL) -> Iterator[dict[str, Any] | None]:
    """The proxy's reports as they come, and None twice a second while there is none.

    Raises OSError, also where the proxy ends, and ValueError.
    """
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(_TURN)
        peer.connect(str(control))
        peer.sendall(b'{"op":"watch"}\n')
        data = b""
        while True:
            try:
                piece = peer.recv(65536)
            except TimeoutError:
                yield None
                continue
            if not piece:
                raise ConnectionResetError("the console proxy ended")
            data += piece
            *lines, data = data.split(b"\n")
            if len(data) > _LONGEST:
                raise ValueError("the console proxy's report has no end")
            yield from map(json.loads, lines)
