"""Our sessions under the stock websockify:

    websockify --token-plugin agent.console.session_plugin.SessionToken \\
               --token-source /run/sysvm-console-proxy/control 6080

A token is a session's secret, and opens once. What this project's own proxy does besides (the
hypervisor's authentication, policy, limits, records of bytes) is not to be had this way: for the
session's keeper it ends where it is handed over.
"""

import json
import logging
import socket

log = logging.getLogger(__name__)

_PATIENCE = 5.0  # seconds
_LONGEST = 65536  # bytes of an answer


class SessionToken:
    """A token plug-in of websockify's kind: `src` is the keeper's control socket."""

    def __init__(self, src: str) -> None:
        self.source = src

    def lookup(self, token: str) -> list[object] | None:
        """The target of the session that this secret opens, or None."""
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(_PATIENCE)
                sock.connect(self.source)
                sock.sendall(json.dumps({"op": "open", "secret": token}).encode() + b"\n")
                answer = json.loads(sock.makefile("rb").readline(_LONGEST))
        except (OSError, ValueError) as error:
            log.error("the sessions' keeper does not answer: %s", error)
            return None
        target: list[object] | None = answer.get("target")
        return target
