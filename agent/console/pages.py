"""The page and noVNC, from memory: a fixed map, so that no path of a client reaches a disk."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.console import http
from agent.console.http import Request
from agent.console.sessions import Session

_OWN = Path(__file__).with_name("page")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_LARGEST = 8 * 1024 * 1024  # bytes in all
_NOVNC = ("core", "vendor")  # folders of noVNC that its own page needs as well


@dataclass(frozen=True, slots=True)
class Page:
    """A file, with what tells it from another."""

    kind: str
    etag: str
    body: bytes


def load(novnc: Path) -> Mapping[str, Page]:
    """Every file by its path. Raises OSError, ValueError."""
    pages = {"/" + name.removeprefix("index.html"): page for name, page in _files(_OWN)}
    for folder in _NOVNC:
        for name, page in _files(novnc / folder):
            pages[f"/novnc/{folder}/{name}"] = page
    if "/novnc/core/rfb.js" not in pages:
        raise ValueError(f"{novnc} has no noVNC")
    if sum(len(page.body) for page in pages.values()) > _LARGEST:
        raise ValueError(f"{novnc} is larger than noVNC can be")
    return pages


def _files(folder: Path) -> list[tuple[str, Page]]:
    found = []
    for path in sorted(folder.rglob("*")):
        kind = _TYPES.get(path.suffix)
        if kind is not None and path.is_file():
            body = path.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            found.append((path.relative_to(folder).as_posix(), Page(kind, etag, body)))
    return found


def told(session: Session) -> bytes:
    """What the page is told of its session, so that it offers nothing that it cannot have."""
    policy = session.policy
    may = {
        "view_only": policy.view_only,
        "to_guest": policy.clipboard.to_guest,
        "from_guest": policy.clipboard.from_guest,
        "keyboard": policy.keyboard,
    }
    return json.dumps(may).encode()


def policy(framed_by: Sequence[str]) -> str:
    """What the page may load, whom it may ask, and who may show it in a frame."""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; "
        "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors {' '.join(framed_by) or chr(39) + 'none' + chr(39)}"
    )


def respond(
    pages: Mapping[str, Page], request: Request, *, framed_by: Sequence[str], secure: bool
) -> bytes:
    """The answer to a request for a file."""
    headers = {"Content-Security-Policy": policy(framed_by)}
    if secure:
        headers["Strict-Transport-Security"] = "max-age=31536000"
    page = pages.get(request.path)
    head = request.method == "HEAD"
    if page is None:
        headers |= {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"}
        return http.answer(404, headers, b"not here\n", keep=request.keep, head=head)
    headers |= {"Content-Type": page.kind, "ETag": page.etag}
    # The page itself is not kept: its address may have had a secret in it.
    headers["Cache-Control"] = "no-store" if request.path == "/" else "no-cache"
    if request.headers.get("if-none-match") == page.etag:
        return http.answer(304, headers, keep=request.keep)
    return http.answer(200, headers, page.body, keep=request.keep, head=head)
