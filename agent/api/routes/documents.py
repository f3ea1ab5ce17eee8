"""Documents, the revisions that they became, and the blobs that they name."""

from agent.api import problems as p
from agent.api.answers import Blob, Changed, Planned, Revisions, RevisionWithDocument
from agent.api.routes.route import (
    FLAG,
    Body,
    Parameter,
    Reply,
    Route,
    get,
    integer,
    members,
    patch,
    post,
    put,
)

LONGEST_BLOB = 4 * 1024 * 1024  # bytes
LONGEST_WAIT = 3600  # seconds that a provisional revision may wait for its confirm

_DOCUMENT = {"$ref": "/v1/schema"}
_DRY_RUN = Parameter("dry_run", FLAG, "1: answer with the plan, and do nothing.")
_CONFIRM_WITHIN = Parameter(
    "confirm_within",
    {"type": "number", "minimum": 1, "maximum": LONGEST_WAIT},
    "Seconds: unless it is confirmed within them, the change is undone, even when the agent is "
    "dead.",
)
_IF_MATCH = Parameter(
    "If-Match",
    {"type": "string", "examples": ['"0123…"']},
    "The ETag of the document that the change was made for; 412 if another one runs.",
)
_IF_MATCH_NEEDED = Parameter(_IF_MATCH.name, _IF_MATCH.schema, _IF_MATCH.description, required=True)
_REVISION = Parameter("number", integer(0), "The revision's number.", required=True)
_SHA256 = Parameter(
    "sha256",
    {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "The content's SHA-256, in lower-case hexadecimal.",
    required=True,
)

_CHANGE_KINDS = (
    p.NOT_JSON, p.BAD_REQUEST, p.STALE_GENERATION, p.GENERATION_CONFLICT, p.AWAITING_CONFIRM,
    p.PRECONDITION_FAILED, p.TOO_LARGE, p.UNSUPPORTED_MEDIA, p.REFUSED, p.DID_NOT_HOLD,
    p.ROLLED_BACK, p.DEGRADED, p.UNREADABLE_STATE, p.BUSY, p.FULL,
)  # fmt: skip
_BACK_KINDS = (p.ROLLED_BACK, p.DEGRADED, p.UNREADABLE_STATE, p.BUSY, p.FULL)
_CHANGE_REPLIES = (
    Reply(200, "It runs; or, for a dry run, what would be done.", Changed | Planned),
    Reply(202, "It runs, and is undone unless it is confirmed.", Changed),
)

ROUTES: tuple[Route, ...] = (
    get(
        "/v1/document",
        "get_document",
        "The document that runs, in canonical form, with a stand-in for each secret; the "
        "ETag is the SHA-256 of what was pushed.",
        (Reply(200, "The document.", _DOCUMENT), Reply(304, "You have it already.")),
        p.NOTHING_APPLIED,
        p.UNREADABLE_STATE,
    ),
    put(
        "/v1/document",
        "put_document",
        "Become what this document says, or stay what it was.",
        (*_CHANGE_REPLIES, Reply(201, "It runs; it is the first one.", Changed)),
        *_CHANGE_KINDS,
        query=(_DRY_RUN, _CONFIRM_WITHIN),
        headers=(_IF_MATCH,),
        body=Body("application/json", _DOCUMENT, "The whole document."),
    ),
    patch(
        "/v1/document",
        "patch_document",
        "Change some of the document: a merge patch (RFC 7396), applied as a whole.",
        _CHANGE_REPLIES,
        *_CHANGE_KINDS,
        p.NOTHING_APPLIED,
        p.PRECONDITION_REQUIRED,
        query=(_DRY_RUN, _CONFIRM_WITHIN),
        headers=(_IF_MATCH_NEEDED,),
        body=Body(
            "application/merge-patch+json",
            {"type": "object"},
            "What changes; null removes a member. `generation` belongs in it.",
        ),
    ),
    put(
        "/v1/blobs/{sha256}",
        "put_blob",
        "Upload what a document names by its SHA-256, such as a guest's user data.",
        (Reply(200, "It was there.", Blob), Reply(201, "It is there now.", Blob)),
        p.BAD_REQUEST,
        p.TOO_LARGE,
        p.UNSUPPORTED_MEDIA,
        p.DIGEST_MISMATCH,
        p.FULL,
        path_parameters=(_SHA256,),
        body=Body("application/octet-stream", {}, "The content, at most 4 MiB."),
        longest=LONGEST_BLOB,
    ),
    get(
        "/v1/blobs/{sha256}",
        "get_blob",
        "A blob; HEAD says whether it is there.",
        Reply(200, "The content.", bytes),
        p.BAD_REQUEST,
        p.NO_SUCH_BLOB,
        path_parameters=(_SHA256,),
    ),
    get(
        "/v1/revisions",
        "get_revisions",
        "The revisions that are kept.",
        Revisions,
        p.UNREADABLE_STATE,
    ),
    get(
        "/v1/revisions/{number}",
        "get_revision",
        "A revision with its document, without the secrets.",
        Reply(200, "The revision.", RevisionWithDocument),
        p.NO_SUCH_REVISION,
        p.UNREADABLE_STATE,
        path_parameters=(_REVISION,),
    ),
    post(
        "/v1/revisions/{number}/confirm",
        "confirm",
        "Keep a provisional revision.",
        Reply(200, "It stays.", Changed),
        p.NO_SUCH_REVISION,
        p.NOT_PROVISIONAL,
        *_BACK_KINDS,
        path_parameters=(_REVISION,),
    ),
    post(
        "/v1/rollback",
        "roll_back",
        "Go back to an earlier revision; to the one before where none is named.",
        Reply(200, "It runs again.", Changed),
        p.NOT_JSON,
        p.BAD_REQUEST,
        p.NO_SUCH_REVISION,
        p.NOTHING_APPLIED,
        p.REFUSED,
        p.AWAITING_CONFIRM,
        p.DID_NOT_HOLD,
        *_BACK_KINDS,
        body=members("Which revision.", {"revision": integer(0)}, required=False),
    ),
)
