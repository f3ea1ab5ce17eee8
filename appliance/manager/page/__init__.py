"""The manager's page: files that go out as they are, with nothing of a request in them."""

from collections.abc import Callable
from importlib import resources

import flask

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


def _read(name: str) -> bytes:
    return resources.files(__package__).joinpath(name).read_bytes()


FILES: tuple[tuple[str, bytes, str], ...] = (
    ("/", _read("page.html"), "text/html; charset=utf-8"),
    ("/page.js", _read("page.js"), "text/javascript; charset=utf-8"),
    ("/page.css", _read("page.css"), "text/css; charset=utf-8"),
)


def view(content: bytes, media_type: str) -> Callable[[], flask.Response]:
    """What answers with a file."""

    def answer() -> flask.Response:
        response = flask.Response(content, content_type=media_type)
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-cache"
        return response

    return answer
