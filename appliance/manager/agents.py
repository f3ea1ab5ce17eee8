"""Calls to agents' control endpoints, over mutual TLS."""

import contextlib
import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from appliance.errors import ApplianceError

CONNECT = 5.0  # seconds
ANSWER = 20.0  # seconds
PUSH = 330.0  # seconds: an agent answers when a push has been applied
QUIET = 12.0  # seconds without a report, which comes every five
LONGEST = 64 * 1024 * 1024  # bytes of a report


class AgentMute(Exception):
    """An agent cannot be reached, or does not answer in time."""

    retryable = True


class AgentRefused(Exception):
    """An agent's answer is a problem."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = problem
        self.retryable = bool(problem.get("retryable", status >= 500))
        detail = problem.get("detail") or problem.get("title") or "no reason"
        super().__init__(f"{status}: {detail}")


@dataclass(frozen=True, slots=True)
class Where:
    """A control endpoint. `server_name` is in its certificate where the address is not."""

    url: str  # https://ADDRESS:PORT
    server_name: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """Files: whom agents' certificates come from, and the manager's own certificate and key."""

    ca: Path
    certificate: Path
    key: Path


class Agents:
    """All agents, asked by one identity."""

    def __init__(self, identity: Identity) -> None:
        """Raises ApplianceError where the files are not what they should be."""
        try:
            context = ssl.create_default_context(cafile=str(identity.ca))
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_cert_chain(identity.certificate, identity.key)
        except (OSError, ssl.SSLError) as error:
            raise ApplianceError(
                f"the certificates for agents cannot be used: {error}",
                "--agent-ca, --agent-certificate and --agent-key name PEM files",
            ) from error
        self._client = httpx.Client(
            verify=context,
            timeout=httpx.Timeout(ANSWER, connect=CONNECT),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=200),
            trust_env=False,
        )

    def close(self) -> None:
        """End all connections."""
        self._client.close()

    def ask(
        self,
        where: Where,
        method: str,
        path: str,
        value: object = None,
        *,
        seconds: float = ANSWER,
    ) -> Any:
        """The answer's value; bytes are sent as they are. Raises AgentMute and AgentRefused."""
        body, sent = None, {}
        if isinstance(value, bytes):
            body, sent = value, {"Content-Type": "application/octet-stream"}
        elif value is not None:
            body = json.dumps(value, ensure_ascii=False).encode()
            sent = {"Content-Type": "application/json"}
        try:
            response = self._client.request(
                method,
                where.url + path,
                content=body,
                headers=sent,
                timeout=httpx.Timeout(seconds, connect=CONNECT),
                extensions=_name(where),
            )
        except httpx.HTTPError as error:
            raise AgentMute(f"{where.url}: {error or type(error).__name__}") from error
        if response.status_code >= 400:
            raise AgentRefused(response.status_code, _problem(response))
        try:
            return response.json() if response.content else None
        except ValueError as error:
            raise AgentMute(f"{where.url} answers with what is not JSON") from error

    def reports(self, where: Where) -> Iterator[Mapping[str, Any]]:
        """What a console proxy says of itself, as it says it. Raises AgentMute, AgentRefused."""
        quiet = httpx.Timeout(QUIET, connect=CONNECT)
        try:
            with self._client.stream(
                "GET", where.url + "/v1/console/reports", timeout=quiet, extensions=_name(where)
            ) as response:
                if response.status_code >= 400:
                    response.read()
                    raise AgentRefused(response.status_code, _problem(response))
                for line in _lines(response.iter_bytes()):
                    if line.startswith(b"data: "):
                        yield json.loads(line[6:])
        except httpx.HTTPError as error:
            raise AgentMute(f"{where.url}: {error or type(error).__name__}") from error
        except ValueError as error:
            raise AgentMute(f"{where.url} reports what is not JSON") from error
        raise AgentMute(f"{where.url} ended its reports")


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    data = b""
    for piece in pieces:
        data += piece
        *lines, data = data.split(b"\n")
        yield from lines
        if len(data) > LONGEST:
            raise ValueError("a report has no end")


def _name(where: Where) -> dict[str, Any]:
    return {"sni_hostname": where.server_name} if where.server_name else {}


def _problem(response: httpx.Response) -> Mapping[str, Any]:
    with contextlib.suppress(ValueError):
        found = response.json()
        if isinstance(found, dict):
            return found
    return {"title": response.reason_phrase}
