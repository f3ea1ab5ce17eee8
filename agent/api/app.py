"""The control endpoint as a Flask application: routes, errors, and a line in the log per change.

Who changed something is told by two things. The server says which process is at the other end
of the Unix socket (`sysvm.peer`), which nobody can forge. `X-Sysvm-Client` names the client whose
certificate `sysvm-front` has checked; the front removes the header from what clients send and sets
its own. A local peer may claim any name in it, for the socket belongs to root; so the log always
has both, and no permission hangs on either.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from agent import lean

if "flask" not in sys.modules:
    # A command line, a server for developers and a client for tests, with TLS and e-mail: 3 MiB.
    lean.know("werkzeug")
    with lean.without("click", "flask.cli", "werkzeug.serving"):
        import flask

import flask
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from agent.api import problems
from agent.api.calls import Call, Response
from agent.api.health import Unwatched
from agent.api.operations import Operations
from agent.api.ports import Engine, Health, Machine, Watch
from agent.api.problems import Answer, Kind, Refusal
from agent.api.routes import LONGEST_DOCUMENT, ROUTES, Route
from agent.api.services import NotWatched
from agent.api.shape import to_json
from agent.api.streams import Stream, Streams
from agent.monitor.events import Kept

log = logging.getLogger(__name__)

CLIENT_HEADER = "X-Sysvm-Client"
CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@=,-]{0,127}")
HEADERS = ("Content-Type", "If-Match", "If-None-Match", "Last-Event-ID")
PEER = "sysvm.peer"  # the WSGI environment's name for the process at the other end
WATCH = "sysvm.watch"  # and for what watches the client from now on, and tells whether it has left


def create_app(
    engine: Engine,
    machine: Machine,
    events: Kept,
    *,
    now: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    streams: Streams | None = None,
    health: Health | None = None,
    watch: Watch | None = None,
) -> flask.Flask:
    """The endpoint on this engine and this machine; `now` is seconds since the epoch."""
    app = flask.Flask("sysvm", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = LONGEST_DOCUMENT
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.url_map.merge_slashes = False
    operations = Operations(
        engine,
        machine,
        now,
        monotonic,
        streams or Streams(),
        events,
        health or Unwatched(),
        watch or NotWatched(),
    )
    for route in ROUTES:
        app.add_url_rule(
            _rule(route),
            endpoint=f"{route.method} {route.path}",
            view_func=_view(route, operations),
            methods=[route.method],
            provide_automatic_options=False,
        )
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
    return app


def _rule(route: Route) -> str:
    """Flask's spelling of a path."""
    path = route.path
    for parameter in route.path_parameters:
        converter = "int:" if parameter.schema["type"] == "integer" else ""
        path = path.replace(f"{{{parameter.name}}}", f"<{converter}{parameter.name}>")
    return path


def _view(route: Route, operations: Operations) -> Callable[..., flask.Response]:
    def view(**path: object) -> flask.Response:
        call = Call(
            route=route,
            path={name: str(value) for name, value in path.items()},
            query=_query(),
            headers=_headers(),
            body=_body(route),
            client=_client(),
        )
        try:
            response = operations.answer(call)
        except Exception as error:
            answer = problems.answer_to(error)
            _note(operations, call, answer)
            if answer is None:
                raise
            return _problem(answer)
        if call.changes:
            _note_success(operations, call, response)
        return respond(response)

    return view


def _headers() -> Mapping[str, str]:
    """The header fields that operations know."""
    found = {name: flask.request.headers.get(name) for name in HEADERS}
    return {name: value for name, value in found.items() if value is not None}


def _query() -> dict[str, str]:
    arguments = flask.request.args
    for name, values in arguments.lists():
        if len(values) > 1:
            raise Refusal(problems.BAD_REQUEST, f"the query has {name[:40]!r} twice")
    return arguments.to_dict()


def _body(route: Route) -> bytes:
    request = flask.request
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Refusal(problems.UNSUPPORTED_MEDIA, "Content-Encoding is not known here")
    if route.body is None:
        return b""
    data = request.get_data(cache=False)
    if len(data) > route.longest:
        raise Refusal(problems.TOO_LARGE, f"{len(data)} bytes, allowed are {route.longest}")
    return data


def _client() -> str:
    """Who asks, as the log has it."""
    peer = str(flask.request.environ.get(PEER, "unknown peer"))
    claimed = flask.request.headers.get(CLIENT_HEADER)
    if claimed is None:
        return peer
    return f"{claimed if CLIENT_NAME.fullmatch(claimed) else 'an unprintable name'} ({peer})"


# -- the log -----------------------------------------------------------------------------------


def _note_success(operations: Operations, call: Call, response: Response) -> None:
    value = to_json(response.content)
    result, detail = "done", ""
    if isinstance(value, dict) and "revision" in value:
        result = value["result"]
        detail = (
            "revision {revision}, generation {generation}, digest {digest:.12}, {duration_ms} ms"
        )
        detail = detail.format(**value)
    operations.note(call, _path(), result, detail)
    log.info("%s by %s: %s %s", _what(call), call.client, result, detail)


def _note(operations: Operations, call: Call, answer: Answer | None) -> None:
    """Remember a change that was not made. The log has paths of problems, and no values."""
    if not call.changes or answer is None:
        return
    operations.note(call, _path(), answer.kind.name, answer.detail)
    paths = ", ".join(problem.path or "/" for problem in answer.problems[:5])
    level = logging.ERROR if answer.kind is problems.DEGRADED else logging.WARNING
    log.log(
        level if answer.kind.status >= 500 else logging.INFO,
        "%s by %s: %s%s",
        _what(call),
        call.client,
        answer.kind.name,
        f", {len(answer.problems)} problems: {paths}" if paths else "",
    )


def _what(call: Call) -> str:
    return f"{call.route.method} {_path()}"


def _path() -> str:
    return "".join(c if c.isprintable() else "?" for c in flask.request.path)[:200]


# -- responses ---------------------------------------------------------------------------------


def respond(response: Response) -> flask.Response:
    """An operation's answer as Flask sends it."""
    if isinstance(response.content, Stream):
        return _stream(response, response.content)
    if isinstance(response.content, bytes):
        content, media_type = response.content, "application/octet-stream"
    else:
        content, media_type = _json(to_json(response.content)), "application/json"
    answer = flask.Response(content, response.status, content_type=media_type)
    answer.headers.update(response.headers)
    return answer


def _stream(response: Response, stream: Stream) -> flask.Response:
    watch = flask.request.environ.get(WATCH)
    if watch is not None:
        stream.gone = watch()
    answer = flask.Response(stream, response.status, content_type=stream.media_type)
    answer.headers["Cache-Control"] = "no-store"
    answer.headers.update(response.headers)
    return answer


def _problem(answer: Answer) -> flask.Response:
    content = _json(problems.body(answer))
    response = flask.Response(content, answer.kind.status, content_type=problems.MEDIA_TYPE)
    response.headers.update(answer.headers)
    return response


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"


_BY_STATUS: dict[int, Kind] = {
    404: problems.UNKNOWN_PATH,
    405: problems.METHOD_NOT_ALLOWED,
    413: problems.TOO_LARGE,
}


def _http_error(error: HTTPException) -> flask.Response:
    """What Flask itself refuses."""
    kind = _BY_STATUS.get(error.code or 500, problems.BAD_REQUEST)
    headers = {}
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
    return _problem(Answer(kind, f"{flask.request.method} {_path()}", headers=headers))


def _unexpected(error: Exception) -> flask.Response:
    """Refusals from before the operation began, and mistakes of ours."""
    answer = problems.answer_to(error)
    if answer is None:
        log.error("%s %s failed", flask.request.method, _path(), exc_info=error)
        answer = Answer(problems.UNEXPECTED, "an error that nobody foresaw")
    return _problem(answer)
