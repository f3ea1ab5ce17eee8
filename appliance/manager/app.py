"""The manager's endpoint as a Flask application: who asks, what for, and a row in the audit.

Every answer that is not what was asked for is a problem of the closed set in `problems`. Input is
typed before an operation sees it; nothing of a request reaches a log or a header as it is.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flask
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException

from agent.engine.model import Problem
from appliance.manager import bodies, page, problems
from appliance.manager.access import Caller, who
from appliance.manager.agents import AgentMute, AgentRefused
from appliance.manager.audit import Audit, Entry
from appliance.manager.call import Call
from appliance.manager.consoles import NoProxy, SessionRefused, TooMany
from appliance.manager.database import Database
from appliance.manager.documents import TooOld
from appliance.manager.fleet import NoSuchVm, Stale
from appliance.manager.openapi import description
from appliance.manager.problems import Answer, Kind, Refusal
from appliance.manager.proxies import InUse, NoSuchProxy
from appliance.manager.routes import LONGEST_DOCUMENT, PARAMETERS, ROUTES, Query, Route
from appliance.manager.screens import NoSuchScreen
from appliance.manager.sessions import NoSuchSession

log = logging.getLogger(__name__)

RETRY_AFTER = 5  # seconds
_TOKEN = re.compile(r"Bearer ([A-Za-z0-9_-]{20,100})")
_NOBODY = Caller("", "", None)  # type: ignore[arg-type]  # of no role


def create_app(
    database: Database,
    operations: Sequence[object],
    audit: Audit,
    *,
    now: Callable[[], float] = time.time,
) -> flask.Flask:
    """The endpoint; each route's operation is a method of one of `operations`."""
    app = flask.Flask("sysvm-manager", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = LONGEST_DOCUMENT
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.url_map.merge_slashes = False
    door = _Door(database, operations, audit, now)
    for route in ROUTES:
        app.add_url_rule(
            re.sub(r"\{(\w+)\}", r"<\1>", route.path),
            endpoint=f"{route.method} {route.path}",
            view_func=door.view(route),
            methods=[route.method],
            provide_automatic_options=False,
        )
    app.add_url_rule("/v1/openapi.json", "openapi", lambda: _json(description()))
    app.add_url_rule("/v1/problems/<name>", "problems", _kind)
    for path, content, media_type in page.FILES:
        app.add_url_rule(path, f"page {path}", page.view(content, media_type))
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
    return app


class _Door:
    """Lets calls in, and writes each down."""

    def __init__(
        self,
        database: Database,
        operations: Sequence[object],
        audit: Audit,
        now: Callable[[], float],
    ) -> None:
        self._database = database
        self._operations = operations
        self._audit = audit
        self._now = now

    def view(self, route: Route) -> Callable[..., flask.Response]:
        operation = next(
            getattr(one, route.operation)
            for one in self._operations
            if hasattr(one, route.operation)
        )

        def view(**path: str) -> flask.Response:
            caller, status = _NOBODY, 500
            try:
                caller = self._caller()
                if caller.role not in route.roles:
                    raise Refusal(
                        problems.FORBIDDEN, f"{route.operation} is not for the role {caller.role}"
                    )
                call = _call(route, caller, path)
                response = _json(
                    bodies.adapter(route.reply).dump_python(operation(call), mode="json")
                )
                status = response.status_code
            except Exception as error:
                answer = answer_to(error)
                if answer is None:
                    log.exception("%s failed", route.operation)
                    answer = Answer(problems.UNEXPECTED, "an error that nobody foresaw")
                response = _problem(answer)
                status = response.status_code
            self._note(route, caller, path, status)
            return response

        return view

    def _caller(self) -> Caller:
        """Who asks. Raises Refusal."""
        given = _TOKEN.fullmatch(flask.request.headers.get("Authorization", ""))
        if given is None:
            raise Refusal(problems.UNAUTHENTICATED, "there is no token of that form")
        with self._database.read() as connection:
            found = who(connection, given[1], self._now())
        if found is None:
            raise Refusal(problems.UNAUTHENTICATED, "the token is not (or no more) valid")
        return found

    def _note(self, route: Route, caller: Caller, path: Mapping[str, str], status: int) -> None:
        entry = Entry(
            at=self._now(),
            who=f"{caller.role}:{caller.name}" if caller.role else "",
            source=_printable(flask.request.remote_addr or ""),
            request=f"{route.method} {route.path}",
            status=status,
            subject=_printable(" ".join(path.values())),
        )
        try:
            self._audit.note(entry, now=route.changes)
        except SQLAlchemyError as error:  # it is kept, and written when that is possible
            log.error("a call could not be written down: %s", error)


def _call(route: Route, caller: Caller, path: Mapping[str, str]) -> Call:
    """The request, checked. Raises Refusal."""
    for name, value in path.items():
        if re.fullmatch(PARAMETERS[name], value) is None:
            raise Refusal(problems.BAD_REQUEST, f"the path's {name} has a form that is not allowed")
    query = _query(route)
    data = b""
    if route.changes:
        if flask.request.headers.get("Content-Encoding", "identity") != "identity":
            raise Refusal(problems.BAD_REQUEST, "Content-Encoding is not known here")
        data = flask.request.get_data(cache=False)
        if len(data) > route.longest:
            raise Refusal(problems.TOO_LARGE, f"{len(data)} bytes, allowed are {route.longest}")
    body = None if route.body is None else bodies.read(route.body, data)
    return Call(route, caller, dict(path), query, body, data)


def _query(route: Route) -> dict[str, Any]:
    arguments = flask.request.args
    known = {query.name: query for query in route.query}
    for name, values in arguments.lists():
        if name not in known:
            raise Refusal(problems.BAD_REQUEST, f"the query's {_printable(name)} is not known")
        if len(values) > 1:
            raise Refusal(problems.BAD_REQUEST, f"the query has {name} twice")
    return {
        name: _value(query, arguments[name]) if name in arguments else query.default
        for name, query in known.items()
    }


def _value(query: Query, text: str) -> Any:
    if query.kind is bool:
        if text in {"1", "true", "0", "false"}:
            return text in {"1", "true"}
    elif query.kind is int:
        if re.fullmatch(r"[0-9]{1,16}", text) and query.least <= int(text) <= query.most:
            return int(text)
    elif not text or re.fullmatch(query.pattern, text):
        return text or query.default
    raise Refusal(problems.BAD_REQUEST, f"the query's {query.name} has a value that is not allowed")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


# -- answers -----------------------------------------------------------------------------------


_SAID: Mapping[type[Exception], Kind] = {
    Stale: problems.STALE,
    TooOld: problems.REQUIRES_UPGRADE,
    TooMany: problems.TOO_MANY,
}


def answer_to(error: Exception) -> Answer | None:
    """The problem that an error is; None where it is a mistake of ours."""
    if (kind := _SAID.get(type(error))) is not None:
        return Answer(kind, str(error))
    match error:
        case Refusal():
            return error.answer
        case HTTPException():
            return _of_flask(error)
        case NoSuchSession() | NoSuchProxy() | NoSuchScreen() | NoSuchVm():
            return Answer(problems.NOT_FOUND, f"{_printable(str(error))} is not known")
        case InUse():
            return Answer(problems.IN_USE, f"{error} has sessions")
        case NoProxy():
            return Answer(problems.NO_PROXY, str(error), retry_after=RETRY_AFTER)
        case SQLAlchemyError():
            log.error("the database: %s", error)
            return Answer(problems.DATABASE, "it does not answer", retry_after=RETRY_AFTER)
        case SessionRefused():
            return Answer(problems.INVALID, str(error), _problems_of(error.problem))
        case AgentMute():
            return Answer(problems.AGENT_MUTE, str(error), retry_after=RETRY_AFTER)
        case AgentRefused():
            return Answer(problems.AGENT_REFUSED, str(error), _problems_of(error.problem))
    return None


def _problems_of(given: Mapping[str, Any]) -> tuple[Problem, ...]:
    """What an agent finds wrong, as far as it has the form of problems."""
    found = given.get("problems", ())
    if not isinstance(found, list):
        return ()
    return tuple(
        Problem(*(str(one.get(name, "")) for name in ("path", "message", "hint")))
        for one in found
        if isinstance(one, dict)
    )


def _of_flask(error: HTTPException) -> Answer:
    kinds = {
        404: problems.UNKNOWN_PATH,
        405: problems.METHOD_NOT_ALLOWED,
        413: problems.TOO_LARGE,
    }
    kind = kinds.get(error.code or 500, problems.BAD_REQUEST)
    return Answer(kind, f"{flask.request.method} {_printable(flask.request.path)}")


def _http_error(error: HTTPException) -> flask.Response:
    return _problem(_of_flask(error))


def _unexpected(error: Exception) -> flask.Response:
    log.error("a request failed", exc_info=error)
    return _problem(Answer(problems.UNEXPECTED, "an error that nobody foresaw"))


def _kind(name: str) -> flask.Response:
    kind = problems.KINDS.get(name)
    if kind is None:
        return _problem(Answer(problems.NOT_FOUND, "there is no such problem"))
    return _json({"name": kind.name, "status": kind.status, "title": kind.title, "hint": kind.hint})


def _problem(answer: Answer) -> flask.Response:
    response = _json(problems.body(answer), answer.kind.status, problems.MEDIA_TYPE)
    if answer.retry_after:
        response.headers["Retry-After"] = str(answer.retry_after)
    if answer.kind is problems.UNAUTHENTICATED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _json(value: Any, status: int = 200, media_type: str = "application/json") -> flask.Response:
    content = json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    response = flask.Response(content, status, content_type=media_type)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
