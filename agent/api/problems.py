"""Everything that the endpoint answers instead of what was asked: one closed table (RFC 9457).

A problem's `type` is a path that this endpoint serves: `GET /v1/problems/stale-generation` says
what that is and what to do about it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.api.ports import MachineFailed, NoConsoleProxy
from agent.diagnostics.refusal import DiagnosticRefused
from agent.document.document import InvalidDocument
from agent.document.json import NotJson
from agent.engine import errors
from agent.engine.host import CheckFailed, HostFull, StepFailed
from agent.engine.model import Problem
from agent.monitor.health import NoSuchCheck

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """One type of problem: its name, its HTTP status, what it means and what to do next."""

    name: str
    status: int
    title: str
    hint: str
    retryable: bool = False

    @property
    def type(self) -> str:
        return f"/v1/problems/{self.name}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A problem that happened: its kind, this time's detail, and headers of the response."""

    kind: Kind
    detail: str
    problems: tuple[Problem, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """Raised by the endpoint's own functions to answer with a problem."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        problems: tuple[Problem, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.answer = Answer(kind, detail, problems, headers or {})


NOT_JSON = Kind(
    "not-json",
    400,
    "The body is not one unambiguous JSON value",
    "Send one JSON object in UTF-8: no name twice in an object, no NaN, at most 32 levels deep.",
)
BAD_REQUEST = Kind(
    "bad-request",
    400,
    "The request cannot be understood",
    "Compare it with /v1/openapi.json.",
)
UNKNOWN_PATH = Kind(
    "unknown-path", 404, "There is nothing at this path", "/v1/openapi.json lists every path."
)
NO_SUCH_REVISION = Kind(
    "no-such-revision",
    404,
    "That revision never was, or is no longer kept",
    "/v1/revisions lists those that are kept.",
)
NO_SUCH_BLOB = Kind(
    "no-such-blob",
    404,
    "No blob of that name has been uploaded",
    "PUT its content to this path; blobs that no kept revision names are removed.",
)
NO_SUCH_SESSION = Kind(
    "no-such-session",
    404,
    "There is no console session of that name (any more)",
    "/v1/console/sessions lists those that there are.",
)
NO_SUCH_UNIT = Kind(
    "no-such-unit",
    404,
    "That is not a unit of this VM's services",
    "/v1/services lists those that are.",
)
NOTHING_APPLIED = Kind(
    "nothing-applied", 404, "No document has been applied yet", "PUT one to /v1/document."
)
METHOD_NOT_ALLOWED = Kind(
    "method-not-allowed",
    405,
    "This path does not know that method",
    "The Allow header lists those that it knows.",
)
STALE_GENERATION = Kind(
    "stale-generation",
    409,
    "The document is older than one that has been seen",
    "Push the newest document. To go back on purpose, roll back, or give the old content a "
    "greater generation.",
)
GENERATION_CONFLICT = Kind(
    "generation-conflict",
    409,
    "Another document has already had this generation",
    "Two writers, or a change without a new generation: GET /v1/document, compare, and push with "
    "a greater generation.",
)
NOT_PROVISIONAL = Kind(
    "not-provisional",
    409,
    "The revision does not wait to be confirmed",
    "It was confirmed before, or its time ran out and it was undone: see /v1/revisions.",
)
AWAITING_CONFIRM = Kind(
    "awaiting-confirm",
    409,
    "A provisional revision has to be confirmed or rolled back first",
    "POST to its confirm path, or to /v1/rollback, then try again.",
)
NOT_WANTED = Kind(
    "not-wanted",
    409,
    "The document does not want this unit to run",
    "Push a document that has its service.",
)
PRECONDITION_FAILED = Kind(
    "precondition-failed",
    412,
    "If-Match names another document than the one that runs",
    "GET /v1/document again, make the change to that, and send its ETag.",
)
TOO_LARGE = Kind(
    "too-large",
    413,
    "The body is larger than allowed",
    "A document has at most 16 MiB, a blob 4 MiB; large things belong in blobs.",
)
UNSUPPORTED_MEDIA = Kind(
    "unsupported-media",
    415,
    "The body's form is not known here",
    "Send plain JSON without Content-Encoding; a patch is a merge patch (RFC 7396).",
)
REFUSED = Kind(
    "refused",
    422,
    "The document cannot be applied; nothing has been touched",
    "`problems` has everything that is wrong with it; correct that and push again.",
)
DID_NOT_HOLD = Kind(
    "did-not-hold",
    422,
    "The document was tried, did not hold, and was undone",
    "`problems` says which of its parts failed; the revision before it runs again.",
)
DIAGNOSTIC_REFUSED = Kind(
    "diagnostic-refused",
    422,
    "That cannot be tried; nothing was run",
    "`problems` says which part of the request it is, and what would be right.",
)
SESSION_REFUSED = Kind(
    "session-refused",
    422,
    "The console session cannot be had",
    "`problems`, or the detail, says why: its target has to lie in the document's networks.",
)
DIGEST_MISMATCH = Kind(
    "digest-mismatch",
    422,
    "The content is not what its name says",
    "The path ends in the SHA-256 of the body, in lower-case hexadecimal.",
)
PRECONDITION_REQUIRED = Kind(
    "precondition-required",
    428,
    "A patch has to say which document it changes",
    "GET /v1/document, and send its ETag in If-Match.",
)
HEADERS_TOO_LARGE = Kind(
    "headers-too-large", 431, "The request's header is larger than allowed", "Send fewer headers."
)
UNEXPECTED = Kind(
    "unexpected",
    500,
    "The agent made a mistake",
    "Its log has the reason: sysvmctl logs sysvm-agent. Please report it.",
)
ROLLED_BACK = Kind(
    "rolled-back",
    500,
    "The change was tried, did not hold, and was undone",
    "The revision before it runs again. `detail` has the cause; look at the unit that it names "
    "and try again.",
    retryable=True,
)
DEGRADED = Kind(
    "degraded",
    500,
    "Neither the new revision nor the old one holds",
    "Only established connections pass, and management. Look at /v1/status and the log, and push "
    "a document that works.",
)
UNREADABLE_STATE = Kind(
    "unreadable-state",
    500,
    "What is stored cannot be read",
    "It was left as it is. Look at the file that `detail` names; a new push replaces it.",
)
MACHINE_FAILED = Kind(
    "machine-failed",
    502,
    "The machine did not do what it was asked",
    "`detail` has what it said.",
    retryable=True,
)
NO_SUCH_CHECK = Kind(
    "no-such-check",
    404,
    "There is no health check of this name",
    "GET /v1/health has their names, once each has been run.",
)
BUSY = Kind(
    "busy",
    503,
    "Another change is under way",
    "Try again after as many seconds as Retry-After says.",
    retryable=True,
)
NO_SUCH_EVENT = Kind(
    "no-such-event",
    409,
    "These events are not there to be acknowledged",
    "Ask for events again, and acknowledge by the stream and the numbers that come.",
)
TOO_MANY_STREAMS = Kind(
    "too-many-streams",
    503,
    "As many long answers as this VM gives at once are under way",
    "Try again when one of them has ended, or after as many seconds as Retry-After says.",
    retryable=True,
)
FULL = Kind(
    "full",
    507,
    "There is no room to write",
    "Nothing was begun. Free some room on /var, and try again.",
    retryable=True,
)

KINDS: Mapping[str, Kind] = {
    kind.name: kind for kind in list(globals().values()) if isinstance(kind, Kind)
}


def answer_to(error: Exception) -> Answer | None:
    """How an error of the engine, the document or the machine is answered; None if unforeseen."""
    match error:
        case Refusal():
            return error.answer
        case InvalidDocument() if isinstance(error.__cause__, NotJson):
            return Answer(NOT_JSON, _first(error.problems), error.problems)
        case InvalidDocument():
            return Answer(REFUSED, count(error.problems), error.problems)
        case NotJson():
            return Answer(NOT_JSON, str(error), (error.problem,))
        case errors.Busy():
            wait = max(1, math.ceil(error.retry_after))
            return Answer(BUSY, str(error), headers={"Retry-After": str(wait)})
        case CheckFailed():
            found = (Problem(error.path, f"{error.what}: {error.reason}"),)
            return Answer(REFUSED, count(found), found)
        case HostFull():
            return Answer(FULL, str(error))
        case DiagnosticRefused():
            wrong = Problem(error.path, error.message, error.hint)
            return Answer(DIAGNOSTIC_REFUSED, str(wrong), (wrong,))
        case MachineFailed() | StepFailed():
            missing = isinstance(error, NoConsoleProxy)
            return Answer(NOT_WANTED if missing else MACHINE_FAILED, str(error))
        case NoSuchCheck():
            return Answer(NO_SUCH_CHECK, f"no check {str(error)[:80]!r} at this level")
        case errors.EngineError():
            kind = _ENGINE.get(type(error))
            return None if kind is None else Answer(kind, str(error))
    return None


_ENGINE: Mapping[type[errors.EngineError], Kind] = {
    errors.StaleGeneration: STALE_GENERATION,
    errors.GenerationConflict: GENERATION_CONFLICT,
    errors.PreconditionFailed: PRECONDITION_FAILED,
    errors.NoSuchRevision: NO_SUCH_REVISION,
    errors.NotProvisional: NOT_PROVISIONAL,
    errors.AwaitingConfirm: AWAITING_CONFIRM,
    errors.NothingApplied: NOTHING_APPLIED,
    errors.UnreadableState: UNREADABLE_STATE,
}


def count(problems: tuple[Problem, ...]) -> str:
    """A sentence for how many problems there are, with the first of them."""
    if len(problems) <= 1:
        return _first(problems)
    return f"{len(problems)} problems, the first: {problems[0]}"


def _first(problems: tuple[Problem, ...]) -> str:
    return str(problems[0]) if problems else ""


def body(answer: Answer) -> dict[str, object]:
    """The JSON object of a problem (RFC 9457), with our members `hint`, `retryable`, `problems`."""
    kind = answer.kind
    value: dict[str, object] = {
        "type": kind.type,
        "title": kind.title,
        "status": kind.status,
        "detail": answer.detail or kind.title,
        "hint": kind.hint,
        "retryable": kind.retryable,
    }
    if answer.problems:
        value["problems"] = [
            {"path": problem.path, "message": problem.message, "hint": problem.hint}
            for problem in answer.problems
        ]
    return value
