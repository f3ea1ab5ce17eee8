"""HTTP over a socket that somebody else has opened: in a name space, in a container, over TLS."""

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def exchange(
    sock: socket.socket,
    method: str,
    path: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    host: str = "localhost",
) -> Response:
    """Send one request over this connected socket, read the answer, and close it."""
    connection = http.client.HTTPConnection(host)
    connection.sock = sock
    try:
        sent = {"Connection": "close", **(headers or {})}
        connection.request(method, path, body=body or None, headers=sent)
        response = connection.getresponse()
        content = response.read()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Response(response.status, named, content)
    finally:
        connection.close()


def payload(json_value: object, body: bytes | None) -> tuple[bytes, dict[str, str]]:
    """The bytes of a request, and the header that says what they are."""
    if body is not None:
        return body, {}
    if json_value is not None:
        return json.dumps(json_value).encode(), {"Content-Type": "application/json"}
    return b"", {}


def client_context(
    authority: str, certificate: str | None = None, key: str | None = None
) -> ssl.SSLContext:
    """TLS as a client that trusts this authority file, and shows this certificate file."""
    context = ssl.create_default_context(cafile=authority)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context
