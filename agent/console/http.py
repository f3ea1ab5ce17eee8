"""HTTP/1.1 (RFC 9112) as far as a page and a WebSocket need it, and strictly: requests without a
body, of at most 8 KiB. What is ambiguous is refused, because whatever stands before the proxy may
have understood something else. Also the PROXY protocol's header, with which a load balancer says
who it is that comes.
"""

import ipaddress
import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from agent.console.targets import Address

LONGEST_HEAD = 8192  # bytes
END = b"\r\n\r\n"
_MOST_FIELDS = 64
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_VALUE = re.compile(rb"[\x20-\x7e\x80-\xff\t]*")
_TARGET = re.compile(rb"/[!-~]{0,2047}")
_ONCE = frozenset(
    {"host", "origin", "upgrade", "sec-websocket-key", "sec-websocket-version", "content-length"}
)
_KEY = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")
_SECRET = re.compile(r"secret\.([A-Za-z0-9_-]{43})")
_RESUME = re.compile(r"resume\.([A-Za-z0-9_-]{43})")
_REASONS = {
    101: "Switching Protocols", 200: "OK", 204: "No Content", 304: "Not Modified",
    308: "Permanent Redirect", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout",
    421: "Misdirected Request", 426: "Upgrade Required",
    431: "Request Header Fields Too Large", 503: "Service Unavailable",
}  # fmt: skip


class BadRequest(Exception):
    """A request that is answered with this status, and not otherwise."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """A request's head. Names of fields are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    keep: bool  # does the client expect the connection to stay?


def parse(head: bytes) -> Request:
    """The request of these bytes, which end with the empty line. Raises BadRequest."""
    if not head.endswith(END) or head.count(b"\n") != head.count(b"\r\n"):
        raise BadRequest(400, "a line does not end with CRLF")
    if head.count(b"\r") != head.count(b"\r\n"):
        raise BadRequest(400, "a bare CR")
    line, *fields = head[: -len(END)].split(b"\r\n")
    words = line.split(b" ")
    if len(words) != 3 or words[2] not in {b"HTTP/1.1", b"HTTP/1.0"}:
        raise BadRequest(400, "not HTTP/1.1")
    if words[0] not in {b"GET", b"HEAD"}:
        raise BadRequest(405, "only GET and HEAD")
    if not _TARGET.fullmatch(words[1]):
        raise BadRequest(400, "not a path")
    headers = _fields(fields)
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise BadRequest(400, "a body is not expected")
    if words[2] == b"HTTP/1.1" and not headers.get("host"):
        raise BadRequest(400, "no Host")
    path, _, query = words[1].decode("ascii").partition("?")
    keep = words[2] == b"HTTP/1.1" and "close" not in _listed(headers, "connection")
    return Request(words[0].decode("ascii"), path, query, headers, keep)


def _fields(lines: list[bytes]) -> Mapping[str, str]:
    if len(lines) > _MOST_FIELDS:
        raise BadRequest(431, f"more than {_MOST_FIELDS} fields")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadRequest(400, "a malformed field")
        key, text = name.decode("ascii").lower(), value.decode("latin-1").strip(" \t")
        if key in headers:
            if key in _ONCE:
                raise BadRequest(400, f"{key} twice")
            text = f"{headers[key]}, {text}"
        headers[key] = text
    return headers


def _listed(headers: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(part.strip().lower() for part in headers.get(name, "").split(","))


# -- the WebSocket's opening -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offer:
    """What a browser offers as sub-protocols: the only part of the opening that a page can set."""

    binary: bool
    secret: str | None
    resume: bytes  # the SHA-256 of what it will come back with, or nothing
    policy: bool = False  # does it want to be told what it may do?


def is_upgrade(request: Request) -> bool:
    """Does the client want a WebSocket?"""
    return "websocket" in _listed(request.headers, "upgrade")


def check_upgrade(request: Request) -> None:
    """Is this the opening of a WebSocket (RFC 6455, section 4.2.1)? Raises BadRequest."""
    headers = request.headers
    if request.method != "GET" or "upgrade" not in _listed(headers, "connection"):
        raise BadRequest(400, "a half-hearted upgrade")
    if headers.get("sec-websocket-version") != "13":
        raise BadRequest(426, "WebSocket version 13 only")
    if not _KEY.fullmatch(headers.get("sec-websocket-key", "")):
        raise BadRequest(400, "no proper Sec-WebSocket-Key")


def offer(request: Request) -> Offer:
    """What the opening offers. Raises BadRequest where it says a thing twice."""
    names = [part.strip() for part in request.headers.get("sec-websocket-protocol", "").split(",")]
    return parse_offer([name for name in names if name])


def parse_offer(names: Collection[str]) -> Offer:
    """The same of a list of sub-protocols, or of a first message split at its blanks."""
    secrets = [found[1] for name in names if (found := _SECRET.fullmatch(name))]
    resumes = [found[1] for name in names if (found := _RESUME.fullmatch(name))]
    if len(secrets) > 1 or len(resumes) > 1:
        raise BadRequest(400, "two secrets")
    resume = b""
    if resumes:
        import binascii

        resume = binascii.a2b_base64(resumes[0].replace("-", "+").replace("_", "/") + "=")
    return Offer("binary" in names, secrets[0] if secrets else None, resume, "policy" in names)


def check_host(request: Request, hosts: Collection[str]) -> None:
    """Does the browser call us by a name of ours? Raises BadRequest."""
    if request.headers.get("host", "").lower() not in hosts:
        raise BadRequest(421, "This console proxy has another name: open the console by its link.")


def check_place(
    request: Request, *, hosts: Collection[str], origins: Collection[str], native: bool
) -> None:
    """Did the browser mean us, and does our own page ask? Raises BadRequest.

    `hosts` and `origins` are what management says; nothing is derived from what the client says.
    Clients that are no browser send no Origin; `native` lets them in.
    """
    check_host(request, hosts)
    origin = request.headers.get("origin")
    if origin is None:
        if not native:
            raise BadRequest(403, "no Origin")
    elif origin.lower() not in origins:
        raise BadRequest(403, "a foreign Origin")


# -- answers -----------------------------------------------------------------------------------

SECURITY: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def answer(
    status: int, headers: Mapping[str, str], body: bytes = b"", *, keep: bool, head: bool = False
) -> bytes:
    """A whole answer. Fields are constants or checked by whoever makes them, never a request's."""
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}"]
    lines += [f"{name}: {value}" for name, value in {**SECURITY, **headers}.items()]
    lines += [f"Content-Length: {len(body)}", f"Connection: {'keep-alive' if keep else 'close'}"]
    text = "\r\n".join(lines).encode("ascii") + END
    return text if head else text + body


def refusal(error: BadRequest, headers: Mapping[str, str] | None = None) -> bytes:
    """What a bad request is answered with; the words are ours."""
    body = f"{error}\n".encode()
    fields = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"}
    return answer(error.status, fields | dict(headers or {}), body, keep=False)


# -- the PROXY protocol ------------------------------------------------------------------------

PROXY_2 = b"\r\n\r\n\0\r\nQUIT\n"


def proxy_1(line: bytes) -> Address | None:
    """Who comes, of a PROXY line (version 1) with its CRLF; None where it does not say.

    Raises BadRequest.
    """
    words = line[:-2].decode("latin-1").split(" ")
    if words[:2] == ["PROXY", "UNKNOWN"]:
        return None
    if len(words) != 6 or words[0] != "PROXY" or words[1] not in {"TCP4", "TCP6"}:
        raise BadRequest(400, "not the PROXY protocol")
    try:
        address = ipaddress.ip_address(words[2])
    except ValueError:
        raise BadRequest(400, "not the PROXY protocol") from None
    if address.version != int(words[1][3]):
        raise BadRequest(400, "not the PROXY protocol")
    return address


def proxy_2_length(head: bytes) -> int:
    """How many bytes follow the 16 of a PROXY header (version 2). Raises BadRequest."""
    if head[:12] != PROXY_2 or head[12] >> 4 != 2 or head[12] & 15 > 1:
        raise BadRequest(400, "not the PROXY protocol")
    (length,) = struct.unpack_from(">H", head, 14)
    if length > 2048:
        raise BadRequest(400, "a PROXY header without end")
    return int(length)


def proxy_2(head: bytes, rest: bytes) -> Address | None:
    """Who comes, of a PROXY header (version 2); None for the balancer's own connections."""
    if head[12] & 15 == 0:
        return None
    sizes = {0x11: 4, 0x21: 16}
    size = sizes.get(head[13])
    if size is None or len(rest) < 2 * size + 4:
        raise BadRequest(400, "not TCP, in a PROXY header")
    return ipaddress.ip_address(rest[:size])
