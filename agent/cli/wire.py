"""The wire: one HTTP request to the agent's Unix socket, and what can come of it."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any

SOCKET = "/run/sysvm/control.sock"
CHANGE_TIMEOUT = 300.0  # seconds; a change waits for daemons, and for the one before it
OK, SAID_NO, UNUSABLE = 0, 1, 2


class Unusable(Exception):
    """What was asked cannot be sent: what, where, and what to do next."""

    def __init__(self, what: str, where: str, hint: str) -> None:
        super().__init__(f"{where}: {what}")
        self.hint = hint


class SaidNo(Exception):
    """The VM answered with a problem (RFC 9457)."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(problem.get("title", "the VM said no"))
        self.problem = problem

    @property
    def name(self) -> str:
        return str(self.problem.get("type", "")).rpartition("/")[2] or "problem"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("sysvm", timeout=CHANGE_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """The agent behind its socket."""

    def __init__(self, path: str) -> None:
        self._path = path

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[bytes, http.client.HTTPMessage]:
        """The answer's content and header. Raises SaidNo, Unusable."""
        with self.stream(method, path, body, headers) as response:
            return response.read(), response.headers

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer, to be read as it comes. Raises SaidNo, Unusable; so does the block."""
        connection = _UnixConnection(self._path)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # Broken off: it has answered before it has read everything, which is too large.
                connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            if response.status >= 400:
                raise SaidNo(_problem(response.status, response.read()))
            yield response
        except BrokenPipeError:
            raise  # the block's own output
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        return json.loads(self.send("GET", path)[0])

    def _unreachable(self, error: Exception) -> Unusable:
        where = self._path
        match error:
            case FileNotFoundError():
                return Unusable(
                    "there is no such socket",
                    where,
                    "is the agent up? systemctl status sysvm-agent",
                )
            case PermissionError():
                return Unusable(
                    "permission denied", where, "be root, or a member of the group sysvm"
                )
            case ConnectionRefusedError():
                return Unusable("nobody answers", where, "systemctl restart sysvm-agent")
            case TimeoutError():
                return Unusable(
                    "no answer in time", where, "journalctl -u sysvm-agent has what it does"
                )
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Unusable(f"the connection broke: {reason}", where, "journalctl -u sysvm-agent")


def _problem(status: int, content: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    if isinstance(value, dict):
        return value
    return {"type": "", "title": f"HTTP status {status}", "status": status, "detail": ""}


def quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")
